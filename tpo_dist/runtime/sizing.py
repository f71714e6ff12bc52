"""How many rollout workers a run wants: what the user said last, or what the learner's idle share asks for."""

import time
from dataclasses import dataclass, field
from typing import Literal

from tpo_dist.fleet_rule import next_size
from tpo_dist.metrics import Metrics


@dataclass(slots=True)
class Sizing:
    """The number of workers wanted; with `auto` it follows the learner's idle share."""

    wanted: int
    auto: bool
    floor: int
    ceiling: int
    _changed: float = field(default_factory=time.monotonic)
    _steps: int = 0
    _seconds: float = 0.0
    _learner_idle: float = 0.0
    _workers_idle: float = 0.0

    def wish(self, count: int | Literal["auto"]) -> None:
        """What the user asks for."""
        self.auto = count == "auto"
        if count != "auto":
            self.wanted = count
        self._forget()

    def hear(self, metrics: Metrics, seconds: float) -> None:
        """How idle everybody was during a step."""
        if "learner_idle_share" in metrics and "workers_idle_share" in metrics:
            self._steps += 1
            self._seconds += seconds
            self._learner_idle += seconds * metrics["learner_idle_share"].value
            self._workers_idle += seconds * metrics["workers_idle_share"].value

    @property
    def idle_shares(self) -> tuple[float, float] | None:
        """Of learner and workers, since the fleet last changed; None before the first step after it."""
        return (self._learner_idle / self._seconds, self._workers_idle / self._seconds) if self._seconds else None

    def size(self, *, complete: bool) -> int:
        """Workers that there should be now. `complete`: whether those wanted so far are all at work."""
        shares = self.idle_shares
        if not complete:
            self._forget()  # what is measured meanwhile says nothing of the fleet that is wanted
        elif self.auto and shares is not None:
            since = time.monotonic() - self._changed
            size = next_size(self.wanted, *shares, self.floor, self.ceiling, since, self._steps)
            if size != self.wanted:
                self.wanted = size
                self._forget()
        return self.wanted

    def _forget(self) -> None:
        self._changed, self._steps = time.monotonic(), 0
        self._seconds = self._learner_idle = self._workers_idle = 0.0
