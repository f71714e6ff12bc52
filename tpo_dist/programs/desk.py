"""Where the user stands while a run goes on: its folder, in which other terminals read and write, and its view."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from tpo_dist.errors import UsageError
from tpo_dist.programs.control import Fault, FaultLog, forget_wish, read_status, read_wish, write_status
from tpo_dist.programs.observe import read_summary
from tpo_dist.programs.recorder import KILLED
from tpo_dist.programs.run import Run

_log = logging.getLogger(__name__)


class FolderDesk:
    """status.json and faults.jsonl for whoever looks, fleet.json for whoever wishes."""

    def __init__(self, run: Run, most: int, watch: Callable[[Mapping[str, Any]], None]) -> None:
        """`most`: rollout workers that the run can give work to. `watch` is told what status.json says. Call with the
        run's lock held."""
        self._run, self._most, self._watch = run, most, watch
        self._faults = FaultLog(run.folder)
        self._note_death()
        self._heard: str | None = None
        self._refusal: str | None = None
        forget_wish(run.folder)

    def _note_death(self) -> None:
        """Where the process before this one died, faults.jsonl says so."""
        try:
            before, summary = read_status(self._run.folder), read_summary(self._run.folder)
        except UsageError:
            return
        ended = summary.get("status") != "running" and summary.get("reason") != KILLED
        if before is None or before.status not in ("starting", "running", "stopping") or (summary and ended):
            return
        now = time.time()
        reason = f"process {before.pid} on {before.host} died without a word; the run goes on in another"
        died = {"role": "driver", "name": "driver", "what": "died", "reason": reason, "step": self._run.first_step}
        self.fault({**died, "at": now, "detected_seconds": round(max(0.0, now - before.updated), 3)})

    def stopping(self) -> bool:
        """Whether an early end is asked for."""
        return self._run.stop.is_set()

    def wish(self) -> int | Literal["auto"] | None:
        """A new number of rollout workers, once; None without a new one, or where it cannot be."""
        try:
            wish = read_wish(self._run.folder)
        except UsageError as error:
            _log.warning("%s", error)
            return None
        if wish is None or wish.id == self._heard:
            return None
        self._heard, self._refusal = wish.id, None
        if wish.rollouts != "auto" and wish.rollouts > self._most:
            self._refusal = (
                f"{self._most} workers at most have something to do, one for each block that is under way at a time; "
                f"ask for {self._most} or fewer, or start the run with a smaller rollout.block_size"
            )
            return None
        return wish.rollouts

    def tell(self, picture: Mapping[str, Any]) -> None:
        """Write status.json, and export it; a full disk is no reason to stop training."""
        config = self._run.config
        whole = {
            "run": self._run.folder.name,
            "steps": config.steps,
            "max_staleness": config.stream.max_staleness,
            "wish_id": self._heard,
            "last_wish_error": self._refusal,
            **picture,
        }
        self._watch(whole)
        self._dare(lambda: write_status(self._run.folder, whole))

    def fault(self, record: Mapping[str, Any]) -> None:
        """Append to faults.jsonl."""
        self._dare(lambda: self._faults.append(Fault.model_validate(record)))

    def say(self, text: str) -> None:
        """A line in the log."""
        _log.warning("%s", text)

    def _dare(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._run.folder, error.strerror)
