"""The learning curve of a run as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_learning_curve(rows: Sequence[Mapping[str, Any]], title: str, path: Path, faults: Sequence[int] = ()) -> None:
    """Error by step on top; the target diagnostics, where there are any, below. `faults`: steps at which something
    broke, as thin lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import; drawing happens once, at the end
    from matplotlib.figure import Figure

    steps = [row["step"] for row in rows]
    has_target = all("target_distance" in row for row in rows)
    figure = Figure(figsize=(7.0, 6.0 if has_target else 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 if has_target else 1, 1, sharex=True, squeeze=False)[:, 0]
    error = [row["error"] for row in rows]
    axes[0].plot(steps, error, color="tab:blue", alpha=0.35, linewidth=1, label="each step")
    axes[0].plot(steps, _smoothed(error, 10), color="tab:blue", linewidth=2, label="mean of 10 steps")
    for number, step in enumerate(sorted(set(faults))):
        for axis in axes:
            label = "faults" if number == 0 and axis is axes[0] else None
            axis.axvline(step, color="tab:red", alpha=0.4, linewidth=0.8, linestyle=":", label=label)
    axes[0].set(ylabel="error", ylim=(-0.02, 1.02), title=title)
    axes[0].legend(frameon=False)
    if has_target:
        axes[1].plot(steps, [row["target_distance"] for row in rows], color="tab:orange", label="Σ|q − p_old|")
        axes[1].plot(steps, [row["zero_variance"] for row in rows], color="tab:gray", label="zero-variance groups")
        axes[1].set(ylabel="share or distance", ylim=(-0.02, None))
        axes[1].legend(frameon=False)
    axes[-1].set_xlabel("step")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.savefig(path, dpi=130)


def _smoothed(series: Sequence[float], width: int) -> list[float]:
    """Mean over the last `width` values at each place."""
    sums, total = [], 0.0
    for index, number in enumerate(series):
        total += number - (series[index - width] if index >= width else 0.0)
        sums.append(total / min(index + 1, width))
    return sums
