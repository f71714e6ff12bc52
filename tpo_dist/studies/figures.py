"""Learning curves with bands of one standard error, and sweeps, as the paper draws them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tpo_dist.studies.definition import Figure, Setting, Study
from tpo_dist.studies.runs import RunFile
from tpo_dist.studies.tables import Estimate, mean_curve

_COLOURS = {
    "tpo": "#1f77b4",
    "tpo_token": "#1f77b4",
    "grpo": "#ff7f0e",
    "grpo_token": "#ff7f0e",
    "grpo_no_kl": "#8c564b",
    "ppo": "#2ca02c",
    "dg": "#d62728",
    "reinforce": "#636363",
    "pg": "#636363",
    "ce": "#000000",
    "group_pg": "#9467bd",
    "tpo_no_anchor": "#17becf",
    "grpo_masked": "#e377c2",
    "gspo": "#e377c2",
}
_OTHERS = ("#1b9e77", "#7570b3", "#17becf", "#e7298a", "#66a61e", "#e6ab02", "#666666", "#000000")
"""For what has no colour of its own, in the order of the lines."""
_AXES = {
    "mechanism_surplus_bin3": "surplus over one-vs-rest, c > 3/4",
    "concentration": "wrong-class concentration c",
    "grad_norm_first": "gradient norm, first epoch",
    "all_fail": "share of all-fail groups",
    "signal_on_winners": "|signal| on winners",
    "signal_on_losers": "|signal| on losers",
    "misalignment": "misalignment, 1 - cos",
    "target_distance": "sum |q - p|",
}
"""What the vertical axis of a curve says, where the metric's name would not."""
_LEAST = 1e-4  # what a logarithmic axis shows of an error that is exactly 0
_ALWAYS_LOG, _LEAST_NORM = ("grad_norm_first",), 1e-6  # over many powers of ten
_POINTS = 400  # curves are averaged over windows to about so many points
_POINTS_PER_TEN = 40  # and so many for each power of ten of steps, where their axis is logarithmic


def draw(study: Study, figure: Figure, files: Sequence[RunFile], found: Sequence[Estimate], path: Path) -> bool:
    """Draw one figure of a study as a PNG; False where nothing is there to draw yet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import; most commands draw nothing
    from matplotlib.figure import Figure as Canvas

    have = [setting for setting in study.settings if any(f.setting is setting and f.finished for f in files)]
    if not have:
        return False
    panels = list(dict.fromkeys(_key(setting, figure.panels) for setting in have))
    curves = figure.curves if figure.kind == "curves" else ("",)
    per_row, rows = min(len(panels), 4), len(curves) * -(-len(panels) // 4)
    if len(panels) == 1:
        per_row, rows = min(len(curves), 3), -(-len(curves) // 3)
    canvas = Canvas(figsize=(max(4.6, 3.2 * per_row), 2.7 * rows + 0.7), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots(
        rows, per_row, squeeze=False, sharex=figure.kind == "curves", sharey=len(curves) == 1
    ).reshape(-1)
    for axis in axes[len(curves) * len(panels) :]:
        axis.set_visible(False)
    lines: dict[str, Any] = {}
    for index, (curve, panel) in enumerate((curve, panel) for curve in curves for panel in panels):
        axis = axes[index]
        settings = [setting for setting in have if _key(setting, figure.panels) == panel]
        if figure.kind == "curves":
            _curves(axis, settings, figure, curve, files, lines)
        else:
            _sweep(axis, settings, figure, found, study, lines)
        axis.set_title(panel, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    if "" not in lines:
        canvas.legend(
            lines.values(),
            lines.keys(),
            loc="outside upper center",
            ncols=min(len(lines), 6, int(canvas.get_figwidth() / 1.4)),
            frameon=False,
        )
    canvas.savefig(path, dpi=90 if len(panels) <= 8 else 55)
    return True


def _key(setting: Setting, names: Sequence[str]) -> str:
    shown = ("" if name == "method" else f"{name} " for name in names)
    return ", ".join(
        f"{label}{setting.labels[n]}" for label, n in zip(shown, names, strict=True) if n in setting.labels
    )


def _name(setting: Setting, names: Sequence[str]) -> str:
    return " ".join(str(setting.labels[name]) for name in names if name in setting.labels)


def _style(name: str, lines: Mapping[str, Any]) -> Any:
    """A method's own colour for its first line, others for what it has beside."""
    method = name.split(" ")[0]
    first = not any(other.split(" ")[0] == method for other in lines)
    return _COLOURS[method] if first and method in _COLOURS else _OTHERS[len(lines) % len(_OTHERS)]


def _curves(
    axis: Any, settings: Sequence[Setting], figure: Figure, curve: str, files: Sequence[RunFile], lines: dict[str, Any]
) -> None:
    log, least = figure.log or curve in _ALWAYS_LOG, _LEAST_NORM if curve in _ALWAYS_LOG else _LEAST
    for setting in settings:
        runs = [f.read() for f in files if f.setting is setting and f.finished]
        runs = [run for run in runs if curve in run.columns]
        if not runs:
            continue
        name = _name(setting, figure.lines)
        mean = _thinned(mean_curve(runs, curve), figure.x_log)
        step, value, error = (mean[c].to_numpy() for c in ("step", curve, "standard_error"))
        shown = np.maximum(value, least) if log else value
        colour = lines[name].get_color() if name in lines else _style(name, lines)
        (line,) = axis.plot(step, shown, color=colour, linewidth=1.4)
        lines.setdefault(name, line)
        low = np.maximum(value - error, least) if log else value - error
        axis.fill_between(step, low, shown + error, color=colour, alpha=0.18, linewidth=0)
    axis.set(xlabel="step", ylabel=_AXES.get(curve, curve.replace("_", " ")))
    if log:
        axis.set_yscale("log")
    if figure.x_log:
        axis.set_xscale("log")


def _thinned(curve: pl.DataFrame, log: bool) -> pl.DataFrame:
    """Means over windows of equal width in the picture, so that a long curve stays readable and the file small."""
    window = -(-len(curve) // _POINTS)
    if not log and window == 1:
        return curve
    linear = pl.int_range(pl.len()) // window
    key = (pl.col("step").log(10) * _POINTS_PER_TEN).floor() if log else linear
    return curve.fill_nan(None).group_by(key.alias("window"), maintain_order=True).mean().drop("window")


def _sweep(
    axis: Any,
    settings: Sequence[Setting],
    figure: Figure,
    found: Sequence[Estimate],
    study: Study,
    lines: dict[str, Any],
) -> None:
    reported = study.reported[0]
    for name in dict.fromkeys(_name(setting, figure.lines) for setting in settings):
        points = [
            one
            for one in found
            if one.reported is reported
            and any(one.setting is setting for setting in settings)
            and _name(one.setting, figure.lines) == name
            and figure.x in one.setting.labels
        ]
        if not points:
            continue
        x = [str(one.setting.labels[figure.x]) for one in points]
        colour = lines[name].get_color() if name in lines else _style(name, lines)
        bars = axis.errorbar(
            x, [p.mean for p in points], [np.nan_to_num(p.standard_error) for p in points], color=colour, marker="o"
        )
        lines.setdefault(name, bars.lines[0])
        held = [(place, one.paper) for place, one in zip(x, points, strict=True) if one.paper is not None]
        if held:
            (theirs,) = axis.plot(*zip(*held, strict=True), color=colour, linestyle=":", marker="x")
            lines.setdefault(f"{name}, paper", theirs)
    axis.set(xlabel=figure.x.replace("_", " "), ylabel=f"{reported.name}, {reported.unit}".strip(", "))
    if figure.log:
        axis.set_yscale("log")
