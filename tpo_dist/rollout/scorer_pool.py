"""Scoring outside the sampler's process: a completion that hangs, crashes or eats memory costs its group, nothing else.

Produces grades of groups; consumes completions, in the order in which they come. Waits for scorer processes, each time
with a limit: one that does not answer is killed and replaced. The limits contain accidents; a scorer that means harm
needs a container.
"""

import asyncio
import atexit
import contextlib
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from tpo_dist.config import ScoringConfig
from tpo_dist.rollout.scorer_seat import Answer, Seat
from tpo_dist.tasks.contract import Defect

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGrades:
    """The grades of one group's completions, in their order."""

    scores: tuple[float, ...]
    parts: Mapping[str, tuple[float, ...]]
    """Of each reward that makes the score, by name, before weighing."""


@dataclass(slots=True, eq=False)
class _Group:
    """Completions of one draw that are being scored."""

    draw: int
    completions: Sequence[str]
    graded: "Future[GroupGrades | Defect]"
    answers: dict[int, Answer]


@dataclass(slots=True, eq=False)
class _Job:
    group: _Group
    index: int
    attempts: int = 0


class ScorerPool:
    """Scorer processes of one task. Its methods may be called from any thread."""

    def __init__(self, task: str, options: Mapping[str, Any], seed: int, config: ScoringConfig) -> None:
        """A task in words by name and options, for the draws of the run's `seed`. Nothing starts yet."""
        limits = {"seconds": config.seconds, "memory_mb": config.memory_mb}
        self._first = {"task": task, "options": dict(options), "seed": seed, **limits}
        self._config = config
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._seats: list[Seat] = []
        self._alone: Seat | None = None
        self._slots: list[asyncio.Task[None]] = []
        self.failures = 0
        """Attempts that came to nothing: hangs, crashes, exceptions, and answers that are no scores."""

    def start(self) -> None:
        """Start the processes and wait until they can score; once they do, nothing. Raises UsageError where the task
        is refused there, RunFailed where a process does not come up."""
        with self._lock:
            if self._loop is not None:
                return
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run_loop, args=(self._loop,), name="scorers", daemon=True)
            self._thread.start()
            atexit.register(self.close)
        try:
            self._run(self._open())
        except BaseException:
            self.close()
            raise

    def submit(self, draw: int, completions: Sequence[str]) -> "Future[GroupGrades | Defect]":
        """Begin to score a group: its grades, or why it has none. Does not wait, but for the start of the processes.

        The future raises UsageError or RunFailed where no scorer can be started any more.
        """
        self.start()
        assert self._loop is not None
        group = _Group(draw, completions, Future(), {})
        if not completions:
            group.graded.set_result(GroupGrades(scores=(), parts={}))
        self._loop.call_soon_threadsafe(self._enqueue, [_Job(group, index) for index in range(len(completions))])
        return group.graded

    def close(self) -> None:
        """Kill the processes; what was not scored is cancelled. The pool may be started again."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None:
            return
        atexit.unregister(self.close)
        asyncio.run_coroutine_threadsafe(self._shut(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()

    @property
    def pids(self) -> list[int]:
        """The processes that are there now."""
        return [seat.pid for seat in (*self._seats, *filter(None, [self._alone])) if seat.pid is not None]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> None:
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()
        self._suspects: asyncio.Queue[_Job] = asyncio.Queue()
        self._seats, self._alone = [Seat(self._first) for _ in range(self._config.processes)], Seat(self._first)
        await asyncio.gather(*(seat.start() for seat in self._seats))
        slots = [(seat, self._queue) for seat in self._seats for _ in range(seat.width)]
        if any(seat.concurrent for seat in self._seats):  # of many that were under way, who did it? one by one shows
            slots.append((self._alone, self._suspects))
        self._slots = [asyncio.create_task(self._serve(seat, queue)) for seat, queue in slots]

    async def _shut(self) -> None:
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        for queue in (self._queue, self._suspects):
            while not queue.empty():
                queue.get_nowait().group.graded.cancel()
        await asyncio.gather(*(seat.stop() for seat in (*self._seats, *filter(None, [self._alone]))))

    def _enqueue(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            self._queue.put_nowait(job)

    async def _serve(self, seat: Seat, queue: "asyncio.Queue[_Job]") -> None:
        """One job after another, for ever; where its group has failed already, there is nothing left to do."""
        while True:
            job = await queue.get()
            group = job.group
            if group.graded.done():
                continue
            try:
                answer = await seat.ask(group.draw, group.completions[job.index])
            except asyncio.CancelledError:
                group.graded.cancel()
                raise
            except Exception as error:  # noqa: BLE001  # no scorer can be started any more: no group's fault
                with contextlib.suppress(Exception):
                    group.graded.set_exception(error)
                continue
            self._settle(job, answer)

    def _settle(self, job: _Job, answer: Answer) -> None:
        group = job.group
        if group.graded.done():
            return
        if "score" in answer:
            group.answers[job.index] = answer
            if len(group.answers) == len(group.completions):
                group.graded.set_result(_grades(group))
            return
        self.failures += 1
        if answer.get("suspect"):
            self._suspects.put_nowait(job)
            return
        job.attempts += 1
        if answer.get("again", False) and job.attempts <= self._config.retries:
            self._queue.put_nowait(job)
            return
        detail = f"candidate {job.index}, attempt {job.attempts}: {answer['detail']}"
        group.graded.set_result(Defect(str(answer["cause"]), detail))


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Until it is stopped; then nothing of it is left."""
    loop.run_forever()
    loop.close()


def _grades(group: _Group) -> GroupGrades:
    answers = [group.answers[index] for index in range(len(group.completions))]
    names = answers[0]["parts"]
    return GroupGrades(
        scores=tuple(float(answer["score"]) for answer in answers),
        parts={name: tuple(float(answer["parts"][name]) for answer in answers) for name in names},
    )
