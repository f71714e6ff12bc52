"""Training in one process, without Ray. Read this first: it is the whole system, one prompt at a time.

`distributed.py` wires the same parts on a cluster; in synchronous mode both end with the same weights, bit for bit.
With `stream.max_staleness` above 0, groups are as stale here as they may get there.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from tpo_dist.learner.checkpoint import load_checkpoint
from tpo_dist.metrics import Sum, as_row
from tpo_dist.process import keep_freed_memory
from tpo_dist.programs.accounts import begin_ledger, open_stream
from tpo_dist.programs.evaluating import make_evaluator
from tpo_dist.programs.failing import FailingGroups
from tpo_dist.programs.folder import note_evaluation
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.programs.run import Run, StepReport
from tpo_dist.quarantine import write_quarantine
from tpo_dist.records import Snapshot, concatenate
from tpo_dist.rollout.worker import summarise


def train(run: Run) -> Iterator[StepReport]:
    """Train to the end, or until `run.stop` is set; one report after each step."""
    config = run.config
    keep_freed_memory()
    learner, worker = make_learner(config), make_worker(config)
    if run.checkpoint is not None:
        load_checkpoint(run.checkpoint, learner)
    begin_ledger(run)
    stream = open_stream(config, run.folder)
    failing, evaluate = FailingGroups(run), _evaluations(run)
    with asyncio.Runner() as runner, contextlib.closing(learner):
        while learner.version < config.steps:
            started, step = time.perf_counter(), learner.version

            # The learner publishes frozen weights; the worker takes them over.
            if worker.version is None or learner.publishes(step):
                snapshot = learner.current()
                worker.load(snapshot)
                runner.run(stream.publish(snapshot.version, snapshot.digest))
                evaluate(step, snapshot)

            # Prompts become scored groups, block by block, as far as the stream admits them; a group whose scorer
            # fails goes into the quarantine, not into training.
            failed = 0
            torch.set_num_threads(config.rollout.threads)
            while (lease := stream.try_lease("local")) is not None:
                rolled = worker.roll(lease.draw_ids)
                runner.run(stream.put(lease, rolled.groups, summarise(rolled)))
                for failure in rolled.failures:
                    write_quarantine(run.folder, failure)
                failed += len(rolled.failures)
                failing.refuse_too_many(lease.draws, len(rolled.failures))
            taken = runner.run(stream.take(step, config.deadlines.groups_seconds))
            assert taken is not None, "nobody closes this stream"

            # Targets are built from the groups, and the policy is fitted to them.
            torch.set_num_threads(config.learner.threads)
            metrics = {**learner.update(concatenate(taken.payloads)), "groups_failed": Sum(float(failed))}
            runner.run(stream.finish(step))
            learner.settled = taken.settled.to_json()

            last = run.stop.is_set() or learner.version == config.steps
            learner.rows.append(as_row(learner.version, metrics, time.perf_counter() - started))
            saved = run.checkpointer.after_step(learner, last=last)
            seconds = time.perf_counter() - started
            yield StepReport(learner.version, metrics, seconds, saved.path, saved.problem, learner.sample)
            if last:
                evaluate(learner.version, learner.snapshot)
                return


def _evaluations(run: Run) -> Callable[[int, Snapshot | Callable[[], Snapshot]], None]:
    """Asks weights held-out questions and notes their scores, at the steps that the run wants that for."""
    every = run.config.evaluation.every_steps
    evaluator = make_evaluator(run.config) if every else None

    def evaluate(step: int, weights: Snapshot | Callable[[], Snapshot]) -> None:
        if evaluator is not None and every and step % every == 0:
            note_evaluation(run.folder, step, evaluator(weights if isinstance(weights, Snapshot) else weights()))

    return evaluate
