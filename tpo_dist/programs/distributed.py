"""Training on Ray: the parts of `local.py`, each in a process of its own.

rollout workers --blocks--> stream --steps--> learner
       ^                                         |
       +---------- snapshots (version, digest) --+
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tpo_dist.programs.needs import first_workers, needs_of
from tpo_dist.programs.parts import make_learner, make_stream, make_worker
from tpo_dist.programs.run import Run, StepReport
from tpo_dist.runtime.actors import LearnerActor, RolloutActor, StreamActor
from tpo_dist.runtime.cluster import cluster, started_here
from tpo_dist.runtime.follow import await_all, follow
from tpo_dist.runtime.placement import Places, reserve


def train(run: Run) -> Iterator[StepReport]:
    """Train to the end, or until `run.stop` is set; one report after each step.

    Raises UsageError where Ray cannot be reached or lacks the resources, RunFailed where a process fails.
    """
    with launch(run) as system:
        yield from system.train(run.config.steps)


@dataclass(frozen=True, slots=True)
class System:
    """The actors of a run, standing and waiting."""

    run: Run
    stream: Any
    learner: Any
    loops: dict[Any, str]
    """What each rollout worker's loop will come to, with the worker's name."""

    def train(self, until: int) -> Iterator[StepReport]:
        """Train until so many steps of the run are done; can be called again to go on."""
        waits = self.run.config.deadlines
        train = self.learner.train.options(num_returns="streaming")
        reports = train.remote(self.stream, until, waits.groups_seconds)
        patience = waits.groups_seconds + waits.update_seconds
        for report in follow(reports, self.loops, self.run.stop.is_set, self.stream.close.remote, patience):
            yield StepReport(*report)


@contextmanager
def launch(run: Run) -> Iterator[System]:
    """The actors of a run on the cluster that it names; they end with the block."""
    config = run.config
    needs = needs_of(config)
    growing = not started_here(config.cluster)
    with (
        cluster(config.cluster, config.deadlines.connect_seconds),
        reserve(needs, config.cluster.placement, config.deadlines.place_seconds, can_grow=growing) as places,
    ):
        system = _start(run, places)
        try:
            yield system
        finally:
            system.stream.close.remote()  # the workers' loops end by themselves


def _start(run: Run, places: Places) -> System:
    config, waits = run.config, run.config.deadlines
    stream = StreamActor.remote(partial(make_stream, config, run.first_step))
    learner = LearnerActor.options(**places.options(0, config.learner.threads)).remote(
        config.learner.threads, partial(make_learner, config), run.checkpointer, run.checkpoint
    )
    workers = {}
    for index in range(first_workers(config)):
        name, threads = f"rollout-{index}", config.rollout.threads
        actor = RolloutActor.options(**places.options(index + 1, threads))
        workers[name] = actor.remote(name, threads, partial(make_worker, config))
    starting = {actor.ready.remote(): name for name, actor in {"learner": learner, **workers}.items()}
    await_all(starting, waits.start_seconds)
    loops = {actor.roll.remote(stream, waits.update_seconds): name for name, actor in workers.items()}
    return System(run, stream, learner, loops)
