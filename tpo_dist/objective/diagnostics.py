"""What a target asks of the policy, in a few numbers. Every objective that builds a target reports them."""

import torch
from torch import Tensor


def effective_group_size(p_GK: Tensor) -> Tensor:
    """1 / sum_i p_i^2 for each group [G]: K for a uniform distribution, 1 for a one-hot one."""
    return 1.0 / p_GK.square().sum(dim=-1).clamp(min=torch.finfo(p_GK.dtype).tiny)


def target_distance(p_GK: Tensor, q_GK: Tensor) -> Tensor:
    """sum_i |q_i - p_i| for each group [G], between 0 (met) and 2 (disjoint)."""
    return (q_GK - p_GK).abs().sum(dim=-1)


def kl_divergence(q_GK: Tensor, p_GK: Tensor) -> Tensor:
    """KL(q | p) in nats for each group [G]; 0 log 0 is 0. Infinite where p is 0 and q is not."""
    return torch.where(q_GK > 0, q_GK * (q_GK.log() - p_GK.log()), 0.0).sum(dim=-1)


def target_diagnostics(p_old_GK: Tensor, q_GK: Tensor) -> dict[str, float]:
    """Means over the groups of effective group size, p_max, sum|q - p_old| and KL(q | p_old)."""
    return {
        "effective_group_size": effective_group_size(p_old_GK).mean().item(),
        "p_max": p_old_GK.amax(dim=-1).mean().item(),
        "target_distance": target_distance(p_old_GK, q_GK).mean().item(),
        "target_kl": kl_divergence(q_GK, p_old_GK).mean().item(),
    }
