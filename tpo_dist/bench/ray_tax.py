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


def bench_ray(overrides: tuple[str, ...] = (), steps: int = 20, rounds: int = 3) -> dict[str, Any]:
    """Median seconds per step of both programs, run in turn; their ratio, round by round and over all steps."""
    pairs = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            config = configure(
                {},
                (*PAPER_STEP, "rollout.workers=1", f"steps={steps}", f"runs_dir={folder}", *overrides),
            )
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
    """Seconds of each step but the first, which warms up, and the last, which writes a checkpoint."""
    return [report.seconds for report in train(Run(config, Path(folder)))][1:-1]
