"""The stream in a process of its own. Every call may come twice: Ray repeats those under way when this process died."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from tpo_dist.blocks import Lease, Settled, StreamStats, Taken, Window, owner
from tpo_dist.metrics import Mean, Metrics, Sum
from tpo_dist.quarantine import write_quarantine
from tpo_dist.runlog import log_lines
from tpo_dist.runtime.messages import Delivery, Turn, Whereabouts, pack, set_up_process, unpack, whereabouts
from tpo_dist.stream import GroupStream
from tpo_dist.waiting import Bell


class StreamShell:
    """Holds the stream, the references in it, and the newest snapshot."""

    def __init__(self, open_stream: Callable[[], GroupStream], folder: Path, evaluate_every: int | None = None) -> None:
        """`open_stream` finds what an earlier process of this run wrote into the ledger. `folder`: of the run.
        `evaluate_every`: steps between the snapshots that are kept for the evaluator; None: none is."""
        set_up_process(1)
        self._stream, self._folder = open_stream(), folder
        log_lines(folder, "stream", lambda: self._stream.stats().finished)
        self._snapshot: list[Any] = []
        self._version = -1
        self._news = Bell()
        self._before = self._stream.stats()
        self._refused: dict[str, str] = {}
        self._every, self._marked = evaluate_every, -1
        self._milestones: list[tuple[int, list[Any]]] = []
        self._lanes: dict[str, set[str]] = {}
        """Names under which each worker has asked, and of which it was told that none gets more."""
        self._retired: set[str] = set()
        self._asking: list[str] = []
        self._loaded: dict[str, int] = {}
        self._life = uuid.uuid4().hex  # a restarted process has another

    async def where(self) -> Whereabouts:
        """The process that answers."""
        return whereabouts("stream")

    async def newest(self, worker: str, seconds: float) -> list[Any]:
        """The newest snapshot, as soon as there is one; a joining worker loads it first. Empty once the run is over."""
        with self._question_of(worker):
            await self._some_snapshot(seconds)
        return self._snapshot

    async def _some_snapshot(self, seconds: float) -> None:
        await self._news.wait(self._knows, seconds, lambda: "a snapshot, which the learner owes")

    def _knows(self) -> bool:
        return bool(self._snapshot) or self._stream.closed

    async def turn(self, packed: bytes, parcel: list[Any]) -> list[Any]:
        """A packed `Turn`, with the reference to its parcel if it has one; the next leases, packed, and the snapshot
        where the worker has another than it is to sample from. An empty list when nothing is left to do."""
        turn: Turn = unpack(packed)
        self._lanes.setdefault(owner(turn.worker), set()).add(turn.worker)
        if owner(turn.worker) in self._retired:
            self._stream.retire(turn.worker)
        for delivery in turn.deliveries:
            await self._hand_in(delivery, parcel)
        with self._question_of(turn.worker):
            leases = await self._next_leases(turn)
        if not leases:
            return []
        self._loaded[owner(turn.worker)] = leases[0].version
        news = [] if (leases[0].version, leases[0].digest) == turn.loaded else self._snapshot
        return [pack(leases), *news]

    async def _next_leases(self, turn: Turn) -> list[Lease]:
        """Some for which the snapshot is here; none once nothing is left to do."""
        while True:
            await self._some_snapshot(turn.seconds)
            leases = await self._stream.leases(turn.worker, turn.most, turn.seconds)
            # One version for all of them: they were given out together.
            if not leases or (leases[0].version, leases[0].digest) == turn.loaded or leases[0].version == self._version:
                return leases
            await self.hand_back(leases, "the snapshot that it was to be sampled from is gone")

    @contextmanager
    def _question_of(self, worker: str) -> Iterator[None]:
        """Inside, it is the stream on which this worker waits."""
        self._asking.append(worker)
        try:
            yield
        finally:
            self._asking.remove(worker)

    async def _hand_in(self, delivery: Delivery, parcel: list[Any]) -> None:
        payload = delivery.small if delivery.place is None else [*parcel, delivery.place]
        await self._stream.put(delivery.lease, payload, delivery.summary, portable=delivery.small is not None)
        for failure in delivery.failures:
            write_quarantine(self._folder, failure)

    async def advance(self, finished: int | None, version: int, digest: str, snapshot: list[Any]) -> None:
        """A step is trained, and this is the newest snapshot; saying it again changes nothing."""
        if finished is not None:
            await self._stream.finish(finished)
        if version >= self._stream.version:
            self._version, self._snapshot = version, snapshot
            await self._stream.publish(version, digest)
            self._mark(version, snapshot)
            self._news.ring()

    def _mark(self, version: int, snapshot: list[Any]) -> None:
        """Keep the first snapshot at or after each multiple: for a slow evaluator its next, and the newest two."""
        if self._every is None or (self._marked >= 0 and version // self._every <= self._marked // self._every):
            return
        self._marked = version
        self._milestones = [*self._milestones[:1], *self._milestones[1:][-1:], (version, snapshot)]

    async def milestone(self, after: int, seconds: float) -> list[Any]:
        """Version and snapshot to evaluate next, later than that version; an empty list once the run is over."""

        def found() -> list[Any]:
            self._milestones = [each for each in self._milestones if each[0] > after]  # the others are evaluated
            return [(version, *snapshot) for version, snapshot in self._milestones]

        def what() -> str:
            return f"a snapshot after version {after} to evaluate, which the learner owes"

        await self._news.wait(lambda: bool(found()) or self._stream.closed, seconds, what)
        return list(found()[0]) if found() else []

    async def take(
        self, step: int, seconds: float, version: int, digest: str, snapshot: list[Any]
    ) -> tuple[Taken | None, Metrics]:
        """The blocks of a step, None once the stream is closed, and what went on since the last time."""
        await self.advance(step - 1 if step else None, version, digest, snapshot)  # a restarted stream has forgotten it
        taken = await self._stream.take(step, seconds)
        before, self._before = self._before, self._stream.stats()
        return taken, stream_metrics(before, self._before, self._stream.window())

    async def refuse(
        self, blocks: Sequence[int], workers: Sequence[str], reason: str, stamps: Sequence[tuple[int, str]] = ()
    ) -> None:
        """The learner does not take these blocks, which these workers made, sampling from snapshots of these versions
        and digests. Where an earlier learner took those with it, the workers are not to blame."""
        if await self._stream.refuse(blocks, reason, stamps):
            self._refused |= dict.fromkeys(map(owner, workers), reason)

    async def hand_back(self, leases: Sequence[Lease], reason: str) -> None:
        """The worker could not begin these blocks."""
        for lease in leases:
            await self._stream.hand_back(lease, reason)

    async def lost(self, worker: str, reason: str) -> list[int]:
        """A worker's process is gone; the blocks that went with it."""
        self._retired.discard(worker)
        self._loaded.pop(worker, None)
        return [block for lane in self._lanes_of(worker) for block in await self._stream.lost(lane, reason)]

    async def retire(self, worker: str) -> None:
        """This worker gets nothing more."""
        self._retired.add(worker)
        for lane in self._lanes_of(worker):
            self._stream.retire(lane)

    def _lanes_of(self, worker: str) -> list[str]:
        """Every name of that worker, those included that an earlier process of the stream has heard."""
        held = [name for name, _, _ in self._stream.stats().leases]
        known = {worker, *self._lanes.get(worker, ()), *held, *self._stream.owed_by_worker()}
        return sorted(name for name in known if owner(name) == worker)

    async def rollback(self, step: int, settled: Settled) -> None:
        """The learner begins again at this step."""
        await self._stream.rollback(step, settled)
        self._version, self._snapshot = -1, []

    async def look(self) -> tuple[StreamStats, dict[str, str], dict[str, list[int]], list[str], dict[str, int], str]:
        """Numbers, workers whose groups were refused since the last look, finished blocks that live with each worker,
        workers that wait for an answer, the version that each samples from, and which life of this actor it is."""
        refused, self._refused = self._refused, {}
        owed: dict[str, list[int]] = {}
        for name, blocks in self._stream.owed_by_worker().items():
            owed.setdefault(owner(name), []).extend(blocks)
        asking = [owner(name) for name in self._asking]
        return self._stream.stats(), refused, owed, asking, dict(self._loaded), self._life

    async def close(self) -> None:
        """End every wait."""
        await self._stream.close()
        self._news.ring()


def stream_metrics(before: StreamStats, now: StreamStats, window: Window) -> Metrics:
    """What the stream knows of the time since the last step."""
    metrics: dict[str, Mean | Sum] = {
        "queue_ready": Mean(float(now.ready)),
        "queue_in_flight": Mean(float(now.in_flight)),
        "groups_per_second": Mean(window.groups_per_second),
        "groups_failed": Sum(float(sum(now.failed_groups.values()) - sum(before.failed_groups.values()))),
        "blocks_reissued": Sum(float(now.reissued - before.reissued)),
        "blocks_dropped": Sum(float(now.dropped - before.dropped)),
    }
    if window.idle_share is not None:
        metrics["workers_idle_share"] = Mean(window.idle_share)
    return metrics


# Its calls are many and short, and nobody traces them: Ray need not keep a record of each.
_options: dict[str, Any] = {"num_cpus": 0, "enable_task_events": False}
StreamActor: Any = ray.remote(**_options)(StreamShell)
