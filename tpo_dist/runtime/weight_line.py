"""The path of snapshots from one process to another, without training: for measuring it."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import ray

from tpo_dist.records import Snapshot
from tpo_dist.runtime.answers import await_all
from tpo_dist.runtime.messages import set_up_process
from tpo_dist.runtime.weight_post import SENDING_THREADS, Offer, Sending, WeightPost
from tpo_dist.weight_group import Announcement, Sender

Source = Callable[[int], Snapshot]
"""The snapshot of a version."""

_PATIENCE_SECONDS = 300.0


class Sink(Protocol):
    """Takes snapshots over."""

    parts: dict[str, float]
    """The seconds of each part of the last time."""

    def load(self, snapshot: Snapshot) -> None:
        """One that brings its weights."""
        ...

    def fetch(self, announced: Announcement, sender: Sender) -> None:
        """One whose weights are still at the source."""
        ...


class WeightLine:
    """A learner's process and a rollout worker's, with the object store or a process group between them."""

    def __init__(self, make_source: Callable[[], Source], make_sink: Callable[[], Sink], threads: int) -> None:
        """Each is made in its own process; `threads`: torch threads of each."""
        self._source: Any = _SourceActor.remote(make_source, threads)
        self._sink: Any = _Sink.remote(make_sink, threads)  # type: ignore[attr-defined]

    def stand(self, seconds: float) -> None:
        """Wait until both are ready. Raises RunFailed where they are not in time, UsageError where one says why."""
        await_all({actor.ready.remote(): "a process of the benchmark of weights" for actor in self._actors()}, seconds)

    def turn(self, version: int) -> dict[str, float]:
        """Pass a snapshot on through the object store: seconds in all, and of each part."""
        started = time.perf_counter()
        reference, put = ray.get(self._source.publish.remote(version), timeout=_PATIENCE_SECONDS)
        parts: dict[str, float] = ray.get(self._sink.take.remote(reference), timeout=_PATIENCE_SECONDS)
        return {"all": time.perf_counter() - started, "put": put, **parts}

    def turn_by_group(self, version: int) -> dict[str, float]:
        """The same by a process group."""
        started = time.perf_counter()
        offer = ray.get(self._source.announce.remote(version), timeout=_PATIENCE_SECONDS)
        parts: dict[str, float] = ray.get(self._sink.fetch.remote(offer), timeout=_PATIENCE_SECONDS)
        return {"all": time.perf_counter() - started, **parts}

    def close(self) -> None:
        """End its processes."""
        for actor in self._actors():
            ray.kill(actor)

    def _actors(self) -> tuple[Any, Any]:
        return self._source, self._sink


class _Source(Sending):
    def __init__(self, make: Callable[[], Source], threads: int) -> None:
        set_up_process(threads)
        self._make, self.post = make, WeightPost("cpu")

    def ready(self) -> None:
        self._snapshot = self._make()

    def publish(self, version: int) -> tuple[list[Any], float]:
        snapshot = self._snapshot(version)
        started = time.perf_counter()
        return [ray.put(snapshot)], time.perf_counter() - started

    def announce(self, version: int) -> Offer:
        return self.offer(self._snapshot(version))


_SourceActor: Any = ray.remote(num_cpus=0, **SENDING_THREADS)(_Source)


@ray.remote(num_cpus=0)
class _Sink:
    def __init__(self, make: Callable[[], Sink], threads: int) -> None:
        set_up_process(threads)
        self._make = make

    def ready(self) -> None:
        self._sink = self._make()

    def take(self, reference: list[Any]) -> dict[str, float]:
        started = time.perf_counter()
        snapshot: Snapshot = ray.get(reference[0])
        got = time.perf_counter() - started
        self._sink.load(snapshot)
        return {"get": got, **self._sink.parts}

    def fetch(self, offer: Offer) -> dict[str, float]:
        offer.fetch(self._sink, "sink")
        return self._sink.parts
