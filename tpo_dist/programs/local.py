"""Training in one process, without Ray. Read this first: it is the whole system, one prompt at a time.

`distributed.py` wires the same parts on a cluster; in synchronous mode both end with the same weights, bit for bit.
"""

import asyncio
import time
from collections.abc import Iterator

import torch

from tpo_dist.learner.checkpoint import load_checkpoint
from tpo_dist.process import keep_freed_memory
from tpo_dist.programs.parts import make_learner, make_stream, make_worker
from tpo_dist.programs.run import Run, StepReport
from tpo_dist.records import concatenate


def train(run: Run) -> Iterator[StepReport]:
    """Train to the end, or until `run.stop` is set; one report after each step."""
    config = run.config
    keep_freed_memory()
    learner, worker = make_learner(config), make_worker(config)
    if run.checkpoint is not None:
        load_checkpoint(run.checkpoint, learner)
    stream = make_stream(config, first_step=learner.version)
    with asyncio.Runner() as runner:
        while learner.version < config.steps:
            started = time.perf_counter()

            # The learner publishes frozen weights; the worker takes them over.
            snapshot = learner.snapshot()
            worker.load(snapshot)
            runner.run(stream.publish(snapshot.version))

            # Prompts become scored groups, block by block, as far as the stream admits them.
            torch.set_num_threads(config.rollout.threads)
            while (lease := stream.try_lease("local")) is not None:
                runner.run(stream.put(lease, worker.roll(lease.draw_ids)))
            blocks = runner.run(stream.take(learner.version, config.deadlines.groups_seconds))
            assert blocks is not None, "nobody closes this stream"

            # Targets are built from the groups, and the policy is fitted to them.
            torch.set_num_threads(config.learner.threads)
            metrics = learner.update(concatenate(blocks))

            last = run.stop.is_set() or learner.version == config.steps
            saved = run.checkpointer.after_step(learner, last=last)
            seconds = time.perf_counter() - started
            yield StepReport(learner.version, metrics, seconds, None if saved is None else str(saved))
            if last:
                return
