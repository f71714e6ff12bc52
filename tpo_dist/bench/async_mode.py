"""Asynchronous against synchronous training where scoring waits, as it does for tools and judges."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tpo_dist.config import ClusterConfig
from tpo_dist.programs.distributed import train
from tpo_dist.programs.job import configure
from tpo_dist.programs.run import Run
from tpo_dist.runtime.cluster import cluster

LATENCY_BOUND = (
    "task.name=judged_reversal",
    "task.length=4",
    "rollout.groups_per_step=64",
    "rollout.group_size=32",
    "rollout.block_size=32",
    "rollout.workers=2",
    "rollout.cpus=0.25",
    "learner.epochs=16",
    "learner.schedule.name=linear",
    "log.sinks=[]",
    "log.plot=false",
)
"""Two workers, each of which makes one block of a step. Steps of a few tenths of a second, as those of a judge."""

_WARM_UP = 5  # steps of each run that are not counted
_LAST = 20  # steps over which the final reward is taken
_CALIBRATION_STEPS = 25
_CONNECT_SECONDS = 30.0
_MODES = (("synchronous", 0), ("asynchronous", 1))
"""With the staleness of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run."""

    groups_per_second: float
    """After the warm-up."""
    reward: float
    """Of the last steps."""
    waiting: float
    """Median seconds of a step in which the learner waits: where training is synchronous, for sampling and scoring."""
    training: float
    """Median of the other seconds."""


def bench_async(
    overrides: tuple[str, ...] = (),
    seeds: int = 3,
    steps: int = 100,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Throughput of asynchronous over synchronous training (`speedup`, median over seeds), and both final rewards.

    The scorer waits as long as makes sampling a step's groups last as long as training on them: as measured first, and
    then in the last synchronous run, since the pace of a machine drifts.
    """
    with TemporaryDirectory(prefix="tpo-bench-") as folder, cluster(ClusterConfig(), _CONNECT_SECONDS):

        def run(name: str, seed: int, staleness: int, seconds: float, count: int = steps) -> Measured:
            own = (f"steps={count}", f"seed={seed}", f"stream.max_staleness={staleness}", f"task.seconds={seconds}")
            config = configure({}, (*LATENCY_BOUND, f"checkpoint.every_steps={10**9}", *overrides, *own))
            return _measure(Run(config, Path(folder, f"{name}-{seed}")))

        first = run("calibration", 0, 0, 0.0, _CALIBRATION_STEPS)
        wait = max(0.0, first.training - first.waiting)
        tell(f"training takes {first.training:.3f} s of a step, sampling {first.waiting:.3f} s; scoring the rest")
        runs: dict[str, list[Measured]] = {"synchronous": [], "asynchronous": []}
        waits = []
        for seed in range(seeds):
            waits.append(wait)
            for mode, staleness in _MODES:
                of = run(mode, seed, staleness, wait)
                runs[mode].append(of)
                tell(f"seed {seed}, {mode}: {of.groups_per_second:.1f} groups per second, reward {of.reward:.3f}")
            last = runs["synchronous"][-1]
            wait = max(0.0, wait + last.training - last.waiting)
    return summary(runs) | {"scorer_seconds": waits, "seeds": seeds, "steps": steps}


def _measure(run: Run) -> Measured:
    rewards, waits, rests, started = [], [], [], 0.0
    for report in train(run):
        if report.step == _WARM_UP:
            started = time.perf_counter()
        rewards.append(report.metrics["reward"].value)
        waits.append(report.metrics["wait_seconds"].value)
        rests.append(report.seconds - waits[-1])
        ended = time.perf_counter()
    groups = (run.config.steps - _WARM_UP) * run.config.rollout.groups_per_step
    return Measured(
        groups_per_second=groups / (ended - started),
        reward=statistics.fmean(rewards[-_LAST:]),
        waiting=statistics.median(waits[_WARM_UP:]),
        training=statistics.median(rests[_WARM_UP:]),
    )


def summary(runs: Mapping[str, list[Measured]]) -> dict[str, Any]:
    """Of runs by mode, seed by seed: medians of the throughputs and of their ratios, means of the rewards."""
    pairs = zip(runs["asynchronous"], runs["synchronous"], strict=True)
    speedups = [mine.groups_per_second / other.groups_per_second for mine, other in pairs]
    ratios = [run.waiting / run.training for run in runs["synchronous"]]
    result: dict[str, Any] = {
        "speedup": statistics.median(speedups),
        "speedups": speedups,
        "sampling_over_training": statistics.median(ratios),
    }
    for mode, of in runs.items():
        rewards = [run.reward for run in of]
        error = statistics.stdev(rewards) / math.sqrt(len(rewards)) if len(rewards) > 1 else None
        result[mode] = {
            "groups_per_second": statistics.median(run.groups_per_second for run in of),
            "reward": statistics.fmean(rewards),
            "reward_standard_error": error,
            "waiting_seconds": statistics.median(run.waiting for run in of),
            "training_seconds": statistics.median(run.training for run in of),
        }
    return result
