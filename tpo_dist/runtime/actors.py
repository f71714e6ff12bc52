"""Thin Ray shells around the parts: the stream, a rollout worker, the learner. No logic of their own.

Groups and snapshots cross by reference, through the object store; only numbers go by value.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from tpo_dist.learner.checkpoint import Checkpointer, load_checkpoint
from tpo_dist.learner.learner import Learner
from tpo_dist.metrics import Metrics, Sum
from tpo_dist.process import keep_freed_memory
from tpo_dist.records import ScoredGroups, concatenate
from tpo_dist.rollout.worker import RolloutWorker
from tpo_dist.stream import GroupStream, Lease

Step = tuple[int, Metrics, float, str | None]
"""Steps done, metrics, seconds, checkpoint written: what the learner reports after each step."""


class StreamShell:
    """Holds the stream, the references in it, and the newest snapshot."""

    def __init__(self, make_stream: Callable[[], GroupStream]) -> None:
        self._stream = make_stream()
        self._snapshot: list[Any] = []

    async def publish(self, version: int, snapshot: list[Any]) -> None:
        """Announce a snapshot; references travel in lists so that Ray does not fetch them on the way."""
        self._snapshot = snapshot
        await self._stream.publish(version)

    async def lease(self, worker: str, seconds: float) -> tuple[Lease | None, list[Any]]:
        """The next block and the snapshot to sample it from."""
        return await self._stream.lease(worker, seconds), self._snapshot

    async def put(self, lease: Lease, block: list[Any]) -> None:
        """Hand in a reference to the groups of a block."""
        await self._stream.put(lease, block)

    async def take(self, step: int, seconds: float) -> list[Any] | None:
        """References to the blocks of a step, in draw order; None once the stream is closed."""
        blocks = await self._stream.take(step, seconds)
        return None if blocks is None else [reference for block in blocks for reference in block]

    async def close(self) -> None:
        """End every wait."""
        await self._stream.close()


class RolloutShell:
    """One rollout worker in a process of its own.

    Consumes leases and snapshots, produces blocks; waits for the learner's next version.
    """

    def __init__(self, name: str, threads: int, make_worker: Callable[[], RolloutWorker]) -> None:
        _set_up_process(threads)
        self._name, self._make_worker = name, make_worker

    def ready(self) -> str:
        """Build the worker. Raises whatever it raises; from a constructor, Ray would only say that the actor died."""
        self._worker = self._make_worker()
        return self._name

    def roll(self, stream: Any, seconds: float) -> int:
        """Work until the stream ends; blocks delivered. `seconds` bounds each wait for a lease."""
        delivered, handed_in = 0, None
        while True:
            asked = stream.lease.remote(self._name, seconds)
            if handed_in is not None:
                ray.get(handed_in)  # in flight together with the question for the next block
            lease, snapshot = ray.get(asked)
            if lease is None:
                return delivered
            if self._worker.version != lease.version:
                self._worker.load(ray.get(snapshot[0]))
            block = self._worker.roll(lease.draw_ids)
            handed_in = stream.put.remote(lease, [ray.put(block)])
            delivered += 1


class LearnerShell:
    """The learner in a process of its own.

    Consumes blocks, produces snapshots and checkpoints; waits for the workers' blocks of each step.
    """

    def __init__(
        self, threads: int, make_learner: Callable[[], Learner], checkpointer: Checkpointer, start: Path | None
    ) -> None:
        _set_up_process(threads)
        self._make_learner, self._start = make_learner, start
        self._checkpointer = checkpointer
        self._publishing: Any = None

    def ready(self) -> str:
        """Build the learner, at its checkpoint if it has one. Raises whatever that raises."""
        self._learner = self._make_learner()
        if self._start is not None:
            load_checkpoint(self._start, self._learner)
        self._first_version = self._learner.version
        return "learner"

    def train(self, stream: Any, until: int, seconds: float) -> Iterator[Step]:
        """Train until so many steps are done or the stream is closed, whichever is first; report after each step.

        `seconds` bounds the wait for the groups of a step. The last step is followed by a checkpoint, and so is the
        closing of the stream, or a wait that fails.
        """
        self._publish(stream)
        finished = time.perf_counter()
        while self._learner.version < until:
            started = finished  # what lies between two steps belongs to the later one
            waiting = time.perf_counter()
            blocks = self._wait_for_groups(stream, seconds)
            if blocks is None:
                return
            arrived = time.perf_counter()
            metrics = self._learner.update(concatenate(blocks))
            last = self._learner.version == until
            if not last:
                self._publish(stream)
            saved = self._checkpointer.after_step(self._learner, last=last)
            metrics = {**metrics, "wait_seconds": Sum(arrived - waiting)}
            finished = time.perf_counter()
            yield self._learner.version, metrics, finished - started, None if saved is None else str(saved)

    def _wait_for_groups(self, stream: Any, seconds: float) -> list[ScoredGroups] | None:
        """The blocks of the next step; where there are none, a checkpoint of the last one."""
        try:
            references = ray.get(stream.take.remote(self._learner.version, seconds))
            if references is not None:
                blocks: list[ScoredGroups] = ray.get(references)
                return blocks
        except RayError:
            self._save_progress()
            raise
        self._save_progress()
        return None

    def _save_progress(self) -> None:
        if self._learner.version > self._first_version:
            self._checkpointer.after_step(self._learner, last=True)

    def _publish(self, stream: Any) -> None:
        if self._publishing is not None:
            ray.get(self._publishing)  # long done; an error in it would show here
        snapshot = self._learner.snapshot()
        self._publishing = stream.publish.remote(snapshot.version, [ray.put(snapshot)])


def _set_up_process(threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()


StreamActor: Any = ray.remote(num_cpus=0)(StreamShell)
RolloutActor: Any = ray.remote(RolloutShell)
LearnerActor: Any = ray.remote(LearnerShell)
