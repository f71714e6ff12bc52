"""Weights that stay with the learner until a rollout worker asks for them: `weights.transport=collective`.

The stream hands out an `Offer` in place of a snapshot. A worker claims it, so that the learner keeps it, opens a
meeting and has it sent; the two make a process group of their own when they first meet, and keep it.
"""

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from tpo_dist.records import Snapshot
from tpo_dist.rollout.contract import WeightsLost
from tpo_dist.runtime.messages import GRACE_SECONDS, ask
from tpo_dist.weight_group import Announcement, Meeting, Sender, WeightGroup, announce


class Fetches(Protocol):
    """A rollout worker, as far as it is concerned with announced weights."""

    def fetch(self, announced: Announcement, sender: Sender) -> None:
        """As `RolloutWorker.fetch`."""
        ...


@dataclass(frozen=True, slots=True)
class Offer:
    """A published snapshot whose weights are still with the learner."""

    announced: Announcement
    holder: Any
    """The learner's actor."""
    stored: tuple[Any, ...] = ()
    """The reference to the whole snapshot, where an evaluator will ask for it."""

    @property
    def header(self) -> Snapshot:
        """The snapshot without its weights."""
        return self.announced.header

    def fetch(self, worker: Fetches, name: str) -> None:
        """Have the worker of that name take the weights over. Raises WeightsLost where they cannot be had, and
        WrongWeights as `RolloutWorker.load` does."""
        header = self.announced.header
        try:
            claimed = ask(self.holder.claim.remote(name, header.version), GRACE_SECONDS, "the learner to keep weights")
        except RayActorError as error:
            raise WeightsLost(f"snapshot {header.version} went with the learner that published it") from error
        if not claimed:
            raise WeightsLost(f"the learner has newer weights than snapshot {header.version} by now")
        worker.fetch(self.announced, _Courier(self.holder, name, _address()))


def lasting(content: list[Any]) -> list[Any]:
    """What can still be had of a published snapshot when newer ones have followed; nothing of an offer alone."""
    return [kept for each in content for kept in (each.stored if isinstance(each, Offer) else [each])]


def _address() -> str:
    """Of this node, as others of the cluster know it."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


@dataclass(frozen=True, slots=True)
class _Courier:
    """From a worker to the learner whose weights it has claimed."""

    holder: Any
    name: str
    host: str

    def send(self, meeting: Meeting) -> Callable[[], None]:
        sent = self.holder.send.remote(self.name, meeting)

        def end() -> None:
            try:
                ask(sent, 2 * meeting.seconds + GRACE_SECONDS, "the learner to have sent its weights")
            except RayTaskError as error:
                raise WeightsLost(str(error.cause)) from error

        return end


class WeightPost:
    """The newest weights of a learner, those that workers have claimed, and a group with each worker that has asked.

    Calls come from several threads; none of them waits for another's transfer.
    """

    def __init__(self, device: str) -> None:
        """`device`: of the learner."""
        self._device, self._source = device, uuid.uuid4().hex
        self._lock = threading.Lock()
        self._newest: Snapshot | None = None
        self._claimed: dict[str, Snapshot] = {}
        self._groups: dict[str, tuple[Meeting, WeightGroup]] = {}

    def publish(self, snapshot: Snapshot) -> Announcement:
        """Keep these weights in place of the last ones; nobody may write to them."""
        with self._lock:
            self._newest = snapshot
        return announce(snapshot, self._source)

    def claim(self, worker: str, version: int) -> bool:
        """Keep that version for the worker until it has it; False where there is a newer one."""
        with self._lock:
            self._claimed.pop(worker, None)
            if self._newest is None or self._newest.version != version:
                return False
            self._claimed[worker] = self._newest
            return True

    def send(self, worker: str, meeting: Meeting) -> None:
        """Send a worker what it has claimed, to where it meets. Raises TransferFailed; then the group is gone."""
        with self._lock:
            snapshot = self._claimed.pop(worker)
            known = self._groups.pop(worker, None)
        if self._device.startswith("cuda"):
            torch.cuda.set_device(torch.device(self._device).index or 0)
        if known is None or known[0] != meeting:
            if known is not None:
                known[1].close()
            known = meeting, WeightGroup(meeting, 0, _address(), worker)
        known[1].send(snapshot.arrays)
        with self._lock:
            self._groups[worker] = known

    def forget(self, worker: str) -> None:
        """That worker's process has ended."""
        with self._lock:
            self._claimed.pop(worker, None)
            known = self._groups.pop(worker, None)
        if known is not None:
            known[1].close()


class Sending:
    """What an actor that has weights answers to workers, beside its own calls and while it works."""

    post: WeightPost

    def offer(self, snapshot: Snapshot, stored: tuple[Any, ...] = ()) -> Offer:
        """Publish it; `stored` as in `Offer`. Not for others to call."""
        return Offer(self.post.publish(snapshot), ray.get_runtime_context().current_actor, stored)

    @ray.method(concurrency_group="claims")
    def claim(self, worker: str, version: int) -> bool:
        """As `WeightPost.claim`."""
        return self.post.claim(worker, version)

    @ray.method(concurrency_group="sending")
    def send(self, worker: str, meeting: Meeting) -> None:
        """As `WeightPost.send`."""
        self.post.send(worker, meeting)

    @ray.method(concurrency_group="claims")
    def forget(self, worker: str) -> None:
        """As `WeightPost.forget`."""
        self.post.forget(worker)


SENDING_THREADS: dict[str, Any] = {"concurrency_groups": {"claims": 1, "sending": 16}}
"""Of such an actor: a worker that hangs takes one of its transfers at a time, up to the deadline."""
