"""How long one training step takes, in one process, and where the time goes."""

from typing import Any

import numpy as np
import torch

from tpo_dist.bench.plain_torch import plain_step
from tpo_dist.bench.timing import Stopwatch
from tpo_dist.config import RunConfig
from tpo_dist.policies.transformer import Transformer
from tpo_dist.process import keep_freed_memory
from tpo_dist.programs.job import configure
from tpo_dist.programs.parts import block_size, blocks_per_step, make_learner, make_policy, make_task, make_worker
from tpo_dist.records import concatenate
from tpo_dist.tasks import TokenReversal

PAPER_STEP = ("task.length=10", "task.vocab=2", "rollout.groups_per_step=100", "rollout.group_size=8")
"""The size of the paper's sequence experiments."""


def bench_step(overrides: tuple[str, ...] = (), repeats: int = 9, threads: int = 2) -> dict[str, Any]:
    """Seconds of one step from a freshly drawn policy (the most expensive moment: nothing is shared or solved yet),
    beside plain torch in alternation; medians over the repetitions."""
    size = f"rollout.block_size={_groups(overrides)}"
    config = configure({}, (*PAPER_STEP, size, "rollout.workers=1", *overrides))
    torch.set_num_threads(threads)
    keep_freed_memory()
    ours, plain = Stopwatch(), Stopwatch()
    for repetition in range(repeats + 1):
        _ours(config, ours, repetition)
        _plain(config, plain, repetition)
        if repetition == 0:  # warm-up
            ours.repetitions.clear()
            plain.repetitions.clear()
    parts = ours.medians()
    seconds = parts.pop("step")
    plain_seconds = plain.medians()["step"]
    return {
        "seconds_per_step": seconds,
        "plain_torch_seconds_per_step": plain_seconds,
        "speedup_over_plain_torch": plain_seconds / seconds,
        "parts": parts,
        "repeats": repeats,
        "threads": threads,
        "task": config.task.model_dump(),
        "groups_per_step": config.rollout.groups_per_step,
        "group_size": config.rollout.group_size,
        "epochs": config.learner.epochs,
    }


def _groups(overrides: tuple[str, ...]) -> int:
    return configure({}, (*PAPER_STEP, "rollout.workers=1", *overrides)).rollout.groups_per_step


def _ours(config: RunConfig, watch: Stopwatch, repetition: int) -> None:
    learner, worker = make_learner(config), make_worker(config)
    learner.optimizer.step = watch.timed("optimizer", learner.optimizer.step)  # type: ignore[method-assign,assignment]
    first = repetition * config.rollout.groups_per_step
    size = block_size(config)
    watch.start()
    with watch.part("step"):
        with watch.part("snapshot"):
            worker.load(learner.snapshot())
        with watch.part("rollout"):
            starts = range(first, first + size * blocks_per_step(config), size)
            blocks = [worker.roll(np.arange(start, start + size)) for start in starts]
        with watch.part("learner"):
            learner.update(concatenate(blocks))


def _plain(config: RunConfig, watch: Stopwatch, repetition: int) -> None:
    policy, task = make_policy(config), make_task(config)
    assert isinstance(policy, Transformer)
    assert isinstance(task, TokenReversal)
    torch.manual_seed(repetition)
    groups = config.rollout.groups_per_step
    prompts = task.prompts(config.seed, np.arange(repetition * groups, (repetition + 1) * groups))
    answers = torch.from_numpy(task.answers(prompts).copy()).long()
    tokens = torch.from_numpy(prompts.tokens.reshape(groups, -1)).long()
    watch.start()
    with watch.part("step"):
        epochs = config.learner.epochs
        assert epochs is not None
        plain_step(policy, tokens, answers, config.rollout.group_size, epochs, config.learner.optimizer.lr)
