"""A rollout worker that has several blocks under way at a time: a thin Ray shell around a sampler that streams."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError

from tpo_dist.blocks import Lease
from tpo_dist.records import Prompts, ScoredGroups
from tpo_dist.rollout.contract import Candidates
from tpo_dist.rollout.worker import Rolled, RolloutWorker, Stamp, summarise
from tpo_dist.runtime.messages import GRACE_SECONDS, Delivery, Turn, ask, pack, unpack
from tpo_dist.runtime.rollout_actor import GONE, PAUSE_SECONDS, RolloutShell, deliver
from tpo_dist.waiting import DeadlineExceeded

_SCORING_SECONDS = 0.003  # between two looks at the scorers while nothing is sampled


@dataclass(slots=True)
class _Work:
    """A block under way."""

    lease: Lease
    prompts: Prompts
    stamp: Stamp
    began: float
    scored: "Future[Rolled] | None" = None


class StreamingShell(RolloutShell):
    """One rollout worker in a process of its own, with `lanes` blocks under way at a time.

    Consumes leases and snapshots, produces blocks, each as soon as its last candidate is scored. Each lane asks the
    stream for itself, under a name of its own; scorers run beside the sampler.
    """

    def __init__(
        self, name: str, threads: int, make_worker: Callable[[], RolloutWorker], lanes: int, scorers: int
    ) -> None:
        super().__init__(name, threads, make_worker)
        self._lanes, self._scorers = lanes, scorers

    def roll(self, stream: Any, seconds: float) -> int:
        """Work until there is nothing more to do; blocks delivered. `seconds` bounds each wait for a lease."""
        self.load(ask(stream.newest.remote(self.name, seconds), seconds + GRACE_SECONDS, "the first snapshot"))
        with ThreadPoolExecutor(self._scorers, thread_name_prefix="scoring") as pool:
            return _Loop(self, stream, seconds, pool).run(self._lanes)


class _Loop:
    """The lanes of one call of `roll`."""

    def __init__(self, shell: StreamingShell, stream: Any, seconds: float, pool: ThreadPoolExecutor) -> None:
        self._shell, self._stream, self._seconds, self._pool = shell, stream, seconds, pool
        self._asked: dict[Any, int] = {}
        """Lanes that wait for a lease, by the reference to the answer."""
        self._due: list[tuple[int, Lease, list[Any]]] = []
        """Leases whose snapshot is loaded once what is under way has ended."""
        self._work: dict[int, _Work] = {}
        self._idle, self._busy_since = 0.0, time.perf_counter()

    def run(self, lanes: int) -> int:
        """Until every lane has heard that there is nothing left; blocks delivered."""
        for lane in range(lanes):
            self._ask(lane, (), [])
        delivered = 0
        while self._asked or self._due or self._work:
            self._hear()
            self._begin_due()
            for lane, candidates in self._shell.worker.step() if self._shell.worker.pending else ():
                self._score(lane, candidates)
            for lane, work in [each for each in self._work.items() if each[1].scored and each[1].scored.done()]:
                self._deliver(lane, work)
                delivered += 1
        return delivered

    def _ask(self, lane: int, deliveries: tuple[Delivery, ...], parcel: list[Any]) -> None:
        turn = Turn(f"{self._shell.name}/{lane}", self._shell.loaded, deliveries, 1, self._seconds)
        self._asked[self._stream.turn.remote(pack(turn), parcel)] = lane

    def _hear(self) -> None:
        """Take the leases that have come; wait for one where nothing else is to be done."""
        if not self._asked:
            self._rest()
            return
        nothing = not self._work and not self._due
        patience = self._seconds + GRACE_SECONDS if nothing else 0.0
        if self._work and not self._shell.worker.pending:
            patience = _SCORING_SECONDS
        started = time.perf_counter()
        ready, _ = ray.wait(list(self._asked), num_returns=1, timeout=patience)
        if nothing:
            self._idle += time.perf_counter() - started
            if not ready:
                raise TimeoutError(f"waited {patience:g} s for its next block, and its process does not answer")
        if ready:
            ready, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        for reference in ready:
            self._answer(self._asked.pop(reference), reference)

    def _rest(self) -> None:
        if not self._shell.worker.pending and not self._due:
            time.sleep(_SCORING_SECONDS)  # everything is with the scorers

    def _answer(self, lane: int, reference: Any) -> None:
        try:
            answer = ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, DeadlineExceeded) and (self._work or self._asked):
                self._ask(lane, (), [])  # the others go on
                return
            raise
        if answer:
            (lease,) = unpack(answer[0])
            self._due.append((lane, lease, answer[1:]))

    def _begin_due(self) -> None:
        """Begin what can be begun: at once, or after what is under way where weights must not change in flight."""
        waiting, gone = [], False
        for lane, lease, snapshot in self._due:
            if snapshot and self._shell.worker.pending and not self._shell.worker.in_flight:
                waiting.append((lane, lease, snapshot))
            elif self._has_weights(lease, snapshot):
                began = time.perf_counter()
                prompts = self._shell.worker.submit(lane, lease.draw_ids)
                self._work[lane] = _Work(lease, prompts, self._shell.worker.stamp, began)
            else:
                gone = gone or bool(snapshot)
                why = GONE if snapshot else "the worker has other weights by now"
                ask(self._stream.hand_back.remote([lease], why), GRACE_SECONDS, "the stream")
                self._ask(lane, (), [])
        self._due = waiting
        if gone and not self._shell.worker.pending:
            time.sleep(PAUSE_SECONDS)  # until the stream hears of it, it has no other

    def _has_weights(self, lease: Lease, snapshot: list[Any]) -> bool:
        """Load what came with the lease; False where the worker cannot sample it from those weights or newer ones.

        Lanes hear of a new version one after another: between asking and the answer, another may have loaded it.
        """
        if (lease.version, lease.digest) == self._shell.loaded:
            return True
        return self._shell.load(snapshot) if snapshot else lease.version < self._shell.loaded[0]

    def _score(self, lane: int, candidates: Candidates) -> None:
        work = self._work[lane]
        seconds = time.perf_counter() - work.began
        work.scored = self._pool.submit(self._shell.worker.score, work.prompts, candidates, work.stamp, seconds)

    def _deliver(self, lane: int, work: _Work) -> None:
        """Hand a block in. Idle and busy time since the last one go with it, so that they add up to the worker's."""
        assert work.scored is not None
        now = time.perf_counter()
        busy = max(0.0, now - self._busy_since - self._idle)
        del self._work[lane]
        rolled = work.scored.result()
        large: list[ScoredGroups] = []
        delivery = deliver(work.lease, rolled, summarise(rolled, self._idle, busy), large)
        self._idle, self._busy_since = 0.0, now
        self._ask(lane, (delivery,), [ray.put(large)] if large else [])


StreamingActor: Any = ray.remote(StreamingShell)
