"""Weights that an engine fetches from the learner by a process group, all of them or none.

An engine may have several processes, each a rank of the group beside the learner. All of them take the weights beside
those in use and hash them; only when each has what was published are layers filled. So whatever becomes of the learner
on the way, the engine goes on with the weights that it had.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch._C._distributed_c10d import Store

from tpo_dist.records import Array, weights_digest
from tpo_dist.rollout.contract import WeightsLost, WrongWeights
from tpo_dist.weight_buckets import Entry
from tpo_dist.weight_group import Announcement, Meeting, Sender, TransferFailed, WeightGroup, Wire, open_meeting

LEARNER = "the learner"

Call = Callable[..., list[Any]]
"""A method of every process of the engine, by name, with `kwargs`; the answer of each."""


class Fetcher:
    """Leads the processes of one engine through a transfer."""

    def __init__(self, call: Call, ranks: int, wire: Wire) -> None:
        """`ranks`: processes of the engine."""
        self.call, self._ranks, self._wire = call, ranks, wire
        self._met: tuple[str, Meeting, Store] | None = None
        """With which source, where, and what keeps that open."""

    def fetch(self, announced: Announcement, sender: Sender) -> None:
        """Fill the engine's layers. Raises WeightsLost where the weights do not arrive, and WrongWeights where they are
        not those that were published; then nothing has changed."""
        fresh = self._met is None or self._met[0] != announced.source
        if fresh:
            self._met = announced.source, *open_meeting(sender.host, self._ranks + 1, self._wire)
        assert self._met is not None
        meeting = self._met[1]
        try:
            sent = sender.send(meeting)
            if fresh:
                info = {"meeting": asdict(meeting), "host": sender.host}
                self.call("init_weight_transfer_engine", kwargs={"init_info": info})
            self.call("start_weight_update")
            self.call("update_weights", kwargs={"update_info": {"entries": announced.entries}})
            sent()
            digests = set(self.call("arrived_digest"))
        except Exception as error:
            self._abandon()
            raise WeightsLost(f"snapshot {announced.header.version} did not arrive: {error}") from error
        if digests != {announced.header.digest}:
            self._abandon()
            found = " and ".join(sorted(digests))
            raise WrongWeights(
                f"snapshot {announced.header.version} was published with digest {announced.header.digest}, "
                f"but the weights that arrived here have {found}"
            )
        self.call("finish_weight_update")

    def _abandon(self) -> None:
        """The next transfer is between others, or meets anew."""
        self._met = None
        self.call("abandon_weights")


class Arrival:
    """What one process of the engine has of a transfer."""

    def __init__(self) -> None:
        self._group: WeightGroup | None = None
        self.arrays: dict[str, Array] = {}
        self.digest = ""

    def meet(self, meeting: Meeting, rank: int, host: str) -> None:
        """Join a group in place of the last one. Raises TransferFailed."""
        self.close()
        self._group = WeightGroup(meeting, rank, host, LEARNER)

    def take(self, entries: Sequence[Entry]) -> None:
        """All arrays, and their digest. Raises TransferFailed."""
        if self._group is None:
            raise TransferFailed("this process has not met the learner")
        self.drop()
        self.arrays = dict(self._group.receive(entries))
        self.digest = weights_digest(self.arrays)

    def drop(self) -> None:
        """Forget what has arrived."""
        self.arrays, self.digest = {}, ""

    def close(self) -> None:
        """Leave the group, if there is one."""
        self.drop()
        if self._group is not None:
            self._group.close()
            self._group = None


@dataclass(slots=True)
class Joining:
    """Where the learner is met, and the address of this node."""

    meeting: dict[str, Any]
    host: str


class Taking:
    """The part of a transfer engine of vLLM that takes weights, and fills no layers."""

    init_info_cls: Any = Joining
    parallel_config: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.arrival = Arrival()

    def init_transfer_engine(self, init_info: Joining) -> None:
        """Meet the learner, whose rank is 0."""
        self.arrival.meet(Meeting(**init_info.meeting), 1 + self.parallel_config.rank, init_info.host)

    def start_weight_update(self) -> None:
        """Nothing yet: the weights in use stay until all others are here."""

    def receive_weights(self, update_info: Any) -> None:
        """All of them, into memory of their own."""
        if update_info.entries:
            self.arrival.take(update_info.entries)
        else:
            self.arrival.arrays = dict(update_info.arrays())

    def shutdown(self) -> None:
        """Leave the learner."""
        self.arrival.close()


class Fetching:
    """Methods of each process of the engine, beside vLLM's own."""

    weight_transfer_engine: Taking

    def arrived_digest(self) -> str:
        """Of the weights that the learner sent."""
        return self.weight_transfer_engine.arrival.digest

    def abandon_weights(self) -> None:
        """They have not arrived everywhere: leave the learner, and let the next update begin anew."""
        self.weight_transfer_engine.shutdown()
        self._weight_update_active = False  # vLLM keeps it where this process had no trouble
