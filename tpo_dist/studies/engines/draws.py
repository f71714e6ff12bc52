"""Random numbers and draws of many seeds at a time; each seed has its own, whatever others stand beside it.

Shapes: S seeds, N steps, B samples, C arms.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tpo_dist.randomness import draw_uniforms, draw_words


def step_uniforms(seeds: Sequence[int], first: int, steps: int, count: int) -> Tensor:
    """`count` uniforms in [0, 1) for each seed and each step from `first` on: float64 [S, N, B]."""
    ids = np.arange(first, first + steps, dtype=np.int64)
    return torch.from_numpy(np.stack([draw_uniforms(seed, "sample", ids, count) for seed in seeds]))


def step_indices(seeds: Sequence[int], first: int, steps: int, count: int, below: int) -> Tensor:
    """The same of indices 0 to `below` - 1, drawn with replacement: int64 [S, N, B]."""
    ids = np.arange(first, first + steps, dtype=np.int64)
    words = np.stack([draw_words(seed, "prompt", ids, count) for seed in seeds])
    return torch.from_numpy((words % np.uint64(below)).astype(np.int64))


def draw_arms(probs_BC: Tensor, uniforms_B: Tensor) -> Tensor:
    """The first arm whose cumulated probability exceeds the uniform [..., B]; a row of arms for each uniform."""
    cumulated = probs_BC.double().cumsum(dim=-1)
    drawn = (cumulated <= uniforms_B.unsqueeze(-1) * cumulated[..., -1:]).sum(dim=-1)
    return drawn.clamp(max=probs_BC.shape[-1] - 1)


def count_arms(probs_SC: Tensor, uniforms_SB: Tensor) -> Tensor:
    """How often each arm is drawn [S, C] by B uniforms from one policy for each seed."""
    cumulated = probs_SC.double().cumsum(dim=-1)
    arms_SB = torch.searchsorted(cumulated, uniforms_SB * cumulated[:, -1:], right=True)
    arms_SB = arms_SB.clamp(max=probs_SC.shape[-1] - 1)
    return torch.zeros_like(probs_SC).scatter_add_(1, arms_SB, torch.ones_like(uniforms_SB, dtype=probs_SC.dtype))
