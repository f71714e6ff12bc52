"""Evaluation beside training: a process that scores published snapshots on held-out prompts, and its place."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from tpo_dist.metrics import Metrics
from tpo_dist.records import Snapshot
from tpo_dist.runtime.answers import reason
from tpo_dist.runtime.messages import GRACE_SECONDS, Whereabouts, ask, receive, set_up_process, whereabouts

Evaluator = Callable[[Snapshot], Metrics]


class EvaluationShell:
    """Consumes the snapshots that the stream keeps for it, produces what they score. Nobody waits for it."""

    def __init__(self, threads: int, make_evaluator: Callable[[], Evaluator]) -> None:
        set_up_process(threads)
        self._make_evaluator = make_evaluator

    def ready(self) -> Whereabouts:
        """Build what evaluates. Raises whatever that raises."""
        self._evaluate = self._make_evaluator()
        return whereabouts("evaluator")

    def follow(self, stream: Any, after: int, seconds: float) -> Iterator[tuple[int, Metrics]]:
        """Version and scores of each milestone after that version, until the run is over; `seconds` for each wait."""
        while True:
            found = ask(stream.milestone.remote(after, seconds), seconds + GRACE_SECONDS, "a snapshot to evaluate")
            if not found:
                return
            after, snapshot = found
            yield after, self._evaluate(receive(snapshot, GRACE_SECONDS))


class EvaluationSeat:
    """The evaluator's place beside a run: replaced where it dies, given up where it dies too often.

    It follows in a thread of its own; training neither waits for it nor ends with it.
    """

    def __init__(
        self, make: Callable[[], Any], stream: Any, hear: Callable[[int, Metrics], None], say: Callable[[str], None]
    ) -> None:
        """`make` gives an actor; `hear` gets version and scores; `say` tells the user a sentence."""
        self._make, self._stream, self._hear, self._say = make, stream, hear, say
        self._actor: Any = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="evaluation")

    def start(self, restarts: int, seconds: float) -> None:
        """Begin to follow. `restarts`: evaluators that may die; `seconds`: bounds each of its waits."""
        self._restarts, self._seconds = restarts, seconds
        self._thread.start()

    def _follow(self) -> None:
        after, deaths = -1, 0
        while not self._over.is_set():
            self._actor = self._make()
            try:
                ray.get(self._actor.ready.remote(), timeout=self._seconds)
                follow: Any = self._actor.follow.options(num_returns="streaming")
                for answer in follow.remote(self._stream, after, self._seconds):
                    after, metrics = ray.get(answer)
                    self._hear(after, metrics)
                return
            except (RayError, GetTimeoutError) as error:
                deaths += 1
                if self._over.is_set():
                    return
                why = reason(error) if isinstance(error, RayError) else f"not up in {self._seconds:g} s"
                if deaths > self._restarts:
                    self._say(f"evaluation is given up after {deaths} failures, the last: {why}; training goes on")
                    return
                self._say(f"the evaluator failed ({why}); another takes its place")
            finally:
                ray.kill(self._actor)

    def finish(self, seconds: float) -> None:
        """Wait until what is left has been evaluated. The stream has to be closed."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._say(f"the last snapshots are not evaluated: that was not done in {seconds:g} s")

    def close(self) -> None:
        """End its process."""
        self._over.set()
        if self._actor is not None:
            ray.kill(self._actor)


EvaluationActor: Any = ray.remote(EvaluationShell)
"""For placing it with options."""
