"""The path of groups without sampling and training, and what Ray itself can do: for measuring the one by the other."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from tpo_dist.blocks import Settled
from tpo_dist.ledger import Ledger
from tpo_dist.metrics import Metrics
from tpo_dist.records import ScoredGroups, Snapshot, StopReason
from tpo_dist.rollout.worker import Rolled
from tpo_dist.runtime.answers import await_all
from tpo_dist.runtime.learner_actor import LearnerShell
from tpo_dist.runtime.rollout_actor import RolloutActor
from tpo_dist.runtime.stream_actor import StreamActor
from tpo_dist.stream import GroupStream

_DIGEST = "0" * 32
_TOKEN_BYTES = 12  # token, log-prob and reward
_PATIENCE_SECONDS = 600.0  # workers also wait while other lines have their turns


def make_block(count: int, group_bytes: int, candidates: int = 8) -> ScoredGroups:
    """Groups of about that size each, with nothing in them."""
    length = max(1, group_bytes // (_TOKEN_BYTES * candidates))
    tokens = count * candidates * length
    return ScoredGroups(
        group_ids=np.arange(count, dtype=np.int64),
        prompt_tokens=np.zeros(4 * count, dtype=np.int32),
        prompt_lengths=np.full(count, 4, dtype=np.int32),
        tokens=np.zeros(tokens, dtype=np.int32),
        lengths=np.full((count, candidates), length, dtype=np.int32),
        behavior_logprobs=np.zeros(tokens, dtype=np.float32),
        scores=np.zeros((count, candidates), dtype=np.float32),
        snapshot_versions=np.zeros(count, dtype=np.int64),
        snapshot_digests=np.full(count, _DIGEST.encode(), dtype="S32"),
        stop_reasons=np.full((count, candidates), StopReason.FIXED, dtype=np.int8),
        token_rewards=np.zeros(tokens, dtype=np.float32),
    )


@dataclass(slots=True)
class ReadyMade:
    """In place of a rollout worker: blocks that were made before, in turn, since only their way is timed.

    So many different ones that no two of a turn are the same: pickle would send one, and a note that it comes twice.
    """

    group_bytes: int
    different: int
    version: int | None = None
    blocks: deque[ScoredGroups] = field(default_factory=deque)

    def load(self, snapshot: Snapshot) -> None:
        """Note the version."""
        self.version = snapshot.version

    def roll(self, draw_ids: NDArray[np.int64]) -> Rolled:
        """A block of the size asked for."""
        if len(self.blocks) < self.different:
            self.blocks.append(make_block(len(draw_ids), self.group_bytes))
        self.blocks.rotate()
        return Rolled(groups=self.blocks[0])


@dataclass(slots=True)
class NoLearner:
    """In place of a learner: versions without training."""

    version: int = 0
    settled: Mapping[str, Any] = field(default_factory=lambda: Settled().to_json())
    rows: list[dict[str, float]] = field(default_factory=list)
    sample: None = None

    def current(self) -> Snapshot:
        """One without weights."""
        return Snapshot(version=self.version, arrays={}, digest=_DIGEST)

    def publishes(self, version: int) -> bool:
        """Every version."""
        return version >= 0

    def refusal(self, groups: ScoredGroups) -> str | None:
        """Nothing is refused."""
        return None if len(groups) else "empty"


@dataclass(frozen=True, slots=True)
class _Saved:
    path: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class NoCheckpoints:
    """In place of a checkpointer."""

    def after_step(self, learner: NoLearner, *, last: bool) -> _Saved:
        """Nothing is saved."""
        assert learner.version or not last
        return _Saved()


class IdleShell(LearnerShell):
    """A learner that fetches its groups and does not train; it does not join them either, as `RawLine` does not."""

    def update(self, blocks: list[ScoredGroups]) -> Metrics:
        """Count them."""
        assert all(len(block) for block in blocks)
        self._learner.version += 1
        return {}


class StreamLine:
    """A run that only moves groups: workers, the stream with its ledger, and a learner, standing between its turns.

    All of it is what a run has, but for sampling, training and checkpoints: leases, admission (two steps under way),
    deliveries, the journal of every block, provenance, and a snapshot, without weights, for each step. Blocks are made
    before, as those of `RawLine` are, and copied into the object store in parcels of what a worker makes in a turn.
    """

    def __init__(
        self, folder: Path, group_bytes: int, block_size: int, blocks_per_step: int, steps: int, workers: int
    ) -> None:
        """`steps`: of all turns together."""
        folder.mkdir(parents=True)
        self._done = 0
        self._stream = StreamActor.remote(partial(_open, folder, block_size, blocks_per_step, steps), folder)
        self._learner = ray.remote(num_cpus=0)(IdleShell).remote(1, NoLearner, NoCheckpoints(), None)
        make = partial(ReadyMade, group_bytes, -(-blocks_per_step // workers))
        self._workers = [
            RolloutActor.options(num_cpus=0).remote(f"rollout-{index}", 1, make) for index in range(workers)
        ]

    def stand(self, seconds: float) -> None:
        """Wait until it is ready for its first turn. Raises RunFailed where it is not in time."""
        actors = (self._learner, *self._workers)
        await_all({actor.ready.remote(): "a process of the stream's benchmark" for actor in actors}, seconds)
        for worker in self._workers:
            worker.roll.remote(self._stream, _PATIENCE_SECONDS)

    def turn(self, steps: int) -> Iterator[float]:
        """The clock (seconds) after each of so many steps more."""
        self._done += steps
        train: Any = self._learner.train
        for report in train.options(num_returns="streaming").remote(self._stream, self._done, _PATIENCE_SECONDS):
            ray.get(report)
            yield time.perf_counter()

    def close(self) -> None:
        """End its processes."""
        for actor in (self._learner, self._stream, *self._workers):
            ray.kill(actor)


def _open(folder: Path, block_size: int, blocks_per_step: int, steps: int) -> GroupStream:
    ledger = Ledger.open(folder / "ledger.db")
    return GroupStream(
        blocks_per_step=blocks_per_step,
        block_size=block_size,
        steps=steps,
        max_staleness=1,
        journal=ledger,
        history=ledger.history(),
    )


class RawLine:
    """The same blocks, put by as many processes and fetched by one, and no more: what Ray itself can do.

    Each block is made before; a process is asked once a step for its part of it. Two steps are under way, one being put
    while the other is fetched. The driver carries the references.
    """

    def __init__(
        self, group_bytes: int, block_size: int, blocks_per_step: int, workers: int, *, together: bool = False
    ) -> None:
        """`together`: a process puts its part of a step as one object; else each block is one."""
        assert blocks_per_step % workers == 0, "every process puts as many"
        self._putters = [_Putter.remote() for _ in range(workers)]  # type: ignore[attr-defined]
        self._getter: Any = _Getter.remote()  # type: ignore[attr-defined]
        self._work = group_bytes, block_size, blocks_per_step // workers, together

    def stand(self, seconds: float) -> None:
        """Wait until it is ready for its first turn. Raises RunFailed where it is not in time."""
        ready = [self._getter.get.remote([]), *(putter.put.remote(1, 1, 0, False) for putter in self._putters)]
        await_all(dict.fromkeys(ready, "a process of the benchmark of Ray itself"), seconds)

    def turn(self, steps: int) -> Iterator[float]:
        """The clock (seconds) after each of so many steps; as in a run, blocks are put while others are fetched."""
        ready = self._put()
        for _ in range(steps):
            following = self._put()
            ray.get(self._getter.get.remote([[reference] for reference in ready]), timeout=_PATIENCE_SECONDS)
            ready = following
            yield time.perf_counter()

    def _put(self) -> list[Any]:
        return [putter.put.remote(*self._work) for putter in self._putters]

    def close(self) -> None:
        """End its processes."""
        for actor in (*self._putters, self._getter):
            ray.kill(actor)


@ray.remote(num_cpus=0)
class _Putter:
    def __init__(self) -> None:
        self._blocks: list[ScoredGroups] = []

    def put(self, group_bytes: int, block_size: int, count: int, together: bool) -> list[Any]:
        while len(self._blocks) < count:
            self._blocks.append(make_block(block_size, group_bytes))
        blocks = self._blocks[:count]
        return [ray.put(each) for each in ([blocks] if together else blocks)]


@ray.remote(num_cpus=0)
class _Getter:
    def get(self, batches: Sequence[list[Any]]) -> int:
        return sum(len(content) for batch in batches for content in ray.get(ray.get(batch[0])))
