"""What Ray costs: the same synchronous training in one process and through actors, one rollout worker."""

import itertools
import statistics
import tempfile
from collections.abc import Iterator
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


def bench_ray(overrides: tuple[str, ...] = (), rounds: int = 20, steps: int = 6) -> dict[str, Any]:
    """Median seconds per step of both programs and the median of their ratios, turn by turn.

    Both stand all the time and train in turns of a few steps, so that the drift of the machine, which can be larger
    than what is measured, falls on both.
    """
    total = WARM_UP + rounds * steps
    with tempfile.TemporaryDirectory() as folder:
        config = configure({}, (*PAPER_STEP, *_ONE_WORKER, f"steps={total}", f"runs_dir={folder}", *overrides))
        alone = local.train(Run(config, Path(folder, "local")))
        with launch(Run(config, Path(folder, "ray"))) as system:
            _seconds(alone, WARM_UP)
            _seconds(system.train(WARM_UP), WARM_UP)
            turns = []
            for done in range(WARM_UP + steps, total + 1, steps):
                turns.append((_seconds(alone, steps), _seconds(system.train(done), steps)))
    return {
        "overhead": statistics.median(statistics.median(b) / statistics.median(a) for a, b in turns),
        "local_seconds_per_step": statistics.median(s for a, _ in turns for s in a),
        "ray_seconds_per_step": statistics.median(s for _, b in turns for s in b),
        "steps": steps,
        "rounds": rounds,
    }


def _seconds(reports: Iterator[StepReport], steps: int) -> list[float]:
    """Seconds of the steps of one turn; its first one wakes processes up, its last one may write a checkpoint."""
    return [report.seconds for report in itertools.islice(reports, steps)][1:-1]
