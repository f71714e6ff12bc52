"""From finished runs to tidy results and to the table with the paper's figures beside ours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tpo_dist.studies.definition import Reported, Setting, Study
from tpo_dist.studies.runs import RunFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A reported number of one setting over its seeds."""

    setting: Setting
    reported: Reported
    mean: float
    """Infinite where a threshold was never reached."""
    standard_error: float
    """NaN with one seed."""
    seeds: int
    reaching: int
    """Seeds with a finite number: of a final value all, of steps to a threshold those that got there."""

    @property
    def paper(self) -> float | None:
        """The paper's figure, if it gives one."""
        return self.setting.paper.get(self.reported.name)

    @property
    def deviation(self) -> float | None:
        """Our mean less the paper's figure, in our standard errors; None where that says nothing."""
        if self.paper is None or not math.isfinite(self.mean) or not math.isfinite(self.paper):
            return None
        return (self.mean - self.paper) / self.standard_error if self.standard_error > 0 else None

    def __str__(self) -> str:
        spread = f" ± {_short(self.standard_error)}" if math.isfinite(self.standard_error) else ""
        some = f", {self.reaching} of {self.seeds} seeds" if 0 < self.reaching < self.seeds else ""
        held = "" if self.paper is None else f" (paper {_short(self.paper)})"
        return f"{_short(self.mean)}{spread}{some}{held}"


def _short(number: float) -> str:
    if not math.isfinite(number):
        return "never" if number > 0 else "–"
    if number == 0 or abs(number) >= 100:
        return f"{number:.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2g}" if abs(number) < 1 else f"{number:.2f}"


def measure(curves: pl.DataFrame, reported: Reported) -> float:
    """The number of one run. NaN where the run has no such curve."""
    if reported.curve not in curves.columns:
        return math.nan
    return reported.scale * _reduce(
        curves["step"].to_numpy(), curves[reported.curve].cast(pl.Float64).to_numpy(), reported
    )


def _reduce(steps: NDArray[Any], values: NDArray[Any], reported: Reported) -> float:
    below = np.flatnonzero(values < reported.threshold)
    final = float(np.nanmean(values[-reported.last :])) if not np.isnan(values[-reported.last :]).all() else math.nan
    if reported.kind == "at":
        there = values[steps == reported.step]
        return float(there[0]) if len(there) else math.nan
    if reported.kind == "final":
        return final
    if reported.kind == "reached":
        return float(final < reported.threshold)
    if len(below) == 0:
        return math.inf if reported.kind == "steps_to" else math.nan
    return float(steps[below[0]]) if reported.kind == "steps_to" else float(values[below[0] :].max())


def results(study: Study, files: Sequence[RunFile]) -> pl.DataFrame:
    """Tidy: a row for each finished run and reported number."""
    rows = []
    for file in files:
        if file.finished:
            curves = file.read()
            for reported in study.reported:
                value = measure(curves, reported)
                row = {"study": study.name, **_texts(file.setting), "seed": file.seed, "steps": file.setting.steps}
                rows.append({**row, "reported": reported.name, "unit": reported.unit, "value": value})
    return pl.DataFrame(rows)


def _texts(setting: Setting) -> dict[str, str]:
    return {name: str(value) for name, value in setting.labels.items()}


def estimates(study: Study, files: Sequence[RunFile]) -> list[Estimate]:
    """Mean and standard error over the finished seeds of every setting.

    The steps to a threshold are those of the mean curve, as in the paper: the first step at which the mean over seeds
    is under it. Their standard error is that of the seeds' own numbers, where all reach it. Where fewer than all seeds
    have a number, the table says how many.
    """
    found = []
    for setting in study.settings:
        runs = [file.read() for file in files if file.setting is setting and file.finished]
        for reported in study.reported if runs else ():
            numbers = np.array([measure(run, reported) for run in runs])
            if np.isnan(numbers).all():
                continue
            numbers = numbers[~np.isnan(numbers)]
            finite = numbers[np.isfinite(numbers)]
            mean = float(finite.mean()) if len(finite) else math.inf
            if reported.kind == "steps_to":
                mean = measure(mean_curve([r for r in runs if reported.curve in r.columns], reported.curve), reported)
            spread = float(finite.std(ddof=1)) / math.sqrt(len(finite)) if len(finite) > 1 else math.nan
            if len(finite) < len(numbers) or not math.isfinite(mean):
                spread = math.nan
            found.append(
                Estimate(
                    setting=setting,
                    reported=reported,
                    mean=mean,
                    standard_error=spread,
                    seeds=len(runs),
                    reaching=len(finite),
                )
            )
    return found


def mean_curve(runs: Sequence[pl.DataFrame], name: str) -> pl.DataFrame:
    """`step`, the mean and `standard_error` of one metric, at each step over the runs where it is a number."""
    stacked = np.stack([run[name].cast(pl.Float64).to_numpy() for run in runs])
    have = ~np.isnan(stacked)
    count = have.sum(axis=0)
    mean = np.where(have, stacked, 0.0).sum(axis=0) / np.where(count > 0, count, np.nan)
    squares = np.where(have, stacked - mean, 0.0) ** 2
    error = np.sqrt(squares.sum(axis=0) / np.maximum(count - 1, 1) / np.maximum(count, 1))
    return pl.DataFrame({"step": runs[0]["step"], name: mean, "standard_error": error})


def estimates_frame(study: Study, found: Sequence[Estimate]) -> pl.DataFrame:
    """Tidy: a row for each setting and reported number."""
    return pl.DataFrame(
        [
            {
                "study": study.name,
                **_texts(one.setting),
                "steps": one.setting.steps,
                "reported": one.reported.name,
                "unit": one.reported.unit,
                "mean": one.mean,
                "standard_error": one.standard_error,
                "seeds": one.seeds,
                "seeds_reaching": one.reaching,
                "paper": one.paper,
                "standard_errors_from_paper": one.deviation,
            }
            for one in found
        ]
    )


def markdown(study: Study, found: Sequence[Estimate]) -> str:
    """One table for each reported number, rows and columns as the study asks; `ours ± s.e. (paper …)`."""
    parts = []
    for reported in study.reported:
        cells = [one for one in found if one.reported is reported]
        if cells:
            unit = f", {reported.unit}" if reported.unit else ""
            parts.append(f"**{reported.name}{unit}**\n\n{_grid(study, cells)}")
    return "\n\n".join(parts) + "\n"


def _grid(study: Study, cells: Sequence[Estimate]) -> str:
    def key(one: Estimate, names: Sequence[str]) -> str:
        return " ".join(str(one.setting.labels[n]) for n in names if n in one.setting.labels)

    names = list(dict.fromkeys(name for one in cells for name in one.setting.labels))
    others = [name for name in names if name not in study.rows]
    rows = list(dict.fromkeys(key(one, study.rows) for one in cells))
    columns = list(dict.fromkeys(key(one, others) for one in cells))
    at = {(key(one, study.rows), key(one, others)): one for one in cells}
    counts = sorted({one.seeds for one in cells})
    head = [" ".join(study.rows), *(column or "value" for column in columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        texts = [str(at[row, column]) if (row, column) in at else "" for column in columns]
        lines.append("| " + " | ".join([row, *texts]) + " |")
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        "\n".join(lines) + f"\n\nSeeds: {seeds}; ± one standard error over seeds. Columns: {' '.join(others) or '-'}."
    )
