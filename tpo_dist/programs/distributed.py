"""Training on Ray: the parts of `local.py`, each in a process of its own.

rollout workers --blocks--> stream --steps--> learner
       ^                                         |
       +---------- snapshots (version, digest) --+
"""

from collections.abc import Iterator
from functools import partial

from tpo_dist.programs.parts import make_learner, make_stream, make_worker
from tpo_dist.programs.run import Run, StepReport
from tpo_dist.runtime.actors import LearnerActor, RolloutActor, Step, StreamActor
from tpo_dist.runtime.cluster import cluster, started_here
from tpo_dist.runtime.follow import await_all, follow
from tpo_dist.runtime.placement import Need, Places, reserve


def train(run: Run) -> Iterator[StepReport]:
    """Train to the end, or until `run.stop` is set; one report after each step.

    Raises UsageError where Ray cannot be reached or lacks the resources, RunFailed where a process fails.
    """
    config = run.config
    needs = [Need(config.learner.cpus, config.learner.gpus)]
    needs += [Need(config.rollout.cpus, config.rollout.gpus)] * config.rollout.workers
    growing = not started_here(config.cluster)
    with (
        cluster(config.cluster, config.deadlines.connect_seconds),
        reserve(needs, config.cluster.placement, config.deadlines.place_seconds, can_grow=growing) as places,
    ):
        for step, metrics, seconds, checkpoint in _train(run, places):
            yield StepReport(step, metrics, seconds, checkpoint)


def _train(run: Run, places: Places) -> Iterator[Step]:
    config, waits = run.config, run.config.deadlines
    stream = StreamActor.remote(partial(make_stream, config, run.first_step))
    learner = LearnerActor.options(**places.options(0, config.learner.threads)).remote(
        config.learner.threads, partial(make_learner, config), run.checkpointer, run.checkpoint
    )
    workers = {}
    for index in range(config.rollout.workers):
        actor = RolloutActor.options(**places.options(index + 1, config.rollout.threads))
        workers[f"rollout-{index}"] = actor.remote(
            f"rollout-{index}", config.rollout.threads, partial(make_worker, config)
        )
    await_all(
        {actor.ready.remote(): name for name, actor in {"learner": learner, **workers}.items()}, waits.start_seconds
    )
    loops = {actor.roll.remote(stream, waits.update_seconds): name for name, actor in workers.items()}
    reports = learner.train.options(num_returns="streaming").remote(stream, config.steps, waits.groups_seconds)
    patience = waits.groups_seconds + waits.update_seconds
    yield from follow(reports, loops, run.stop.is_set, stream.close.remote, patience)
