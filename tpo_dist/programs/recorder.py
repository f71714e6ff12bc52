"""What a run writes while it runs: metrics line by line, TensorBoard events, a summary and the learning curve."""

import json
import math
import os
from pathlib import Path
from typing import Any, Literal

from tpo_dist.learner.checkpoint import list_checkpoints
from tpo_dist.metrics import Histogram, values
from tpo_dist.programs.plot import plot_learning_curve
from tpo_dist.programs.run import Run, StepReport

Status = Literal["running", "completed", "interrupted", "failed"]
LAST_STEPS = 20
"""`error` and `reward` of the summary are means over this many last steps."""


class Recorder:
    """Writes the records of one run; on a resumed run, those after its checkpoint are cut off first."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._path = run.folder / "metrics.jsonl"
        self.rows = _keep_until(self._path, run.first_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _Board(run) if run.config.log.tensorboard else None
        self.write_summary("running")

    def record(self, report: StepReport) -> dict[str, Any]:
        """Write one step to every sink; the row that was written."""
        numbers = {name: number for name, number in values(report.metrics).items() if math.isfinite(number)}
        row = {"step": report.step, **numbers, "step_seconds": report.seconds}
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            self._board.write(report)
        return row

    def finish(self, status: Status, reason: str | None = None) -> dict[str, Any]:
        """Close the sinks, draw the curve and write the summary; the summary."""
        self.close()
        if self._run.config.log.plot and self.rows:
            plot_learning_curve(self.rows, self._run.config.name, self._run.folder / "learning_curve.png")
        return self.write_summary(status, reason)

    def close(self) -> None:
        """Close the sinks and write nothing more."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write_summary(self, status: Status, reason: str | None = None) -> dict[str, Any]:
        """`summary.json`, replaced in one piece; its content."""
        last = self.rows[-LAST_STEPS:]
        checkpoints = list_checkpoints(self._run.checkpointer.folder)
        seconds = sum(row["step_seconds"] for row in self.rows)
        summary = {
            "run": str(self._run.folder),
            "status": status,
            "reason": reason,
            "step": self.rows[-1]["step"] if self.rows else 0,
            "steps": self._run.config.steps,
            "error": _mean(last, "error"),
            "reward": _mean(last, "reward"),
            "seconds": round(seconds, 3),
            "steps_per_second": round(len(self.rows) / seconds, 3) if seconds else None,
            "checkpoint": str(checkpoints[-1]) if checkpoints else None,
            "resumed_from_step": self._run.first_step or None,
        }
        temporary = self._run.folder / ".summary.json.partial"
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self._run.folder / "summary.json")
        return summary


class _Board:
    """TensorBoard events."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and not everyone wants it

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first_step + 1)

    def write(self, report: StepReport) -> None:
        for name, metric in report.metrics.items():
            self._writer.add_scalar(name, metric.value, report.step)
            if isinstance(metric, Histogram) and metric.observations:
                self._writer.add_histogram(name, metric.observations, report.step)
        self._writer.add_scalar("step_seconds", report.seconds, report.step)

    def close(self) -> None:
        self._writer.close()


def _keep_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Rows up to that step, the file cut back to them; a torn last line is dropped."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if row["step"] > step:
                break
            rows.append(row)
        temporary = path.with_name(".metrics.jsonl.partial")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        os.replace(temporary, path)
    return rows


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    numbers = [row[name] for row in rows if name in row]
    return sum(numbers) / len(numbers) if numbers else None
