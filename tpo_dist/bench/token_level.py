"""Gradients of token-level groups: one pass over the followed trajectory, beside a pass for each of its prefixes."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tpo_dist.bench.plain_torch import transformer_block
from tpo_dist.bench.timing import Stopwatch
from tpo_dist.learner.batch import TrainingBatch, to_tensors
from tpo_dist.learner.gradients import EpochGradients
from tpo_dist.objective import weigh
from tpo_dist.policies.transformer import Transformer
from tpo_dist.process import keep_freed_memory
from tpo_dist.programs.job import configure
from tpo_dist.programs.parts import make_learner, make_objective, make_worker

PAPER_SIZE = (
    "task.length=10",
    "task.vocab=2",
    "task.reward=bag_of_tokens",
    "objective.name=tpo_token",
    "rollout.groups_per_step=100",
    "rollout.block_size=100",
    "rollout.group_size=8",
    "rollout.workers=1",
)


def bench_token_level(overrides: tuple[str, ...] = (), repeats: int = 9, threads: int = 2) -> dict[str, Any]:
    """Seconds for the gradient of one epoch over a step's groups, both ways in alternation, and how far they differ.

    The other way is plain torch: all prefixes of one length as one batch, the candidates read off its last position.
    """
    config = configure({}, (*PAPER_SIZE, *overrides))
    torch.set_num_threads(threads)
    keep_freed_memory()
    learner, worker = make_learner(config), make_worker(config)
    assert isinstance(learner.policy, Transformer)
    worker.load(learner.snapshot())
    batch = to_tensors(worker.roll(np.arange(config.rollout.groups_per_step)).whole(), learner.device)
    gradients = EpochGradients(learner.policy, learner.objective, batch, None)
    objective = make_objective(config)
    watches = Stopwatch(), Stopwatch()
    found: list[list[Tensor]] = []
    for _ in range(repeats + 1):
        found.clear()
        for watch in watches:
            learner.policy.zero_grad(set_to_none=True)
            watch.start()
            with watch.part("epoch"):
                if watch is watches[0]:
                    gradients.epoch()
                else:
                    logps_GK1 = separate_prefixes(learner.policy, batch)
                    at = weigh(objective, logps_GK1.detach(), batch.groups, gradients.signal)
                    (at.weights_GKT * logps_GK1).sum().backward()  # type: ignore[no-untyped-call]
            found.append([p.grad.clone() for p in learner.policy.parameters() if p.grad is not None])
    ours, separate = (watch.medians()["epoch"] for watch in watches)
    one, other = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in found)
    return {
        "seconds_per_epoch": ours,
        "separate_prefixes_seconds_per_epoch": separate,
        "speedup": separate / ours,
        "gradient_difference": ((one - other).norm() / other.norm()).item(),
        "repeats": repeats,
        "threads": threads,
        "task": config.task.model_dump(),
        "groups_per_step": config.rollout.groups_per_step,
        "group_size": config.rollout.group_size,
    }


def separate_prefixes(policy: Transformer, batch: TrainingBatch) -> Tensor:
    """Log-probs [G, K, 1] of every decision's candidates, with each prefix computed from its beginning."""
    candidates = batch.candidates
    assert candidates.prefixes_GT is not None
    logps = []
    for position in range(candidates.tokens_GKT.shape[2]):
        rows = torch.cat([candidates.prompts_GP, candidates.prefixes_GT[:, :position]], dim=1)
        x = policy.embedding(rows) + policy.positions[: rows.shape[1]]
        for block in policy.blocks:
            x, _ = transformer_block(policy, block, x, None)
        logp_GV = F.log_softmax(policy.head(policy.final_norm(x[:, -1])), dim=-1)
        logps.append(logp_GV.gather(1, candidates.tokens_GKT[:, :, position]))
    return torch.stack(logps, dim=1).flatten(0, 1).unsqueeze(-1)
