"""From raw scores to the frozen signals that objectives use.

Everything here is computed in float64: centring nearly equal scores in float32 leaves rounding noise that a
division by a tiny deviation would turn into a signal.
"""

import torch
from torch import Tensor

ZERO_STD = 1e-6
"""A group whose scores deviate by no more than this carries no preference (the author's threshold)."""


def moments(scores_GK: Tensor, present_GK: Tensor) -> tuple[Tensor, Tensor]:
    """Centred scores [G, K] (0 where absent) and population standard deviation [G, 1], in float64.

    Candidates that all have the very same score have deviation 0 exactly, whatever the rounding of their mean.
    """
    scores = torch.where(present_GK, scores_GK.double(), 0.0)
    sizes = present_GK.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = scores.sum(dim=-1, keepdim=True) / sizes
    highest = torch.where(present_GK, scores, -torch.inf).amax(dim=-1, keepdim=True)
    lowest = torch.where(present_GK, scores, torch.inf).amin(dim=-1, keepdim=True)
    centred = torch.where(present_GK & (highest > lowest), scores - mean, 0.0)
    std = (centred.square().sum(dim=-1, keepdim=True) / sizes).sqrt()
    return centred, std


def standardised_scores(scores_GK: Tensor, present_GK: Tensor, dtype: torch.dtype, *, floor: float = 0.0) -> Tensor:
    """u = (s - mean) / std within each group [G, K], with the population std; u = 0 where std <= 1e-6.

    Target Policy Optimization (arXiv 2604.06159), section 2 and appendix A. A `floor` f above 0 divides by
    sqrt(std^2 + f^2) instead (ours): scores that differ by much less than f hardly count.
    """
    centred, std = moments(scores_GK, present_GK)
    flat = std <= ZERO_STD
    if floor > 0:
        std = torch.hypot(std, torch.full_like(std, floor))
    return torch.where(flat, 0.0, centred / torch.where(flat, 1.0, std)).to(dtype)


def group_advantages(scores_GK: Tensor, present_GK: Tensor, dtype: torch.dtype, *, epsilon: float = 1e-8) -> Tensor:
    """A = (s - mean) / (std + epsilon) within each group [G, K], with the population std.

    DeepSeekMath (arXiv 2402.03300), section 4.1.2 (outcome supervision); epsilon as in the TPO paper's baseline.
    """
    centred, std = moments(scores_GK, present_GK)
    return (centred / (std + epsilon)).to(dtype)


def zero_variance(scores_GK: Tensor, present_GK: Tensor) -> Tensor:
    """True for the groups [G] whose scores deviate by no more than 1e-6: they carry no preference."""
    return (moments(scores_GK, present_GK)[1] <= ZERO_STD).squeeze(-1)


def batch_advantages(rewards_GKT: Tensor, mask_GKT: Tensor, dtype: torch.dtype) -> Tensor:
    """A = r - mean of r over the batch, position by position [G, K, T]; 0 on padding.

    The single-sample baseline of the TPO paper's sequence experiments (section 3.4).
    """
    rewards = torch.where(mask_GKT, rewards_GKT.double(), 0.0)
    counts_T = mask_GKT.sum(dim=(0, 1)).clamp(min=1)
    mean_T = rewards.sum(dim=(0, 1)) / counts_T
    return torch.where(mask_GKT, rewards - mean_T, 0.0).to(dtype)
