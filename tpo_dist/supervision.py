"""What to do about a process that died, and about one that is silent: pure decisions over what is known and the time.

Nothing here restarts or kills anything, so every decision can be tested without a cluster.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

State = Literal["starting", "loading", "idle", "working", "retiring", "restarting"]
"""What a rollout worker does: come up, load its first weights, wait for a block, make one, hand in its last one, or be
replaced."""

WARN_AT = 0.8
"""Share of a deadline after which it is said what is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may die how often, and how long to wait before it is started again."""

    restarts: int
    """Restarts within the window, over all processes of the role."""
    window_seconds: float
    """Infinite: the whole run."""
    backoff_seconds: float
    """Pause before the second restart in a row; it doubles with each further one."""
    backoff_limit_seconds: float
    """Longest such pause."""
    quiet_seconds: float = 60.0
    """A process that lived this long ends its row: the next restart has no pause."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Start it again now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Decide again at this time."""

    until: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It died too often; the run ends with this reason."""

    reason: str


Decision = Restart | Wait | GiveUp


def decide(died_at: Sequence[float], limits: Limits, now: float, others_died_at: Sequence[float] = ()) -> Decision:
    """What to do about a process that is dead now, having died at these times (rising, one at least, the last counts).

    Deaths of the role's other processes count against its budget, but do not slow this one down: a node that takes
    four workers with it is no reason to wait for the fourth. A row of short lives uses up the budget whatever the
    window, so that a process that cannot start ends the run however long the pauses between its attempts are.
    """
    last = died_at[-1]
    row, pause = _row(died_at, limits)
    recent = [at for at in (*died_at, *others_died_at) if last - limits.window_seconds < at <= last]
    if len(recent) > limits.restarts:
        return GiveUp(f"{_deaths(len(recent), last - min(recent))}, and {_allowed(limits)}")
    if row > limits.restarts:
        return GiveUp(f"{_deaths(row, last - died_at[-row])}, one soon after the other, and {_allowed(limits)}")
    return Restart() if now >= last + pause else Wait(last + pause)


def _row(died_at: Sequence[float], limits: Limits) -> tuple[int, float]:
    """Deaths in a row up to the last one, each after a short life, and the pause that follows."""
    row, pause = 1, 0.0
    for before, after in pairwise(died_at):
        lived = after - before - pause
        row = 1 if lived >= limits.quiet_seconds else row + 1
        doubled = limits.backoff_seconds * 2.0 ** min(row - 2, 60)
        pause = 0.0 if row == 1 else min(doubled, limits.backoff_limit_seconds)
    return row, pause


def _deaths(number: int, seconds: float) -> str:
    return "it died" if number == 1 else f"it died {number} times within {seconds:.1f} s"


def _allowed(limits: Limits) -> str:
    within = "the whole run" if limits.window_seconds == float("inf") else f"{limits.window_seconds:g} s"
    return f"{limits.restarts} restart{'' if limits.restarts == 1 else 's'} in {within} are allowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A worker as it is seen from outside."""

    name: str
    state: State
    since: float
    """When it entered this state."""
    block: int | None = None
    deadline_seconds: float | None = None
    """How long it may stay in this state. None: as long as it likes, such as a worker that waits for a block."""
    key: str = ""
    """Configuration key of that deadline, for the message."""


@dataclass(frozen=True, slots=True)
class Warn:
    """It nears its deadline: say so, and dump its stacks."""

    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """It is past its deadline: kill it, and start another in its place."""

    reason: str


def watch(worker: Watched, now: float, before: float = float("-inf")) -> Warn | Kill | None:
    """What to do about a worker now, having looked at it before at that time: nothing, mostly.

    It is warned of once: by the first look after its deadline is nearly over.
    """
    if worker.deadline_seconds is None:
        return None
    held, limit = now - worker.since, f"{worker.deadline_seconds:g} s"
    doing = f"{worker.name} {_DOING[worker.state].format(block=_block(worker))} for {held:.1f} s"
    key = f" ({worker.key})" if worker.key else ""
    if held >= worker.deadline_seconds:
        return Kill(f"{doing}, longer than the {limit} it may{key}")
    warn_at = worker.since + WARN_AT * worker.deadline_seconds
    if before < warn_at <= now:
        return Warn(f"{doing}, and is killed after {limit}{key}")
    return None


_DOING: dict[State, str] = {
    "starting": "has been starting",
    "loading": "has been loading its weights",
    "idle": "has been waiting for a block",
    "working": "has been at work on {block}",
    "retiring": "has been finishing {block}",
    "restarting": "has been coming back",
}


def _block(worker: Watched) -> str:
    return "its last block" if worker.block is None else f"block {worker.block}"


FAILURE_STEPS = 20
"""Steps over whose groups the share of failed ones is taken."""


class FailureShare:
    """The share of failed groups among the latest ones: a task whose scorer fails everywhere teaches nothing."""

    def __init__(self, limit: float, groups: int) -> None:
        """`limit`: the largest share allowed. `groups`: over how many it is taken, at least half of them."""
        self._limit, self._groups = limit, groups
        self._seen: deque[tuple[int, int]] = deque([(0, 0)])

    def too_many(self, good: int, failed: int) -> float | None:
        """The share, where it is above the limit. `good` and `failed`: groups so far; good ones that are made again do
        not count down."""
        good = max(good, self._seen[-1][0])
        self._seen.append((good, failed))
        while len(self._seen) > 2 and good + failed - sum(self._seen[1]) >= self._groups:
            self._seen.popleft()
        first_good, first_failed = self._seen[0]
        lately, bad = good + failed - first_good - first_failed, failed - first_failed
        return bad / lately if 2 * lately >= self._groups and bad > self._limit * lately else None
