"""How long one training step takes, in one process, and where the time goes."""

from collections.abc import Callable
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

PAPER_STEP = (
    "task.length=10",
    "task.vocab=2",
    "rollout.groups_per_step=100",
    "rollout.group_size=8",
    "stream.max_staleness=0",
)
"""The size of the paper's sequence experiments."""


def bench_step(
    overrides: tuple[str, ...] = (),
    repeats: int = 9,
    threads: int = 2,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Seconds of one step from a freshly drawn policy, beside plain torch in alternation; medians over the repetitions.

    A fresh policy shares few prefixes, which is the hardest case for a tree; but under the terminal reward most of its
    groups have no preference and are left out of the first epoch. So the ratio is also taken under a dense reward.
    """
    size = f"rollout.block_size={_groups(overrides)}"
    config = configure({}, (*PAPER_STEP, size, "rollout.workers=1", *overrides))
    dense = configure(config.model_dump(), ("task.reward=bag_of_tokens",))
    torch.set_num_threads(threads)
    keep_freed_memory()
    parts, plain_seconds = _measure(config, repeats, lambda text: tell(f"{config.task.options['reward']}: {text}"))
    dense_parts, dense_plain = _measure(dense, repeats, lambda text: tell(f"dense: {text}"))
    seconds = parts.pop("step")
    return {
        "seconds_per_step": seconds,
        "plain_torch_seconds_per_step": plain_seconds,
        "speedup_over_plain_torch": plain_seconds / seconds,
        "dense_speedup_over_plain_torch": dense_plain / dense_parts["step"],
        "parts": parts,
        "repeats": repeats,
        "threads": threads,
        "task": config.task.model_dump(),
        "groups_per_step": config.rollout.groups_per_step,
        "group_size": config.rollout.group_size,
        "epochs": config.learner.epochs,
    }


def _measure(config: RunConfig, repeats: int, tell: Callable[[str], None]) -> tuple[dict[str, float], float]:
    """Median seconds of our parts, and of plain torch's whole step, after a warm-up."""
    ours, plain = Stopwatch(), Stopwatch()
    for repetition in range(repeats + 1):
        _ours(config, ours, repetition)
        _plain(config, plain, repetition)
        here, there = ours.repetitions[-1]["step"], plain.repetitions[-1]["step"]
        label = f"repetition {repetition} of {repeats}" if repetition else "warm-up"
        tell(f"{label}: {here:.3f} s, plain torch {there:.3f} s")
        if repetition == 0:
            ours.repetitions.clear()
            plain.repetitions.clear()
    return ours.medians(), plain.medians()["step"]


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
            blocks = [worker.roll(np.arange(start, start + size)).whole() for start in starts]
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
        plain_step(policy, tokens, answers, task.reward, config.rollout.group_size, epochs, config.learner.optimizer.lr)
