"""A rollout worker in a process of its own: a thin Ray shell, no logic of its own."""

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ObjectLostError

from tpo_dist.blocks import Lease
from tpo_dist.records import Snapshot
from tpo_dist.rollout.worker import Rolled, RolloutWorker, summarise
from tpo_dist.runtime.messages import (
    GRACE_SECONDS,
    SMALL_BYTES,
    Delivery,
    Turn,
    Whereabouts,
    ask,
    pack,
    set_up_process,
    unpack,
    whereabouts,
)

_PAUSE_SECONDS = 0.5


class RolloutShell:
    """One rollout worker in a process of its own.

    Consumes leases and snapshots, produces blocks; waits for the learner's next version.
    """

    def __init__(self, name: str, threads: int, make_worker: Callable[[], RolloutWorker]) -> None:
        set_up_process(threads)
        self._name, self._make_worker, self._loaded = name, make_worker, (-1, "")

    def ready(self) -> Whereabouts:
        """Build the worker. Raises whatever it raises; from a constructor, Ray would only say that the actor died."""
        self._worker = self._make_worker()
        return whereabouts(self._name)

    def roll(self, stream: Any, seconds: float) -> int:
        """Work until there is nothing more to do; blocks delivered. `seconds` bounds each wait for a lease."""
        patience = seconds + GRACE_SECONDS
        self._load(ask(stream.newest.remote(self._name, seconds), patience, "the first snapshot"))
        large: list[Any] = []
        delivered, delivery = 0, None
        while True:
            asked = time.perf_counter()
            turn = pack(Turn(self._name, self._loaded, delivery, seconds))
            answer = ask(stream.turn.remote(turn, large), patience, "its next block")
            if not answer:
                return delivered
            started = time.perf_counter()
            lease: Lease = unpack(answer[0])
            if self._loaded != (lease.version, lease.digest) and not self._load(answer[1:]):
                delivery, large, why = None, [], "its snapshot went with the learner that published it"
                ask(stream.hand_back.remote(lease, why), GRACE_SECONDS, "the stream")
                time.sleep(_PAUSE_SECONDS)  # until the stream hears of it, it has no other
                continue
            rolled = self._worker.roll(lease.draw_ids)
            delivery, large = deliver(lease, rolled, started - asked, time.perf_counter() - started)
            del rolled
            delivered += 1

    def _load(self, reference: list[Any]) -> bool:
        """False where it cannot be had any more: the learner that made it died, and the next publishes its own."""
        try:
            snapshots: list[Snapshot] = ray.get(reference, timeout=GRACE_SECONDS)
        except ObjectLostError:
            return False
        for snapshot in snapshots:  # none once the run is over
            self._worker.load(snapshot)
            self._loaded = snapshot.version, snapshot.digest
        return True


def deliver(lease: Lease, rolled: Rolled, waited: float, rolling: float) -> tuple[Delivery, list[Any]]:
    """A block as it travels: small groups by value, large ones as a reference beside it."""
    groups = rolled.groups
    small = None if groups is None or groups.nbytes > SMALL_BYTES else pack(groups)
    large = [] if groups is None or small is not None else [ray.put(groups)]
    return Delivery(lease, summarise(rolled, waited, rolling), small, rolled.failures), large


RolloutActor: Any = ray.remote(RolloutShell)
