"""What is said about blocks: leases, summaries, what a step took, what is settled, and the events of their lives.

A *block* is a fixed number of consecutive prompt draws: block b holds the draws from b * size on.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right and the duty of one worker to deliver one block."""

    block: int
    """Number of the block, counted from 0 over the whole run."""
    first_draw: int
    draws: int
    worker: str
    attempt: int
    """How often the block has been given out, this time included."""
    version: int
    """Snapshot to sample it from."""
    digest: str
    """Checksum of that snapshot."""

    @property
    def draw_ids(self) -> NDArray[np.int64]:
        """The prompt draws of the block."""
        return np.arange(self.first_draw, self.first_draw + self.draws, dtype=np.int64)


def owner(holder: str) -> str:
    """The worker that holds a lease under this name: one that has several under way names each `WORKER/NUMBER`."""
    return holder.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A draw whose group could not be made."""

    draw: int
    cause: str
    """A short class of causes, such as `scorer: ValueError`; failures are counted by it."""
    detail: str
    """What happened, in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSummary:
    """What a worker says of a block that it hands in; the groups themselves are opaque to the stream."""

    groups: int
    """Good groups; 0 where every one failed."""
    failures: tuple[Failure, ...] = ()
    prompt_length: float = 0.0
    """Mean, in tokens."""
    reward: float = 0.0
    """Mean score of the candidates."""
    wait_seconds: float = 0.0
    """The worker's wait for this lease."""
    roll_seconds: float = 0.0
    """The worker's time to load weights, sample and score."""

    def to_json(self, reason: str | None = None) -> str:
        """For the ledger; `reason`: why the block failed."""
        value: dict[str, Any] = {} if reason is None else {"reason": reason}
        value |= {"groups": self.groups, "prompt_length": self.prompt_length, "reward": self.reward}
        value |= {"wait_seconds": self.wait_seconds, "roll_seconds": self.roll_seconds}
        if self.failures:
            value["failures"] = [[failure.draw, failure.cause, failure.detail] for failure in self.failures]
        return json.dumps(value)


@dataclass(frozen=True, slots=True)
class HandedIn:
    """A finished block that waits for the learner."""

    content: Any
    """Opaque to the stream."""
    summary: BlockSummary
    portable: bool
    """Whether the content outlives the worker that made it."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The blocks that were trained or failed: what a checkpoint knows of the stream."""

    below: int = 0
    """Every block with a smaller number."""
    beyond: tuple[int, ...] = ()
    """And these, rising."""

    def __contains__(self, block: int) -> bool:
        return block < self.below or block in self.beyond

    @classmethod
    def of(cls, below: int, beyond: Iterable[int]) -> Self:
        """The shortest way to say it."""
        more = sorted(block for block in set(beyond) if block >= below)
        run = 0
        while run < len(more) and more[run] == below + run:
            run += 1
        return cls(below + run, tuple(more[run:]))

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"below": self.below, "beyond": list(self.beyond)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises ValueError for anything else."""
        below, beyond = value.get("below"), value.get("beyond")
        if not isinstance(below, int) or not isinstance(beyond, list) or not all(isinstance(b, int) for b in beyond):
            raise ValueError(f"{value!r} does not say which blocks are settled")
        return cls.of(below, beyond)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The blocks of one training step, in draw order."""

    step: int
    blocks: tuple[int, ...]
    payloads: list[Any]
    workers: tuple[str, ...]
    """Who made each."""
    versions: tuple[int, ...]
    """The snapshot that each was sampled from."""
    settled: Settled
    """What is settled once this step is trained: for the checkpoint after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStats:
    """The stream in numbers, since its process started; blocks unless it says groups."""

    version: int
    """Newest published; -1 before the first, and after the learner went back until it publishes."""
    finished: int
    """Steps trained."""
    queued: int
    in_flight: int
    ready: int
    taken: int
    trained: int
    """Of the whole run, those of earlier processes included."""
    failed: int
    """Of the whole run; dropped ones are among them."""
    failed_groups: Mapping[str, int]
    """Groups by cause, dropped ones aside."""
    reissued: int
    """Leases of blocks that had been given out before; of the whole run."""
    dropped: int
    dropped_by_length: Mapping[str, int] = field(default_factory=dict)
    """Dropped blocks by mean prompt length, in bins of powers of two, such as `16-31`."""
    dropped_by_reward: Mapping[str, int] = field(default_factory=dict)
    """Dropped blocks by mean score, rounded to one digit, such as `0.3`."""
    handed_in: Mapping[str, int] = field(default_factory=dict)
    """Blocks, by worker."""
    leases: tuple[tuple[str, int, float], ...] = ()
    """Worker, block, and the seconds that it has held it."""
    waiting: str | None = None
    """What the learner waits for, and who owes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Blocks handed in since the last window was opened."""

    seconds: float
    blocks: int
    groups: int
    """Good ones."""
    idle_share: float | None
    """Share of the workers' time that they waited for leases; None where no block was handed in."""

    @property
    def groups_per_second(self) -> float:
        """Good groups, by the clock on the wall."""
        return self.groups / self.seconds if self.seconds > 0 else 0.0


Kind = Literal[
    "session",  # a driver starts, or goes on; detail: the configuration, first_step
    "stream_started",  # the stream's process starts: what its predecessor held in memory is gone
    "published",  # version; detail: digest
    "leased",  # block, version, worker; detail: attempt. In flight
    "ready",  # block, version, worker; detail: summary. Handed in
    "lost",  # block, worker; detail: why. Queued: its worker died with it, which counts against the block
    "queued",  # block; detail: why. It has to be made again, through no fault of its own
    "taken",  # step, block, version, worker. The learner has it
    "trained",  # step: with all that it took. Or block: known from a checkpoint only
    "failed",  # block; detail: reason, cause, failures. For good
    "dropped",  # block; detail: reason. Failed: too old
    "rolled_back",  # step; detail: settled. The learner starts again from a checkpoint
]


class Event(NamedTuple):
    """Something that happened to a block, or to all of them; `Kind` says which fields each kind has."""

    kind: Kind
    block: int | None = None
    step: int | None = None
    version: int | None = None
    worker: str | None = None
    detail: str | None = None


class Journal(Protocol):
    """Where events are kept."""

    def write(self, events: Sequence[Event]) -> None:
        """Keep them, all or none, in this order, before anybody acts on them."""
