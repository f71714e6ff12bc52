"""A run as another process sees it: who trains it, what that one says, and how it ended."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo_dist.errors import UsageError
from tpo_dist.programs.control import Status, read_status
from tpo_dist.programs.folder import short_path
from tpo_dist.programs.lock import holder, process_name

SILENT_SECONDS = 10.0
"""A driver that has said nothing for so long hangs, or cannot write."""
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One look at a run."""

    folder: Path
    holder: str | None
    """The process that trains it; None: nobody does."""
    status: Status | None
    """What that process said last; None where it has said nothing yet, as one with --local never does."""
    age_seconds: float | None
    """Of the status."""
    summary: dict[str, Any]
    """`summary.json`; empty where there is none, as before the first step."""
    step: int
    """Steps finished, as far as the files tell."""

    @property
    def silent(self) -> bool:
        """The process is there, but its status is old."""
        return self.age_seconds is not None and self.age_seconds > SILENT_SECONDS

    @property
    def steps(self) -> int | None:
        """Steps of the whole run, where anything tells."""
        return self.status.steps if self.status is not None else self.summary.get("steps")

    @property
    def word(self) -> str:
        """starting, running, stopping or silent; completed, interrupted, failed, killed or not started."""
        if self.holder is None:
            said = self.summary.get("status")
            return "killed" if said == "running" else str(said or "not started")
        if self.silent:
            return "silent"
        return self.status.status if self.status is not None else "running"

    @property
    def go_on(self) -> str:
        """What to do to go on with a run that nobody trains."""
        if any((self.folder / "checkpoints").glob("step-*")):
            return f"go on with it: tpo-dist train --resume {short_path(self.folder)}"
        return "start its job again, for it has no checkpoint"

    @property
    def ending(self) -> str:
        """How a run that nobody trains came to its end, in a clause."""
        if not self.summary:
            return "nothing was trained"
        reason = self.summary.get("reason")
        because = f": {reason}" if reason else ""
        return f"{self.word} at step {self.step} of {self.steps}{because}"


def observe(folder: Path) -> Observed:
    """Look at a run. Raises UsageError where `status.json` of a running one, or `summary.json`, is damaged."""
    by = holder(folder)
    status = read_status(folder) if by is not None else None
    if status is not None and process_name(status.pid, status.host) != by:
        status = None  # of a process before this one
    summary = read_summary(folder)
    logged = _last_logged_step(folder / "metrics.jsonl")
    known = [status.step if status is not None else 0, logged if logged is not None else summary.get("step", 0)]
    return Observed(
        folder=folder,
        holder=by,
        status=status,
        age_seconds=None if status is None else max(0.0, time.time() - status.updated),
        summary=summary,
        step=max(known),
    )


def read_summary(folder: Path) -> dict[str, Any]:
    """`summary.json` of a run; empty where there is none. Raises UsageError where it is damaged."""
    path = folder / "summary.json"
    fix = "tpo-dist train --resume writes it anew"
    try:
        summary = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(str(path), f"cannot be read ({error})", fix) from None
    if not isinstance(summary, dict) or type(summary.get("step")) is not int:
        raise UsageError(str(path), "is not the summary of a run", fix)
    return summary


def _last_logged_step(path: Path) -> int | None:
    """Step of the last whole row of the metrics; None where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
        step = json.loads(lines[-1])["step"]
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None
