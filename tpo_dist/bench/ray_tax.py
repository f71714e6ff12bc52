"""What Ray costs: the same synchronous training in one process and through actors, one rollout worker."""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tpo_dist.bench.step import PAPER_STEP
from tpo_dist.config import RunConfig
from tpo_dist.programs import distributed, local
from tpo_dist.programs.job import configure
from tpo_dist.programs.run import Run, StepReport
from tpo_dist.runtime.cluster import cluster

_ONE_WORKER = ("rollout.workers=1", "rollout.block_size=100")  # alone, a worker has no reason to divide its step
WARM_UP = 10
"""Steps of each run that are not counted."""


def bench_ray(overrides: tuple[str, ...] = (), steps: int = 25, rounds: int = 7) -> dict[str, Any]:
    """Median seconds per step of both programs, run in turn; their ratio, round by round and over all rounds.

    One cluster stands during all rounds, so that they follow each other closely and the machine's drift cancels.
    """
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        config = configure({}, (*PAPER_STEP, *_ONE_WORKER, f"steps={steps}", f"runs_dir={folder}", *overrides))
        with cluster(config.cluster, config.deadlines.connect_seconds):
            for _ in range(rounds):
                pairs.append((_seconds(local.train, config, folder), _seconds(distributed.train, config, folder)))
    ratios = [statistics.median(on_ray) / statistics.median(alone) for alone, on_ray in pairs]
    return {
        "overhead": statistics.median(ratios),
        "overhead_by_round": ratios,
        "local_seconds_per_step": statistics.median(s for alone, _ in pairs for s in alone),
        "ray_seconds_per_step": statistics.median(s for _, on_ray in pairs for s in on_ray),
        "steps": steps,
        "rounds": rounds,
    }


def _seconds(train: Callable[[Run], Iterator[StepReport]], config: RunConfig, folder: str) -> list[float]:
    """Seconds of each step but the warm-up and the last, which writes a checkpoint.

    For some seconds after actors have been placed, Ray starts spare processes on the same cores.
    """
    return [report.seconds for report in train(Run(config, Path(folder)))][WARM_UP:-1]
