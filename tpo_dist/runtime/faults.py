"""The faults of a run: when each was seen, and when it was over."""

import time
from collections.abc import Callable, Mapping
from typing import Any


class Faults:
    """Open faults by the place they struck, and how many there were of each kind."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        """`tell` gets the record of each fault once it is over."""
        self._tell = tell
        self.open: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, int] = {}
        self._begun: dict[str, float] = {}  # the clock on the wall may be set meanwhile

    def begin(self, place: str, name: str, what: str, why: str, step: int) -> None:
        """A process is lost; where its place has a fault already, that goes on. `what`: died, hung, refused."""
        role = place.split("-")[0]
        kind = f"{role} {what}"
        self.counts[kind] = self.counts.get(kind, 0) + 1
        seen = {"at": time.time(), "role": role, "name": name, "what": what, "reason": why, "step": step}
        if place not in self.open:
            self.open[place], self._begun[place] = seen, time.monotonic()

    def over(self, place: str) -> None:
        """The place is filled again; nothing where there was no fault."""
        record = self.open.pop(place, None)
        if record is not None:
            self._tell({**record, "recovered_seconds": round(time.monotonic() - self._begun[place], 3)})

    def leave(self, place: str) -> None:
        """The place is given up before it was filled again; nothing where there was no fault."""
        record = self.open.pop(place, None)
        if record is not None:
            self._tell(record)

    def close(self) -> None:
        """The run ends: what is still open was not over before it."""
        for record in self.open.values():
            self._tell(record)
        self.open.clear()
