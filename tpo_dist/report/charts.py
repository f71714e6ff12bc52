"""The charts of a page: what is drawn of the metrics of one run or several."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, HoverTool, Span
from bokeh.plotting import figure

from tpo_dist.report.gather import Picture

_POINTS = 1000  # of a line; more cannot be told apart
_SMOOTH = 10
_COLOURS = ("#1f77b4", "#e8710a", "#2ca25f", "#c2379b", "#8c6bd1", "#a6761d", "#17a2b8", "#d62728")
_DASHES = ("solid", "dashed", "dotted")
_MOST_FAULTS = 200  # that are marked
_SMOOTHED = ("error", "reward")


@dataclass(frozen=True, slots=True)
class Chart:
    """Some metrics over the steps, in one frame."""

    title: str
    metrics: tuple[str, ...]
    says: str
    """What to read from it."""


CHARTS = (
    Chart("Learning curve", ("error", "reward"), "pale: each step; full: mean of 10 steps"),
    Chart("Target", ("target_distance", "target_kl"), "Σ|q − p_old| and KL(q | p_old) in nats"),
    Chart("No preference", ("zero_variance", "all_fail"), "share of groups with equal scores; without any reward"),
    Chart("Distribution over the group", ("effective_group_size", "p_max"), "effective size 1 / Σp²; largest p"),
    Chart(
        "Seconds of a step", ("step_seconds", "train_seconds", "wait_seconds"), "whole; training; waiting for groups"
    ),
    Chart("Seconds of all workers", ("sample_seconds", "score_seconds"), "sampling and scoring the groups of a step"),
    Chart("Staleness", ("staleness", "staleness_max"), "snapshots from sampling to training: mean and maximum"),
    Chart("Effective sample size", ("ratio_ess", "effective_sample_size"), "share of candidates that count, by ratios"),
    Chart("Gradient norm", ("grad_norm_first", "grad_norm_last"), "first and last epoch of each step"),
    Chart("Length of candidates", ("completion_length", "completion_length_max"), "tokens, mean and longest"),
    Chart("Cut off", ("cut_off",), "share of the candidates that reached the limit"),
)
"""Those are shown that some run has a metric for."""


def charts_of(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Each chart with data: title, says, metrics, keys (its legend) and item (for BokehJS)."""
    found = []
    for chart in (*CHARTS, *_evaluation_charts(pictures)):
        rows = [_rows(picture, chart) for picture in pictures]
        present = [name for name in chart.metrics if any(name in row for each in rows for row in each)]
        if present:
            item = json_item(_figure(chart, present, pictures, rows))
            keys = _keys(present, len(pictures))
            found.append({"title": chart.title, "says": chart.says, "item": item, "metrics": present, "keys": keys})
    return found


def update_of(pictures: Sequence[Picture], charts: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """New columns for charts that are shown, by chart and run."""
    known = {chart.title: chart for chart in (*CHARTS, *_evaluation_charts(pictures))}
    return [
        [_columns(_rows(picture, known[chart["title"]]), chart["metrics"]) for picture in pictures]
        for chart in charts
        if chart["title"] in known
    ]


def _evaluation_charts(pictures: Sequence[Picture]) -> tuple[Chart, ...]:
    names = sorted({name for picture in pictures for row in picture.evaluations for name in row} - {"step"})
    scored = tuple(name for name in names if "pass@" in name or name.endswith("/score"))
    says = "scores of snapshots on questions that nothing is trained on"
    return (Chart("Held-out questions", scored, says),) if scored else ()


def _rows(picture: Picture, chart: Chart) -> Sequence[Mapping[str, float]]:
    return picture.evaluations if chart.title == "Held-out questions" else picture.rows


def _figure(
    chart: Chart, metrics: Sequence[str], pictures: Sequence[Picture], rows: Sequence[Sequence[Mapping[str, float]]]
) -> Any:
    plot = figure(
        height=270, sizing_mode="stretch_width", x_axis_label="step", tools="pan,box_zoom,xwheel_zoom,reset",
        active_drag=None, active_scroll=None, toolbar_location="above", min_border=4, outline_line_color=None,
        background_fill_color=None, border_fill_color=None,
    )  # fmt: skip
    for run in range(len(pictures)):
        source = ColumnDataSource(data=_columns(rows[run], metrics), name=f"run{run}")
        for place, name in enumerate(metrics):
            colour, dash = _look(run, place, len(pictures))
            shown = f"{name} smoothed" if name in _SMOOTHED else name
            if shown != name:
                plot.line("step", name, source=source, line_alpha=0.3, line_color=colour, line_dash=dash)
            line = plot.line("step", shown, source=source, line_width=2, line_color=colour, line_dash=dash)
            tips = [("step", "@step"), (name, f"@{{{shown}}}{{0.0000}}")]
            plot.add_tools(HoverTool(renderers=[line], tooltips=tips))
    steps = sorted({fault.step for picture in pictures for fault in picture.faults if fault.step is not None})
    for step in steps[:_MOST_FAULTS]:
        plot.add_layout(
            Span(location=step, dimension="height", line_color="#d62728", line_alpha=0.5, line_dash="dotted")
        )
    plot.grid.grid_line_alpha = 0.25
    plot.axis.axis_label_text_font_style = "normal"
    plot.toolbar.logo = None
    return plot


def _look(run: int, place: int, runs: int) -> tuple[str, str]:
    """Colour and dashes of a line. Of one run, metrics differ by colour; of several, runs do, and metrics by dashes."""
    if runs == 1:
        return _COLOURS[place % len(_COLOURS)], "solid"
    return _COLOURS[run % len(_COLOURS)], _DASHES[place % len(_DASHES)]


def _keys(metrics: Sequence[str], runs: int) -> list[dict[str, str]]:
    """What each line of a chart is; the colours of several runs are those of the overview."""
    lines = ((name, *_look(0, place, runs)) for place, name in enumerate(metrics))
    return [
        {"name": name, "colour": colour if runs == 1 else "currentColor", "dash": dash} for name, colour, dash in lines
    ]


def _columns(rows: Sequence[Mapping[str, float]], metrics: Sequence[str]) -> dict[str, list[float]]:
    """Columns of a line, at most so many points: of more steps, means of neighbours. NaN where a step has no number."""
    width = max(1, math.ceil(len(rows) / _POINTS))
    parts = [rows[start : start + width] for start in range(0, len(rows), width)]
    columns = {"step": [part[-1]["step"] for part in parts]}
    for name in metrics:
        columns[name] = [_mean([row[name] for row in part if name in row]) for part in parts]
        if name in _SMOOTHED:
            smooth = columns[name]
            columns[f"{name} smoothed"] = [
                _mean([each for each in smooth[max(0, end - _SMOOTH) : end] if math.isfinite(each)])
                for end in range(1, len(smooth) + 1)
            ]
    return columns


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else math.nan
