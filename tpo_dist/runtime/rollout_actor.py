"""A rollout worker in a process of its own: a thin Ray shell, no logic of its own."""

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ObjectLostError

from tpo_dist.blocks import BlockSummary, Lease
from tpo_dist.records import ScoredGroups, Snapshot
from tpo_dist.rollout.contract import WeightsLost
from tpo_dist.rollout.worker import Rolled, RolloutWorker, summarise
from tpo_dist.runtime.messages import (
    GRACE_SECONDS,
    SMALL_BYTES,
    Delivery,
    Turn,
    Whereabouts,
    ask,
    pack,
    receive,
    set_up_process,
    unpack,
    whereabouts,
)
from tpo_dist.runtime.weight_post import Offer

_log = logging.getLogger(__name__)

GONE = "its snapshot went with the learner that published it, or was replaced"
PAUSE_SECONDS = 0.5
_TURN_SECONDS = 0.05  # of work that is taken on at once: a call to the stream takes some milliseconds of all its ends


class RolloutShell:
    """One rollout worker in a process of its own.

    Consumes leases and snapshots, produces blocks; waits for the learner's next version.
    """

    def __init__(self, name: str, threads: int, make_worker: Callable[[], RolloutWorker]) -> None:
        set_up_process(threads)
        self.name, self._make_worker = name, make_worker
        self.loaded = -1, ""
        """Version and digest of its weights."""

    def ready(self) -> Whereabouts:
        """Build the worker. Raises whatever it raises; from a constructor, Ray would only say that the actor died."""
        self.worker = self._make_worker()
        return whereabouts(self.name)

    def roll(self, stream: Any, seconds: float) -> int:
        """Work until there is nothing more to do; blocks delivered. `seconds` bounds each wait for a lease."""
        patience = seconds + GRACE_SECONDS
        self.load(ask(stream.newest.remote(self.name, seconds), patience, "the first snapshot"))
        delivered, most = 0, 1
        deliveries: list[Delivery] = []
        parcel: list[Any] = []
        while True:
            asked = time.perf_counter()
            turn = pack(Turn(self.name, self.loaded, tuple(deliveries), most, seconds))
            answer = ask(stream.turn.remote(turn, parcel), patience, "its next block")
            if not answer:
                return delivered
            started = time.perf_counter()
            leases: list[Lease] = unpack(answer[0])
            if self.loaded != (leases[0].version, leases[0].digest) and not self.load(answer[1:]):
                deliveries, parcel, why = [], [], GONE
                ask(stream.hand_back.remote(leases, why), GRACE_SECONDS, "the stream")
                time.sleep(PAUSE_SECONDS)  # until the stream hears of it, it has no other
                continue
            loaded = time.perf_counter()
            deliveries, parcel = self._make(leases, asked, started)
            delivered += len(deliveries)
            pace = len(deliveries) / (time.perf_counter() - loaded)
            most = max(1, min(2 * most, int(_TURN_SECONDS * pace)))

    def _make(self, leases: list[Lease], asked: float, started: float) -> tuple[list[Delivery], list[Any]]:
        """These blocks and their parcel; only the first ones where they take longer than thought: the others stay
        leased, and come again with the next turn."""
        deliveries: list[Delivery] = []
        large: list[ScoredGroups] = []
        end = time.perf_counter() + 2 * _TURN_SECONDS
        for lease in leases:
            rolled = self.worker.roll(lease.draw_ids)
            summary = summarise(rolled, started - asked, time.perf_counter() - started)
            deliveries.append(deliver(lease, rolled, summary, large))
            asked = started = time.perf_counter()
            if started > end:
                break
        return deliveries, [ray.put(large)] if large else []

    def load(self, content: list[Any]) -> bool:
        """Take over a published snapshot; False where it cannot be had any more: the learner that made it died, and the
        next publishes its own, or it has a newer one by now."""
        for found in content:  # nothing once the run is over
            try:
                snapshot = self._take(found)
            except ObjectLostError:
                return False
            except WeightsLost as error:
                _log.warning("%s: %s", self.name, error)
                return False
            self.loaded = snapshot.version, snapshot.digest
        return True

    def _take(self, found: Any) -> Snapshot:
        if isinstance(found, Offer):
            found.fetch(self.worker, self.name)
            return found.header
        snapshot: Snapshot = receive(found, GRACE_SECONDS)
        self.worker.load(snapshot)
        return snapshot


def deliver(lease: Lease, rolled: Rolled, summary: BlockSummary, large: list[ScoredGroups]) -> Delivery:
    """A block as it travels: small groups by value; large ones are put into the parcel, with those that it has."""
    groups = rolled.groups
    if groups is None or groups.nbytes <= SMALL_BYTES:
        return Delivery(lease, summary, None if groups is None else pack(groups), failures=rolled.failures)
    large.append(groups)
    return Delivery(lease, summary, place=len(large) - 1, failures=rolled.failures)


RolloutActor: Any = ray.remote(RolloutShell)
