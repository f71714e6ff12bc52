"""Throughput over the number of rollout workers where scoring waits: one run whose fleet grows while it trains."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tpo_dist.errors import RunFailed
from tpo_dist.programs.control import request_rollouts
from tpo_dist.programs.distributed import System, launch
from tpo_dist.programs.job import configure
from tpo_dist.programs.run import Run, StepReport

WAITING = (
    "task.name=judged_reversal",
    "task.length=3",
    "task.seconds=1.0",
    "rollout.groups_per_step=16",
    "rollout.group_size=8",
    "rollout.block_size=2",
    "rollout.workers=1",
    "rollout.cpus=0",
    "learner.cpus=0",
    "stream.max_staleness=4",
    "learner.epochs=1",
    "log.sinks=[]",
    "log.plot=false",
)
"""Blocks of two prompts, each of which waits a second for its scores; the learner has next to nothing to do."""

_STEPS = 10**6
_GROW_SECONDS = 300.0


def bench_scaling(
    overrides: tuple[str, ...] = (),
    counts: Sequence[int] = (1, 2, 4, 8, 16),
    window_seconds: float = 30.0,
    plot: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Groups per second for each number of workers, and `efficiency`: over that number times the throughput of one.

    Counts rise from 1. Each is measured from one step to another, over the window or three steps if those are longer.
    """
    pace: dict[int, float] = {}
    with TemporaryDirectory(prefix="tpo-bench-") as folder:
        config = configure({}, (*WAITING, f"steps={_STEPS}", f"checkpoint.every_steps={_STEPS}", *overrides))
        run = Run(config, Path(folder, "run"))
        with launch(run) as system:
            reports = system.train(_STEPS)
            for count in counts:
                request_rollouts(run.folder, count)
                _grow(system, reports, count)
                pace[count] = _pace(reports, window_seconds, config.rollout.groups_per_step)
                tell(f"{count} workers: {pace[count]:.2f} groups per second")
    efficiency = {count: pace[count] / (count * pace[1]) for count in counts}
    if plot is not None:
        _plot(pace, plot)
    return {
        "efficiency": {str(count): value for count, value in efficiency.items()},
        "groups_per_second": {str(count): value for count, value in pace.items()},
        "window_seconds": window_seconds,
        "plot": None if plot is None else str(plot),
    }


def _grow(system: System, reports: Any, count: int) -> None:
    """Train on until that many workers are at work. Raises RunFailed where it takes too long."""
    end = time.monotonic() + _GROW_SECONDS
    members = system.supervisor.fleet.members
    while sum(member.state == "working" for member in members.values()) < count or len(members) != count:
        next(reports)
        if time.monotonic() > end:
            raise RunFailed(f"waited {_GROW_SECONDS:g} s for {count} workers; {len(members)} are there")
    next(reports)


def _pace(reports: Any, seconds: float, groups: int) -> float:
    """Groups per second from one step to a later one."""
    next(reports)
    started, steps = time.perf_counter(), 0
    while steps < 3 or time.perf_counter() - started < seconds:
        report: StepReport = next(reports)
        assert report.step
        steps += 1
    return steps * groups / (time.perf_counter() - started)


def _plot(pace: dict[int, float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
    counts = list(pace)
    axes.plot(counts, [count * pace[1] for count in counts], color="0.7", linestyle="--", label="ideal")
    axes.plot(counts, list(pace.values()), marker="o", label="measured (efficiency)")
    for count, groups in pace.items():
        efficiency = f"{groups / (count * pace[1]):.0%}"
        axes.annotate(efficiency, (count, groups), xytext=(6, -11), textcoords="offset points", fontsize="small")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("rollout workers")
    axes.set_ylabel("groups per second")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
