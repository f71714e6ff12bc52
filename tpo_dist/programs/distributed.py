"""Training on Ray: the parts of `local.py`, each in a process of its own, and any of them may die.

rollout workers --blocks--> stream --steps--> learner
       ^                                         |
       +---------- snapshots (version, digest) --+
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tpo_dist.config import RunConfig
from tpo_dist.learner.checkpoint import list_checkpoints
from tpo_dist.programs.accounts import begin_ledger, open_stream
from tpo_dist.programs.desk import FolderDesk
from tpo_dist.programs.evaluating import make_evaluator
from tpo_dist.programs.folder import note_evaluation, sign_in
from tpo_dist.programs.needs import first_workers, learner_need, needs_of, worker_need
from tpo_dist.programs.parts import block_size, blocks_per_step, concurrency, make_learner, make_worker, streams
from tpo_dist.programs.run import Run, StepReport
from tpo_dist.runtime.answers import await_all
from tpo_dist.runtime.cluster import cluster, started_here
from tpo_dist.runtime.evaluation_actor import EvaluationActor, EvaluationSeat
from tpo_dist.runtime.exporter import Exporter
from tpo_dist.runtime.fleet import Fleet
from tpo_dist.runtime.learner_actor import LearnerActor, SendingActor
from tpo_dist.runtime.placement import check_room, on_this_node
from tpo_dist.runtime.rollout_actor import RolloutActor
from tpo_dist.runtime.seat import LearnerSeat
from tpo_dist.runtime.sizing import Sizing
from tpo_dist.runtime.stream_actor import StreamActor
from tpo_dist.runtime.streaming_actor import StreamingActor
from tpo_dist.runtime.supervisor import Supervisor


def train(run: Run) -> Iterator[StepReport]:
    """Train to the end, or until `run.stop` is set; one report after each step.

    After the learner's process died, the steps since its checkpoint are reported again. Raises UsageError where Ray
    cannot be reached or lacks the resources, RunFailed where a process fails too often, or with an error of its own.
    """
    with launch(run) as system:
        yield from system.train(run.config.steps)


@dataclass(frozen=True, slots=True)
class System:
    """The actors of a run, standing and waiting, and who looks after them."""

    supervisor: Supervisor
    exporter: Exporter

    def train(self, until: int) -> Iterator[StepReport]:
        """Train until so many steps of the run are done; can be called again to go on."""
        for step in self.supervisor.train(until):
            report = StepReport(*step)
            self.exporter.step(report.metrics, report.seconds)
            yield report


@contextmanager
def launch(run: Run) -> Iterator[System]:
    """The actors of a run on the cluster that it names; they end with the block."""
    config, waits = run.config, run.config.deadlines
    with cluster(config.cluster, waits.connect_seconds):
        growing = not started_here(config.cluster)
        check_room(needs_of(config), config.cluster.placement, waits.place_seconds, can_grow=growing)
        with sign_in(run.folder) as sign:
            exporter = Exporter(run.folder.name)
            supervisor = _start(run, sign, exporter)
            evaluator = _evaluate_beside(run, supervisor)
            try:
                yield System(supervisor, exporter)
                if evaluator is not None and not run.stop.is_set():
                    supervisor.close_stream()
                    evaluator.finish(waits.block_seconds)
            finally:
                if evaluator is not None:
                    evaluator.close()
                supervisor.end()


def _evaluate_beside(run: Run, supervisor: Supervisor) -> EvaluationSeat | None:
    """Whoever scores snapshots on held-out questions, where the run asks for that."""
    config, waits = run.config, run.config.deadlines
    if config.evaluation.every_steps is None:
        return None

    def make() -> Any:
        rollout = config.rollout
        options = worker_need(config).options(rollout.threads, config.cluster.placement)
        return EvaluationActor.options(**options).remote(rollout.threads, partial(make_evaluator, config))

    seat = EvaluationSeat(make, supervisor.stream, partial(note_evaluation, run.folder), supervisor.desk.say)
    seat.start(config.faults.worker_restarts, waits.start_seconds + waits.groups_seconds + waits.update_seconds)
    return seat


def _start(run: Run, sign: Path, exporter: Exporter) -> Supervisor:
    config, waits = run.config, run.config.deadlines
    learner = LearnerSeat(partial(_make_learner, run, sign), partial(_newest_checkpoint, run), waits.groups_seconds)
    fleet = Fleet(partial(_make_worker, config), waits.update_seconds)
    if config.weights.transport == "collective":
        fleet.gone = learner.forget
    try:
        starting = {learner.start(): "learner"}
        fleet.resize(first_workers(config))
        starting |= {member.ending: member.name for member in fleet.members.values()}
        await_all(starting, waits.place_seconds + waits.start_seconds, run.stop.is_set)
        # Only now is anything written to stay: a start that fails leaves the folder as it was.
        return _supervise(run, learner, fleet, exporter)
    except BaseException:
        learner.close()
        fleet.close()
        raise


def _supervise(run: Run, learner: LearnerSeat, fleet: Fleet, exporter: Exporter) -> Supervisor:
    """The stream, and who looks after it, the learner and the workers, which stand."""
    config, rollout = run.config, run.config.rollout
    begin_ledger(run)
    stream = StreamActor.options(
        max_restarts=config.faults.stream_restarts, max_task_retries=-1, scheduling_strategy=on_this_node()
    ).remote(partial(open_stream, config, run.folder), run.folder, config.evaluation.every_steps)
    most = blocks_per_step(config) * config.learner.publish_every * (config.stream.max_staleness + 1)
    sizing = Sizing(first_workers(config), rollout.workers == "auto", rollout.min_workers, rollout.max_workers)
    sizes = rollout.groups_per_step, block_size(config)
    desk = FolderDesk(run, most, exporter.status)
    supervisor = Supervisor(fleet, learner, stream, desk, config.deadlines, config.faults, sizing, sizes)
    try:
        learner.stand()
        for _ in fleet.settle(fleet.endings()):
            pass
    except BaseException:
        supervisor.end()
        raise
    return supervisor


def _make_learner(run: Run, sign: Path, checkpoint: Path | None) -> Any:
    config = run.config.learner
    options = learner_need(run.config).options(config.threads, run.config.cluster.placement)
    if config.node == "driver":
        options["scheduling_strategy"] = on_this_node()
    arguments = config.threads, partial(make_learner, run.config), run.checkpointer, checkpoint, sign
    if run.config.weights.transport == "store":
        return LearnerActor.options(**options).remote(*arguments)
    every = run.config.evaluation.every_steps
    return SendingActor.options(**options).remote(config.device, every, *arguments)


def _make_worker(config: RunConfig, name: str) -> Any:
    rollout = config.rollout
    options = worker_need(config).options(rollout.threads, config.cluster.placement)
    make = partial(make_worker, config)
    if not streams(config):
        return RolloutActor.options(**options).remote(name, rollout.threads, make)
    lanes, scorers = concurrency(config), config.scoring.processes
    return StreamingActor.options(**options).remote(name, rollout.threads, make, lanes, scorers)


def _newest_checkpoint(run: Run) -> Path | None:
    """Of the run, which is where a learner begins that takes a dead one's place."""
    return next(reversed(list_checkpoints(run.checkpointer.folder)), run.checkpoint)
