"""Running what a study still lacks: in this process or spread over Ray, finished runs kept as they come."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from tpo_dist.config import ClusterConfig
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.process import keep_freed_memory
from tpo_dist.studies.engines import ENGINES, SEEDS_TOGETHER, check_data
from tpo_dist.studies.runs import RunFile

CONNECT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Runs of one setting that are advanced together."""

    files: tuple[RunFile, ...]

    @property
    def name(self) -> str:
        """For people: the labels and the seeds."""
        seeds = [file.seed for file in self.files]
        labels = " ".join(str(value) for value in self.files[0].setting.labels.values())
        return f"{labels} seed {seeds[0]}" if len(seeds) == 1 else f"{labels} seeds {seeds[0]} to {seeds[-1]}"

    @property
    def gpus(self) -> float:
        """GPUs that its process needs; learner and sampler share them."""
        options = self.files[0].setting.options
        return max(float(options.get(f"{role}.gpus") or 0) for role in ("learner", "rollout"))

    @property
    def work(self) -> int:
        """Steps of all seeds together."""
        return self.files[0].setting.steps * len(self.files)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an execution is."""

    done: float
    """Steps finished, those of unfinished runs included."""
    total: float
    finished: int
    """Runs finished and stored in this execution."""
    runs: int
    seconds: float
    running: tuple[str, ...]

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None before there is one."""
        return None if self.done <= 0 else self.seconds * (self.total - self.done) / self.done


def missing(files: Sequence[RunFile]) -> list[Batch]:
    """What is still to be run, with each run once, in an order that fills every setting seed by seed."""
    waiting = {file.path: file for file in files if not file.finished}
    batches = []
    by_setting: dict[Any, list[RunFile]] = {}
    for file in waiting.values():
        by_setting.setdefault(file.path.parent, []).append(file)
    for group in by_setting.values():
        size = SEEDS_TOGETHER[group[0].setting.engine]
        batches += [Batch(tuple(group[i : i + size])) for i in range(0, len(group), size)]
    return sorted(batches, key=lambda batch: batch.files[0].seed)


def simulate(batch: Batch, report: Callable[[float], None]) -> list[dict[str, NDArray[Any]]]:
    """The curves of a batch, computed in this process with one thread."""
    torch.set_num_threads(1)
    keep_freed_memory()
    setting = batch.files[0].setting
    seeds = [file.seed for file in batch.files]
    return [dict(c) for c in ENGINES[setting.engine](setting.options, seeds, setting.steps, report)]


def execute(batches: Sequence[Batch], ray: ClusterConfig | None, show: Callable[[Progress], None]) -> None:
    """Run all batches and store each as it ends; `show` hears how far it is. `ray` None: one after another, here.

    Raises RunFailed, naming the run, where one fails; those finished before stay. Raises UsageError for data that is
    missing or damaged, before anything starts, and where this process lacks the device asked for.
    """
    for batch in batches:
        check_data(batch.files[0].setting.engine, batch.files[0].setting.options)
    watch = _Watch(batches, show)
    if ray is None:
        for index, batch in enumerate(batches):
            watch.note(index, 0.0)
            try:
                curves = simulate(batch, partial(watch.note, index))
            except UsageError:
                raise
            except Exception as error:
                raise RunFailed(f"{batch.name} failed: {type(error).__name__}: {error}") from error
            _store(batch, curves)
            watch.finish(index)
        return
    from tpo_dist.runtime.cluster import cluster  # a machine without Ray runs studies too
    from tpo_dist.runtime.fan_out import fan_out

    with cluster(ray, CONNECT_SECONDS):
        names, gpus = [batch.name for batch in batches], [batch.gpus for batch in batches]
        for event in fan_out(simulate, batches, names, gpus=gpus):
            if event.result is None:
                watch.note(event.index, event.done)
            else:
                _store(batches[event.index], event.result)
                watch.finish(event.index)


def _store(batch: Batch, curves: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    for file, curve in zip(batch.files, curves, strict=True):
        file.write(curve)


class _Watch:
    """Adds up what is known about the progress of every batch."""

    def __init__(self, batches: Sequence[Batch], show: Callable[[Progress], None]) -> None:
        self._batches, self._show, self._started = batches, show, time.monotonic()
        self._done: dict[int, float] = {}
        self._finished: set[int] = set()

    def note(self, index: int, done: float) -> None:
        self._done[index] = done
        self._show(self._progress())

    def finish(self, index: int) -> None:
        self._finished.add(index)
        self.note(index, self._batches[index].work)

    def _progress(self) -> Progress:
        return Progress(
            done=sum(self._done.values()),
            total=float(sum(batch.work for batch in self._batches)),
            finished=sum(len(self._batches[i].files) for i in self._finished),
            runs=sum(len(batch.files) for batch in self._batches),
            seconds=time.monotonic() - self._started,
            running=tuple(self._batches[i].name for i in self._done if i not in self._finished),
        )
