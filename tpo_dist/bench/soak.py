"""A long run that is watched from outside: memory of each process, objects in the store, sizes of files."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tpo_dist.audit import audit
from tpo_dist.programs.distributed import System, launch
from tpo_dist.programs.folder import LEDGER
from tpo_dist.programs.job import configure
from tpo_dist.programs.recorder import Recorder
from tpo_dist.programs.run import Run
from tpo_dist.runtime.store import Store, object_store

JOB = (
    "task.name=judged_reversal",
    "task.length=4",
    "task.seconds=0.3",
    "rollout.groups_per_step=24",
    "rollout.block_size=4",
    "rollout.group_size=16",
    "rollout.workers=3",
    "rollout.cpus=0.25",
    "stream.max_staleness=2",
    "checkpoint.every_steps=100",
    "log.plot=false",
)
"""Waits more than it computes, so that hours of it cost little."""

_EVERY_SECONDS = 20.0
_SETTLED = 0.25  # of the time is warm-up
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(slots=True)
class Sample:
    """One look."""

    seconds: float
    step: int
    resident_mb: Mapping[str, float]
    store: Store | None
    file_bytes: Mapping[str, int]


@dataclass(slots=True)
class _Watch:
    system: System
    folder: Path
    samples: list[Sample] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def look(self, started: float) -> None:
        supervisor = self.system.supervisor
        pids = {"driver": os.getpid(), "stream": supervisor.stream_where().pid}
        seats = [supervisor.learner.where, *(member.where for member in supervisor.fleet.members.values())]
        pids |= {where.name: where.pid for where in seats if where is not None}
        resident = {name: _resident_mb(pid) for name, pid in pids.items()}
        files = {str(p.relative_to(self.folder)): p.stat().st_size for p in _files(self.folder)}
        self.samples.append(Sample(time.monotonic() - started, supervisor.step, resident, object_store(), files))


def bench_soak(folder: Path, minutes: float, overrides: tuple[str, ...], tell: Callable[[str], None]) -> dict[str, Any]:
    """Train for that long; what grew. Megabytes per hour are a straight line through the last three quarters."""
    config = configure({}, (*JOB, f"steps={10**7}", f"runs_dir={folder.parent}", *overrides))
    folder.mkdir(parents=True)
    run = Run(config, folder)
    recorder = Recorder(run)
    started, due = time.monotonic(), 0.0
    with launch(run) as system:
        watch = _Watch(system, folder)
        for report in system.train(config.steps):
            recorder.record(report)
            now = time.monotonic() - started
            if now >= due:
                due = now + _EVERY_SECONDS
                watch.look(started)
                tell(_line(watch.samples[-1]))
            if now > 60 * minutes:
                run.stop.set()
    recorder.finish("interrupted")
    return _account(watch.samples, folder)


def _account(samples: list[Sample], folder: Path) -> dict[str, Any]:
    first, last = samples[int(_SETTLED * len(samples))], samples[-1]
    late = samples[int(_SETTLED * len(samples)) :]
    steps = last.step - first.step
    growing = {
        name: round((size - first.file_bytes.get(name, 0)) / steps, 1)
        for name, size in last.file_bytes.items()
        if size > first.file_bytes.get(name, 0) and not name.startswith("checkpoints")
    }
    objects = [sample.store.objects for sample in late if sample.store is not None]
    found = audit(folder / LEDGER)
    return {
        "minutes": round(last.seconds / 60, 1),
        "steps": last.step,
        "resident_mb": {name: [first.resident_mb.get(name), size] for name, size in last.resident_mb.items()},
        "resident_mb_per_hour": {name: _slope(late, name) for name in last.resident_mb},
        "objects": [min(objects), max(objects), objects[-1]] if objects else None,
        "file_bytes_per_step": growing,
        "files": [len(first.file_bytes), len(last.file_bytes)],
        "ledger_clean": found.clean,
    }


def _slope(samples: list[Sample], name: str) -> float | None:
    """Megabytes per hour of a process, by least squares."""
    pairs = [(s.seconds / 3600, s.resident_mb[name]) for s in samples if name in s.resident_mb]
    if len(pairs) < 3:
        return None
    hours, sizes = np.array(pairs).T
    return round(float(np.polyfit(hours, sizes, 1)[0]), 2)


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _resident_mb(pid: int) -> float:
    try:
        return round(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB, 1)
    except OSError:
        return 0.0


def _line(sample: Sample) -> str:
    sizes = ", ".join(f"{name} {size:.0f}" for name, size in sample.resident_mb.items())
    store = "" if sample.store is None else f"; {sample.store.objects} objects"
    return f"{sample.seconds / 60:.1f} min, step {sample.step}: MB {sizes}{store}"
