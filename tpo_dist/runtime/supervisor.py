"""The driver's part of a run: hears the learner, watches every process, replaces those that die or hang.

Decisions are pure functions (`supervision.py`, `fleet_rule.py`); here they are carried out. What the user sees and asks
goes through the `Desk`: nothing here knows of files.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from tpo_dist.blocks import owner
from tpo_dist.config import DeadlineConfig, FaultConfig
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.runtime import nodes
from tpo_dist.runtime.answers import failed, is_death, reason
from tpo_dist.runtime.deaths import Deaths
from tpo_dist.runtime.desk import Desk
from tpo_dist.runtime.faults import Faults
from tpo_dist.runtime.fleet import Event, Fleet, Member
from tpo_dist.runtime.messages import Step, Whereabouts, ask
from tpo_dist.runtime.picture import picture
from tpo_dist.runtime.seat import LearnerSeat
from tpo_dist.runtime.sight import SILENT_SECONDS, Seen, StreamSight
from tpo_dist.runtime.sizing import Sizing
from tpo_dist.runtime.worker_watch import WorkerWatch
from tpo_dist.supervision import FAILURE_STEPS, WARN_AT, FailureShare, Kill, Warn

LOOK_SECONDS = 0.5  # how soon a stop request is seen
_TELL_SECONDS = 1.0
_SAVE_SECONDS = 60.0  # for the learner's last checkpoint after another process failed
_END_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Supervisor:
    """Keeps the processes of one run alive and yields the learner's reports."""

    def __init__(
        self,
        fleet: Fleet,
        learner: LearnerSeat,
        stream: Any,
        desk: Desk,
        waits: DeadlineConfig,
        limits: FaultConfig,
        sizing: Sizing,
        sizes: tuple[int, int],
    ) -> None:
        """`sizes`: prompts of a step, and of a block."""
        self.fleet, self.learner, self.stream, self.desk = fleet, learner, stream, desk
        fleet.stream = learner.stream = stream
        self.faults = Faults(desk.fault)
        self.sizing = sizing
        self.seen: Seen | None = None
        self.step = 0
        self.pace: float | None = None
        """Groups per second, over the last step."""
        self._waits, self._limits = waits, limits
        self._block_size = sizes[1]
        self._failures = FailureShare(limits.failed_fraction, FAILURE_STEPS * sizes[0])
        self.closed = False
        self._told, self._warned = 0.0, 0.0
        self._watch = WorkerWatch(waits.block_seconds, time.monotonic())
        self.sight = StreamSight(stream, self.faults, desk.say)
        self._deaths = Deaths(limits)

    def train(self, until: int) -> Iterator[Step]:
        """The learner's reports up to that step; raises RunFailed where a process fails that cannot be replaced.

        A learner that still lives writes its checkpoint first.
        """
        self.learner.train(until)
        while True:
            ready = self._wait()
            self._close_on_request()
            if self.learner.reported(ready):
                report, ended = self._hear()
                if ended:
                    return
                if report is not None:
                    self._note(report)
                    yield report
            try:
                self._attend(ready)
            except (RunFailed, UsageError):
                self._close()
                yield from self.learner.last_reports(_SAVE_SECONDS)
                raise

    def _wait(self) -> list[Any]:
        """The references that resolved, as soon as one does, or none after a moment."""
        references = [*self.learner.references(), *self.fleet.endings()]
        if not references:
            time.sleep(LOOK_SECONDS)
            return []
        ray.wait(references, num_returns=1, timeout=LOOK_SECONDS, fetch_local=False)
        return ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)[0]

    def _note(self, report: Step) -> None:
        self.step, metrics, seconds = report[:3]
        self.sizing.hear(metrics, seconds)
        self.pace = metrics["groups_per_second"].value if "groups_per_second" in metrics else None
        self.faults.over("learner")

    def _attend(self, ready: list[Any]) -> None:
        """Everything but the learner's reports."""
        if self.learner.started(ready):
            self._seat_learner()
        for event in self.fleet.settle(ready):
            self._worker_event(event)
        self.fleet.replace_due()
        for name in self.fleet.replace_late(self._waits.place_seconds + self._waits.start_seconds):
            self.desk.say(f"{name} has not started in time: it hangs, or found no room; another is started")
        self.learner.replace_due()
        self._look()
        self._watch_learner()
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self._told = time.monotonic()
            self._obey()
            self.desk.tell(picture(self))

    def _close_on_request(self) -> None:
        if self.desk.stopping() and not self.closed:
            self._close()

    def _close(self) -> Any:
        self.closed = True
        return self.stream.close.remote()

    def close_stream(self) -> None:
        """Training is over: nobody waits for more. Raises TimeoutError where the stream does not answer."""
        ask(self._close(), SILENT_SECONDS, "the stream to close")

    def stream_where(self) -> Whereabouts:
        """The stream's process. Raises TimeoutError where it does not answer."""
        where: Whereabouts = ask(self.stream.where.remote(), SILENT_SECONDS, "the stream")
        return where

    def end(self) -> None:
        """End every process of the run."""
        with contextlib.suppress(RayError, TimeoutError):  # it may be what ended the run
            ask(self._close(), _END_SECONDS, "the stream to close")
        self.faults.close()
        self.fleet.close()
        self.learner.close()
        ray.kill(self.stream)

    # The learner

    def _hear(self) -> tuple[Step | None, bool]:
        """A report, or that training is over."""
        try:
            report = self.learner.next_report()
        except RayError as error:
            if not is_death(error):
                raise failed("the learner", error) from error
            self._learner_died(reason(error))
            return None, False
        return report, report is None

    def _learner_died(self, why: str, what: str = "died") -> None:
        if self.closed:
            raise RunFailed(f"the learner failed: {why}")
        due = self._deaths.due("learner", "the learner", self._limits.learner_restarts, why)
        self.faults.begin("learner", "learner", what, why, self.step)
        self.desk.say(f"the learner {what} at step {self.step} ({why}); it begins again from its newest checkpoint")
        self.learner.bury(due)

    def _seat_learner(self) -> None:
        try:
            self.learner.stand()
        except RayError as error:
            if not is_death(error):
                raise failed("the learner", error) from error
            self._learner_died(reason(error))
        except TimeoutError as error:
            raise RunFailed(str(error)) from error
        else:
            self.fleet.wake()

    def _watch_learner(self) -> None:
        seconds = time.monotonic() - self.learner.heard
        patience = self._waits.groups_seconds + self._waits.update_seconds
        where = self.learner.where if self.learner.state == "training" else None
        if where is not None and seconds > WARN_AT * patience and self._warned != self.learner.heard:
            self._warned = self.learner.heard  # once for each silence
            why = f"the learner has been silent for {seconds:.0f} s, and is killed after {patience:g} s"
            nodes.log_stacks(where, why)
        if where is not None and seconds > patience:
            nodes.kill(where)
            self._learner_died(f"waited {patience:g} s for the next step, which the learner owes", "hung")
        if self.learner.state == "starting" and seconds > self._waits.start_seconds + self._waits.place_seconds:
            raise RunFailed(f"waited {seconds:.0f} s for the learner to start again")

    # The workers

    def _worker_event(self, event: Event) -> None:
        member = event.member
        if event.kind == "started":
            self.faults.over(f"rollout-{member.slot}")
        elif event.kind == "waited":
            self.desk.say(f"{member.name} goes on waiting: {event.reason}")
            self.fleet.wait_again(member)
        elif event.kind == "died":
            self._worker_died(member, event.reason)

    def _worker_died(self, member: Member, why: str, what: str = "died") -> None:
        self.stream.lost.remote(member.name, why)
        self.stream.retire.remote(member.name)  # the dead one's question may still wait there for a block
        if self.closed or member.state == "retiring":
            self.fleet.bury(member, None)
            return
        slot = f"rollout-{member.slot}"
        due = self._deaths.due(slot, member.name, self._limits.worker_restarts, why)
        self.faults.begin(slot, member.name, what, why, self.step)
        self.desk.say(f"{member.name} {what} ({why}); another takes its place, and its block is made again")
        self.fleet.bury(member, due)

    # The stream

    def _look(self) -> None:
        """What the stream says of itself, at most once a second."""
        seen = self.sight.look(self.step)
        if seen is None:
            return
        self.seen = seen
        self._watch_workers(seen)
        self._judge(seen)
        self.fleet.let_go(seen.owed, seen.asked)
        for member in self.fleet.remind(self._waits.block_seconds):
            self._silent(member, Kill(f"{member.name} was asked to leave, and has not in deadlines.block_seconds"))
        if self.closed:
            self._close()  # again, as a stream that was restarted has forgotten it

    def _watch_workers(self, seen: Seen) -> None:
        members = {member.name: member for member in self.fleet.members.values()}
        for name in {owner(name) for name, _, _ in seen.stats.leases}:
            if name in members:
                members[name].busy = seen.asked
            else:
                self.stream.retire.remote(name)  # nobody began that block, so it does not count against it
                self.stream.lost.remote(name, "nobody of that name is left")
        for member, verdict in self._watch.verdicts(members.values(), seen, time.monotonic()):
            self._silent(member, verdict)

    def _silent(self, member: Member, verdict: Warn | Kill) -> None:
        """A worker that nears the end of its time, or is past it: its stacks, and its end."""
        if isinstance(verdict, Warn):
            _log.warning("%s", verdict.reason)
            if member.where is not None:
                nodes.log_stacks(member.where, verdict.reason)
            return
        if member.where is not None:
            nodes.kill(member.where)
        self._worker_died(member, verdict.reason, "hung")

    def _judge(self, seen: Seen) -> None:
        """Replace workers whose groups the learner refused; end a run in which too many groups fail."""
        stats, refused = seen.stats, seen.refused
        for member in list(self.fleet.members.values()):
            if member.name in refused and member.state in ("working", "idle"):
                if member.where is not None:
                    nodes.kill(member.where)
                self._worker_died(member, f"the learner refused its groups: {refused[member.name]}", "refused")
        failed = sum(stats.failed_groups.values())
        good = (stats.trained + stats.taken + stats.ready) * self._block_size
        share = self._failures.too_many(good, failed)
        if share is not None:
            causes = ", ".join(f"{cause} ({count})" for cause, count in stats.failed_groups.items())
            raise RunFailed(f"{share:.0%} of the latest groups failed, more than faults.failed_fraction: {causes}")

    # Its size

    def _obey(self) -> None:
        wish = self.desk.wish()
        if wish is not None:
            self.sizing.wish(wish)
        if self.closed:
            return
        complete = len(self.fleet) == self.sizing.wanted and all(
            member.state in ("working", "idle") for member in self.fleet.members.values()
        )
        started, leaving = self.fleet.resize(self.sizing.size(complete=complete))
        for name in leaving:
            self.faults.leave(name.partition(".")[0])
        if started or leaving:
            verb = f"starting {', '.join(started)}" if started else f"letting go of {', '.join(leaving)}"
            wanted = self.sizing.wanted
            self.desk.say(f"{wanted} rollout worker{'' if wanted == 1 else 's'} wanted: {verb}")
