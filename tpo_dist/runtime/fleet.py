"""The rollout workers of a run: as many as are wanted, each in a process that may die."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from tpo_dist.errors import UsageError
from tpo_dist.runtime.answers import failed, reason
from tpo_dist.runtime.messages import Whereabouts
from tpo_dist.waiting import DeadlineExceeded

State = Literal["starting", "working", "idle", "retiring", "restarting"]


@dataclass(slots=True)
class Member:
    """One place in the fleet, and the process that has it now."""

    slot: int
    name: str
    """A process that replaces another has a name of its own: no message of the dead one can be taken for its own."""
    actor: Any = None
    state: State = "starting"
    since: float = field(default_factory=time.monotonic)
    busy: float = 0.0
    """When it was last seen with a block (monotonic seconds)."""
    ending: Any = None
    """What its current call will come to."""
    where: Whereabouts | None = None
    deaths: int = 0
    due: float = 0.0
    """When a process that died is to be replaced."""


@dataclass(frozen=True, slots=True)
class Event:
    """What became of a worker's process."""

    member: Member
    kind: Literal["started", "ended", "died", "waited"]
    """waited: for a block, up to its deadline; it lives, and the learner owes it work, which has its own deadlines."""
    reason: str = ""


class Fleet:
    """Starts, retires and replaces workers; decides nothing."""

    def __init__(self, make: Callable[[str], Any], seconds: float) -> None:
        """`make` gives an actor for a name. `seconds` bounds each wait of a worker for a lease."""
        self._make, self._seconds = make, seconds
        self.stream: Any = None
        """Where its workers get their work; given before any of them begins."""
        self.gone: Callable[[str], None] = lambda _: None
        """Hears the name of each process that has ended."""
        self.members: dict[int, Member] = {}
        self._names: dict[int, int] = {}
        self._over = False

    def __len__(self) -> int:
        return sum(member.state != "retiring" for member in self.members.values())

    def resize(self, count: int) -> tuple[list[str], list[str]]:
        """Start or retire workers until there are `count` of them; the names of both."""
        staying = [member for member in self.members.values() if member.state != "retiring"]
        slots = (slot for slot in range(count + len(self.members)) if slot not in self.members)
        started = [self._start(next(slots)).name for _ in range(count - len(staying))]
        order = {"restarting": 0, "starting": 1, "idle": 2, "working": 3}
        staying.sort(key=lambda member: (order[member.state], -member.slot))
        leaving = staying[: max(0, len(staying) - count)]
        for member in leaving:
            self._retire(member)
        return started, [member.name for member in leaving]

    def _start(self, slot: int) -> Member:
        number = self._names[slot] = self._names.get(slot, 0) + 1
        name = f"rollout-{slot}" if number == 1 else f"rollout-{slot}.{number}"
        member = self.members.setdefault(slot, Member(slot, name))
        member.name, member.state, member.since, member.where = name, "starting", time.monotonic(), None
        member.actor = self._make(name)
        member.ending = member.actor.ready.remote()
        return member

    def _retire(self, member: Member) -> None:
        if member.state in ("starting", "restarting"):  # it has nothing to hand back
            self._drop(member)
            return
        member.state, member.since = "retiring", time.monotonic()
        self.stream.retire.remote(member.name)

    def _drop(self, member: Member) -> None:
        self._kill(member)
        del self.members[member.slot]

    def _kill(self, member: Member) -> None:
        if member.actor is not None:
            ray.kill(member.actor)
            self.gone(member.name)

    def endings(self) -> list[Any]:
        """References that resolve when something happens to a worker."""
        return [member.ending for member in self.members.values() if member.ending is not None]

    def settle(self, ready: list[Any]) -> Iterator[Event]:
        """What happened to the workers of these references. Raises UsageError where one says what to do about it, as
        no other worker would do better, and RunFailed where one has lost the stream."""
        for member in list(self.members.values()):
            if member.ending is None or member.ending not in ready:
                continue
            ending, member.ending = member.ending, None
            try:
                answer = ray.get(ending)
            except RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, UsageError):
                    raise cause from None
                if isinstance(error, RayTaskError) and isinstance(cause, RayActorError):
                    raise failed(member.name, error) from error  # it lives, and the stream does not
                yield Event(member, "waited" if isinstance(cause, DeadlineExceeded) else "died", reason(error))
                continue
            if member.state == "starting":
                member.where = answer
                self._work(member)
                yield Event(member, "started")
            else:
                member.state, member.since = "retiring" if member.state == "retiring" else "idle", time.monotonic()
                yield Event(member, "ended")

    def _work(self, member: Member) -> None:
        member.state, member.since = "working", time.monotonic()
        member.ending = member.actor.roll.remote(self.stream, self._seconds)

    def wake(self) -> None:
        """Those whose loop ended because nothing was left to do have work again: the learner goes back some steps."""
        for member in self.members.values():
            if member.state == "idle":
                self._work(member)

    def bury(self, member: Member, due: float | None) -> None:
        """A process is gone; another takes its place at `due` (monotonic seconds), nobody where that is None."""
        self._kill(member)
        member.actor, member.where, member.ending = None, None, None
        if due is None or member.state == "retiring":
            del self.members[member.slot]
            return
        member.state, member.since, member.due = "restarting", time.monotonic(), due
        member.deaths += 1

    def replace_due(self) -> None:
        """Start the replacements whose time has come."""
        for member in list(self.members.values()):
            if member.state == "restarting" and time.monotonic() >= member.due:
                self._start(member.slot)

    def replace_late(self, seconds: float) -> list[str]:
        """Start others for those that have been starting for longer; their names. What waited for room waits again."""
        now = time.monotonic()
        late = [each for each in self.members.values() if each.state == "starting" and now - each.since > seconds]
        names = [member.name for member in late]
        for member in late:
            self._kill(member)
            self._start(member.slot)
        return names

    def wait_again(self, member: Member) -> None:
        """Its wait for a block came to its deadline, and it lives."""
        if member.state == "working":
            self._work(member)

    def remind(self, seconds: float) -> list[Member]:
        """Tell the stream again who leaves, as a restarted one has forgotten it; those still there after so long."""
        leaving = [m for m in self.members.values() if m.state == "retiring" and m.ending is not None]
        for member in leaving:
            self.stream.retire.remote(member.name)
        return [member for member in leaving if time.monotonic() - member.since > seconds]

    def let_go(self, owed: Mapping[str, list[int]], asked: float) -> None:
        """End retired workers whose loop is over and on whom no finished block lives any more.

        `asked`: when the stream was asked what they owe; before a loop was over, it did not know of the last block.
        """
        for member in list(self.members.values()):
            if member.state != "retiring" or member.ending is not None or member.since > asked:
                continue
            if not owed.get(member.name):
                self._drop(member)

    def close(self) -> None:
        """End every process."""
        for member in list(self.members.values()):
            self._drop(member)
