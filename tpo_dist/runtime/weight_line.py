"""The path of snapshots from one process to another, without training: for measuring it."""

import time
from collections.abc import Callable
from typing import Any

import ray

from tpo_dist.records import Snapshot
from tpo_dist.runtime.answers import await_all
from tpo_dist.runtime.messages import set_up_process

Source = Callable[[int], Snapshot]
"""The snapshot of a version."""
Sink = Callable[[Snapshot], dict[str, float]]
"""Takes a snapshot over; the seconds of each part of that."""

_PATIENCE_SECONDS = 300.0


class WeightLine:
    """A learner's process and a rollout worker's, with the object store between them."""

    def __init__(self, make_source: Callable[[], Source], make_sink: Callable[[], Sink], threads: int) -> None:
        """Each is made in its own process; `threads`: torch threads of each."""
        self._source: Any = _Source.remote(make_source, threads)  # type: ignore[attr-defined]
        self._sink: Any = _Sink.remote(make_sink, threads)  # type: ignore[attr-defined]

    def stand(self, seconds: float) -> None:
        """Wait until both are ready. Raises RunFailed where they are not in time, UsageError where one says why."""
        await_all({actor.ready.remote(): "a process of the benchmark of weights" for actor in self._actors()}, seconds)

    def turn(self, version: int) -> dict[str, float]:
        """Pass a snapshot on: seconds in all, and of each part."""
        started = time.perf_counter()
        reference, put = ray.get(self._source.publish.remote(version), timeout=_PATIENCE_SECONDS)
        parts: dict[str, float] = ray.get(self._sink.take.remote(reference), timeout=_PATIENCE_SECONDS)
        return {"all": time.perf_counter() - started, "put": put, **parts}

    def close(self) -> None:
        """End its processes."""
        for actor in self._actors():
            ray.kill(actor)

    def _actors(self) -> tuple[Any, Any]:
        return self._source, self._sink


@ray.remote(num_cpus=0)
class _Source:
    def __init__(self, make: Callable[[], Source], threads: int) -> None:
        set_up_process(threads)
        self._make = make

    def ready(self) -> None:
        self._snapshot = self._make()

    def publish(self, version: int) -> tuple[list[Any], float]:
        snapshot = self._snapshot(version)
        started = time.perf_counter()
        return [ray.put(snapshot)], time.perf_counter() - started


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
        return {"get": time.perf_counter() - started, **self._sink(snapshot)}
