"""The learner's place: a process that may die, and be begun again from the newest checkpoint."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayError

from tpo_dist.runtime.answers import failed
from tpo_dist.runtime.messages import GRACE_SECONDS, Step, Whereabouts, ask

State = Literal["starting", "training", "restarting", "done"]


class LearnerSeat:
    """Starts the learner, hears its reports, starts it again; decides nothing."""

    def __init__(
        self,
        make: Callable[[Path | None], Any],
        checkpoint: Callable[[], Path | None],
        seconds: float,
    ) -> None:
        """`make` gives an actor that begins at a checkpoint, `checkpoint` the newest. `seconds`: to wait for groups."""
        self._make, self._checkpoint, self._seconds = make, checkpoint, seconds
        self.stream: Any = None
        """Where it gets its groups; given before it trains."""
        self.actor: Any = None
        self.state: State = "starting"
        self.where: Whereabouts | None = None
        self.due = 0.0
        self.deaths = 0
        self.heard = time.monotonic()
        """When it last said something (monotonic seconds)."""
        self._starting: Any = None
        self._reports: Any = None
        self._until = 0

    def start(self) -> Any:
        """Begin at the newest checkpoint; what its start will come to."""
        self.state, self.heard = "starting", time.monotonic()
        self.actor = self._make(self._checkpoint())
        self._starting = self.actor.ready.remote()
        return self._starting

    def stand(self) -> None:
        """It has started: tell the stream where it begins.

        Raises RayError where it could not start, RunFailed where the stream is gone.
        """
        starting, self._starting = self._starting, None
        self.where, step, settled = ray.get(starting)
        if self.deaths:
            try:
                ask(self.stream.rollback.remote(step, settled), GRACE_SECONDS, "the stream to go back")
            except RayError as error:
                raise failed("the stream", error) from error
        self.state, self.heard = "training", time.monotonic()
        if self.deaths:
            self.train(self._until)

    def train(self, until: int) -> None:
        """Train until so many steps are done."""
        self._until, self.heard = until, time.monotonic()
        train = self.actor.train.options(num_returns="streaming")
        self._reports = train.remote(self.stream, until, self._seconds)

    def references(self) -> list[Any]:
        """What resolves when something happens to it."""
        return [one for one in (self._starting, self._reports) if one is not None]

    def started(self, ready: list[Any]) -> bool:
        """Whether its start is among these."""
        return self._starting is not None and self._starting in ready

    def reported(self, ready: list[Any]) -> bool:
        """Whether a report of its is among these."""
        return self._reports is not None and self._reports in ready

    def next_report(self) -> Step | None:
        """The report that is there; None where training has ended. Raises RayError where the learner failed."""
        self.heard = time.monotonic()
        try:
            report: Step = ray.get(next(self._reports))
        except StopIteration:
            self._reports, self.state = None, "done"
            return None
        return report

    def bury(self, due: float) -> None:
        """Its process is gone; another takes its place at `due` (monotonic seconds)."""
        if self.actor is not None:
            ray.kill(self.actor)
        self.actor, self.where, self._starting, self._reports = None, None, None, None
        self.state, self.due, self.heard = "restarting", due, time.monotonic()
        self.deaths += 1

    def replace_due(self) -> None:
        """Start the replacement when its time has come."""
        if self.state == "restarting" and time.monotonic() >= self.due:
            self.start()

    def forget(self, worker: str) -> None:
        """Have it leave the group that it sends that worker's weights by."""
        if self.actor is not None:
            self.actor.forget.remote(worker)

    def close(self) -> None:
        """End its process."""
        if self.actor is not None:
            ray.kill(self.actor)
            self.actor = None

    def last_reports(self, seconds: float) -> list[Step]:
        """What it still reports once its stream is closed, up to its last checkpoint."""
        end, reports = time.monotonic() + seconds, []
        while self._reports is not None and time.monotonic() < end:
            if not ray.wait([self._reports], timeout=max(0.0, end - time.monotonic()), fetch_local=False)[0]:
                break
            try:
                report = self.next_report()
            except RayError:
                break
            if report is not None:
                reports.append(report)
        return reports
