"""What a run writes while it runs: metrics line by line, its sinks, a summary and the learning curve."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TextIO

from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.learner.checkpoint import list_checkpoints, read_rows
from tpo_dist.metrics import Metrics, as_row
from tpo_dist.programs.control import Fault, FaultLog, read_faults
from tpo_dist.programs.folder import write_whole
from tpo_dist.programs.group_log import GroupLog
from tpo_dist.programs.legible import Reader
from tpo_dist.programs.plot import plot_learning_curve
from tpo_dist.programs.run import Run, StepReport, write_config
from tpo_dist.programs.sinks.several import Sinks

Status = Literal["running", "completed", "interrupted", "failed"]
LAST_STEPS = 20
"""`error` and `reward` of the summary are means over this many last steps."""
KILLED = "its process was killed"
"""Reason of a run whose process could say nothing any more."""
_log = logging.getLogger(__name__)


class Recorder:
    """Writes the records of one run.

    A resumed run keeps what it has on disk until its first new step is done: a start that fails changes nothing. A step
    that is in a checkpoint and was not reported, as a process died in between, has its row from the checkpoint.
    """

    def __init__(self, run: Run) -> None:
        """Raises UsageError where the metrics of a resumed run are damaged."""
        self._run = run
        self._path = run.folder / "metrics.jsonl"
        self._file: TextIO | None = None
        rows = self.rows
        self._last = rows[-1]["step"] if rows else 0
        self._groups = GroupLog(run.folder, Reader(run.config), run.config.log.groups_mb * 10**6)
        self._sinks: Sinks | None = None
        if not run.resumed:
            self._begin()

    @property
    def recorded(self) -> int:
        """The last step that has its row."""
        return self._last

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every step that counts, from the file: a long run's are not held in memory."""
        return _rows_until(self._path, sys.maxsize if self._file is not None else self._run.first_step)

    def _begin(self) -> TextIO:
        """From here on the folder is that of this process: what lies after the checkpoint is cut off."""
        write_config(self._run.folder, self._run.config)
        write_whole(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = self._path.open("a", encoding="utf-8")
        self._groups.go_back(self._run.first_step)
        self._sinks = Sinks(self._run, self._run.first_step)
        self.write_summary("running")
        return self._file

    def record(self, report: StepReport) -> dict[str, Any]:
        """Write one step to every sink; the row that was written. Raises RunFailed where the disk does not take it."""
        try:
            return self._record(report)
        except OSError as error:
            reason = f"{self._run.folder} cannot be written ({error.strerror or error})"
            raise RunFailed(f"{reason}; make room on that disk, and go on with --resume") from error

    def _record(self, report: StepReport) -> dict[str, Any]:
        file = self._file or self._begin()
        if report.step <= self._last:
            file = self._go_back(report.step - 1)
        self._catch_up(file, report.step - 1)
        row = as_row(report.step, report.metrics, report.seconds)
        self._write(file, row, report.metrics)
        self._groups.write(report.step, report.groups)
        return row

    def _write(self, file: TextIO, row: Mapping[str, float], metrics: Metrics) -> None:
        self._last = int(row["step"])
        file.write(json.dumps(row) + "\n")
        file.flush()
        if self._sinks is not None:
            self._sinks.write(row, metrics)

    def _catch_up(self, file: TextIO, step: int) -> None:
        """Rows up to that step that were never reported, from the checkpoints; a line in faults.jsonl for others."""
        if step <= self._last:
            return
        kept = [row for path in list_checkpoints(self._run.checkpointer.folder) for row in read_rows(path)]
        known = {row["step"]: row for row in kept if _is_row(row)}
        missing = [number for number in range(self._last + 1, step + 1) if number not in known]
        for number in range(self._last + 1, step + 1):
            if number in known:
                self._write(file, known[number], {})
        self._last = step
        if missing:
            self._tell_missing(missing)

    def _tell_missing(self, steps: list[int]) -> None:
        span = f"steps {steps[0]} to {steps[-1]} were" if len(steps) > 1 else f"step {steps[0]} was"
        reason = f"{span} trained, and the metrics went with the process that had them"
        _log.warning("%s", reason)
        fault = Fault(
            at=time.time(), role="learner", name="learner", what="metrics lost", reason=reason, step=steps[-1]
        )
        with suppress(OSError):  # a full disk takes no notes
            FaultLog(self._run.folder).append(fault)

    def _go_back(self, step: int) -> TextIO:
        """The learner has begun again at a checkpoint: what came after it did not happen."""
        assert self._file is not None
        self._file.close()
        write_whole(self._path, "".join(json.dumps(row) + "\n" for row in _rows_until(self._path, step)))
        self._file = self._path.open("a", encoding="utf-8")
        self._groups.go_back(step)
        if self._sinks is not None:
            self._sinks.go_back(step)
        self._last = step
        return self._file

    def finish(self, status: Status, reason: str | None = None) -> dict[str, Any]:
        """Close the sinks, draw the curve and write the summary; the summary. A full disk takes none of them."""
        self.close(status)
        if self._file is None:
            return self._summary(status, reason)
        rows = self.rows
        if self._run.config.log.plot and rows:
            self._plot(rows)
        try:
            return self.write_summary(status, reason)
        except OSError as error:
            _log.warning("summary.json cannot be written (%s)", error.strerror)
            return self._summary(status, reason)

    def _plot(self, rows: list[dict[str, Any]]) -> None:
        faults, path = [f.step for f in self._faults() if f.step is not None], self._run.folder / "learning_curve.png"
        try:
            plot_learning_curve(rows, self._run.config.name, path, faults)
        except OSError as error:
            path.unlink(missing_ok=True)  # what there is of it
            _log.warning("%s cannot be drawn (%s)", path.name, error.strerror)

    def _faults(self) -> list[Fault]:
        try:
            return read_faults(self._run.folder)
        except UsageError as error:
            _log.warning("%s", error)
            return []

    def close(self, status: Status = "failed") -> None:
        """Close the sinks. Where nothing was recorded, all is left as it was, but for the word that the run goes on."""
        if self._file is None:
            _correct_running(self._run.folder / "summary.json")
            return
        with suppress(OSError):  # a full disk, of which `record` has told
            if not self._file.closed:
                self._catch_up(self._file, self.step)
        with suppress(OSError):
            self._file.close()
        self._groups.close()
        if self._sinks is not None:
            with suppress(OSError):
                self._sinks.close(status)

    def write_summary(self, status: Status, reason: str | None = None) -> dict[str, Any]:
        """`summary.json`, replaced in one piece; its content."""
        summary = self._summary(status, reason)
        write_whole(self._run.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary

    @property
    def step(self) -> int:
        """Steps done: those recorded, or more where the learner died between its checkpoint and its report."""
        saved = list_checkpoints(self._run.checkpointer.folder)
        return max(self._last, int(saved[-1].name.rpartition("-")[2]) if saved else 0)

    def _summary(self, status: Status, reason: str | None) -> dict[str, Any]:
        rows = self.rows
        last = rows[-LAST_STEPS:]
        checkpoints = list_checkpoints(self._run.checkpointer.folder)
        seconds = sum(row["step_seconds"] for row in rows)
        return {
            "run": str(self._run.folder),
            "status": status,
            "reason": reason,
            "step": self.step,
            "steps": self._run.config.steps,
            "error": _mean(last, "error"),
            "reward": _mean(last, "reward"),
            "groups_failed": int(sum(row.get("groups_failed", 0.0) for row in rows)),
            "seconds": round(seconds, 3),
            "steps_per_second": round(len(rows) / seconds, 3) if seconds else None,
            "checkpoint": str(checkpoints[-1]) if checkpoints else None,
            "resumed_from_step": self._run.first_step or None,
            "sink_failures": {} if self._sinks is None else dict(self._sinks.failures),
        }


def _rows_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Rows up to that step; a torn last line is dropped. Raises UsageError for any other line that is no row."""
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is None and number == len(lines) and not line.endswith("}"):
            break
        if row is None:
            raise UsageError(f"{path}, line {number}", "is not the row of a step", "remove that line")
        if row["step"] > step:
            break
        rows.append(row)
    return rows


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if _is_row(row) else None


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and type(row.get("step")) is int and isinstance(row.get("step_seconds"), int | float)


def _correct_running(path: Path) -> None:
    """A summary that says "running" while nobody does comes from a process that died without a word."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(summary, dict) and summary.get("status") == "running":
        summary |= {"status": "failed", "reason": KILLED}
        write_whole(path, json.dumps(summary, indent=2) + "\n")


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    numbers = [row[name] for row in rows if name in row]
    return sum(numbers) / len(numbers) if numbers else None
