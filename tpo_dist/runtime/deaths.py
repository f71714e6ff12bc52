"""When a process that died is to be replaced, or that the run has to end: the budgets of a run at work."""

import time

from tpo_dist.config import FaultConfig
from tpo_dist.errors import RunFailed
from tpo_dist.supervision import GiveUp, Limits, Restart, decide


class Deaths:
    """Remembers who died when."""

    def __init__(self, limits: FaultConfig) -> None:
        """`limits`: budgets and pauses."""
        self._limits = limits
        self._died: dict[str, list[float]] = {}

    def due(self, place: str, name: str, restarts: int, why: str) -> float:
        """When the process that just died is to be replaced (monotonic seconds).

        `place`: rollout-N or learner; the first part is the role whose budget of restarts it uses. Raises RunFailed
        where that is used up.
        """
        now, role = time.monotonic(), place.split("-")[0]
        died = self._died.setdefault(place, [])
        died.append(now)
        others = [at for other, ats in self._died.items() if other != place and other.startswith(role) for at in ats]
        limits = Limits(
            restarts=restarts,
            window_seconds=self._limits.window_seconds,
            backoff_seconds=self._limits.backoff_seconds,
            backoff_limit_seconds=self._limits.backoff_limit_seconds,
        )
        decision = decide(died, limits, now, others)
        if isinstance(decision, GiveUp):
            raise RunFailed(f"{name} failed: {why}; {decision.reason}" if restarts else f"{name} failed: {why}")
        return now if isinstance(decision, Restart) else decision.until
