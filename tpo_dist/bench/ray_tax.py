"""What Ray costs: the same synchronous training in one process and through actors, one rollout worker."""

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tpo_dist.bench.step import PAPER_STEP
from tpo_dist.programs import local
from tpo_dist.programs.distributed import launch
from tpo_dist.programs.job import configure
from tpo_dist.programs.run import Run, StepReport

_ONE_WORKER = ("rollout.workers=1", "rollout.block_size=100")  # alone, a worker has no reason to divide its step
WARM_UP = 10
"""Steps of each program that are not counted: for some seconds Ray starts spare processes on the same cores."""


def bench_ray(
    overrides: tuple[str, ...] = (),
    rounds: int = 20,
    steps: int = 6,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Median seconds per step of both programs, the ratio of these medians (`overhead`), and the median of the ratios
    of neighbouring turns (`paired_overhead`), which drift disturbs less.

    Both stand all the time and train in turns of a few steps, so that the drift of the machine, which can be larger
    than what is measured, falls on both.
    """
    total = WARM_UP + rounds * steps
    with tempfile.TemporaryDirectory() as folder:
        config = configure({}, (*PAPER_STEP, *_ONE_WORKER, f"steps={total}", f"runs_dir={folder}", *overrides))
        alone = local.train(Run(config, Path(folder, "local")))
        with launch(Run(config, Path(folder, "ray"))) as system:
            tell(f"warm-up: {WARM_UP} steps of each program")
            _seconds(alone, WARM_UP)
            _seconds(system.train(WARM_UP), WARM_UP)
            turns = []
            for done in range(WARM_UP + steps, total + 1, steps):
                turns.append((_seconds(alone, steps), _seconds(system.train(done), steps)))
                here, there = map(statistics.median, turns[-1])
                tell(f"turn {len(turns)} of {rounds}: one process {here:.3f} s, through Ray {there:.3f} s per step")
    return _summary(turns, rounds, steps)


def _summary(turns: Sequence[tuple[list[float], list[float]]], rounds: int, steps: int) -> dict[str, Any]:
    local_seconds = statistics.median(s for a, _ in turns for s in a)
    ray_seconds = statistics.median(s for _, b in turns for s in b)
    return {
        "overhead": ray_seconds / local_seconds,
        "paired_overhead": statistics.median(statistics.median(b) / statistics.median(a) for a, b in turns),
        "local_seconds_per_step": local_seconds,
        "ray_seconds_per_step": ray_seconds,
        "steps": steps,
        "rounds": rounds,
    }


def _seconds(reports: Iterator[StepReport], steps: int) -> list[float]:
    """Seconds of the steps of one turn; its first one wakes processes up, its last one may write a checkpoint."""
    return [report.seconds for report in itertools.islice(reports, steps)][1:-1]
