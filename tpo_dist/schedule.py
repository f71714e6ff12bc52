"""What a run trained, in which order and with which weights: all that a replay needs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tpo_dist.blocks import Event
from tpo_dist.errors import UsageError
from tpo_dist.history import History
from tpo_dist.ledger import Ledger, reading

_RESTORE = "take it, or the whole run, from a copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledBlock:
    """A block of a step."""

    block: int
    version: int
    """The snapshot that sampled it."""
    failed_draws: tuple[int, ...]
    """Its draws whose groups failed; the step trained the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledSession:
    """A driver, of whose steps some stand."""

    first_step: int
    """The first of them; it trained all up to the next session's."""
    config: Mapping[str, Any]
    """Its resolved configuration, as JSON has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The steps that stand: what was rolled back is not among them."""

    block_size: int
    first_step: int
    steps: tuple[tuple[ScheduledBlock, ...], ...]
    """From `first_step` on; blocks in the order of training."""
    begun: tuple[ScheduledBlock, ...]
    """Those that the learner has taken for the step after them, which is not trained."""
    sessions: tuple[ScheduledSession, ...]
    """In the order of their steps, the begun one included."""
    digests: Mapping[int, str]
    """Of the weights of each version that was published."""


def schedule(ledger: Ledger) -> Schedule:
    """Read it. Raises UsageError where a step is known from a checkpoint only, as after a loss of power, and where
    the ledger contradicts itself."""
    standing, history = _Standing(), History()
    with reading(ledger.path):
        for row in ledger.replay(history):
            problem = _other_version(row.event, history)
            if problem is not None:
                raise UsageError(str(ledger.path), f"contradicts itself in row {row.seq} ({problem})", _RESTORE)
            standing.enter(row.event, history)
    steps, done = standing.steps, history.finished
    first = min(steps, default=done)
    missing = [step for step in range(first, done) if step not in steps]
    if missing:
        reason = f"does not have the blocks of step {missing[0]}: only a checkpoint knows that it was trained"
        raise UsageError(str(ledger.path), reason, "a run that lost some of its ledger cannot be replayed")
    return Schedule(
        block_size=ledger.block_size(),
        first_step=first,
        steps=tuple(steps[step] for step in range(first, done)),
        begun=standing.taken(done, history),
        sessions=standing.sessions(first, done),
        digests=standing.digests,
    )


class _Standing:
    """What stands of a run, row by row."""

    def __init__(self) -> None:
        self.steps: dict[int, tuple[ScheduledBlock, ...]] = {}
        self.digests: dict[int, str] = {}
        self._configs: list[Mapping[str, Any]] = []
        self._session: dict[int, int] = {}  # of each step
        self._failed: dict[int, tuple[int, ...]] = {}

    def enter(self, event: Event, history: History) -> None:
        """Take a row in, before the history does."""
        kind, block, step, version, _, detail = event
        if kind == "session":
            self._configs.append(json.loads(detail or "{}").get("config", {}))
        elif kind == "published" and version is not None:
            self.digests[version] = detail or ""
        elif kind == "ready" and block is not None:
            self._failed[block] = tuple(draw for draw, _, _ in json.loads(detail or "{}").get("failures", ()))
        elif kind == "trained" and step is not None:
            self.steps[step], self._session[step] = self.taken(step, history), len(self._configs) - 1
            for each in self.steps[step]:
                self._failed.pop(each.block, None)
        elif kind == "rolled_back" and step is not None:
            self.steps = {number: blocks for number, blocks in self.steps.items() if number < step}
            self.digests = {number: digest for number, digest in self.digests.items() if number <= step}

    def taken(self, step: int, history: History) -> tuple[ScheduledBlock, ...]:
        """The blocks that the learner has for a step that is not trained yet, in order."""
        return tuple(
            ScheduledBlock(block=block, version=entry.version, failed_draws=self._failed.get(block, ()))
            for block, entry in history.taken.get(step, {}).items()
        )

    def sessions(self, first: int, done: int) -> tuple[ScheduledSession, ...]:
        """Of the steps from the first on, and of the one after the last, which is the newest session's."""
        of = [*(self._session[step] for step in range(first, done)), len(self._configs) - 1]
        starts = [step for step in range(len(of)) if step == 0 or of[step] != of[step - 1]]
        return tuple(ScheduledSession(first_step=first + at, config=self._configs[of[at]]) for at in starts)


def _other_version(event: Event, history: History) -> str | None:
    """A block is handed in and taken under the version that it was given out with; how a row has it otherwise."""
    part = {"ready": history.in_flight, "taken": history.ready}.get(event.kind, {})
    entry = part.get(event.block) if event.block is not None else None
    if entry is None or entry.version == event.version:
        return None
    return f"block {event.block} is {event.kind} with version {event.version}, and was given out with {entry.version}"
