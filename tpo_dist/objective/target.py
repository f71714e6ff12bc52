"""TPO's two halves: a target distribution is built once, and a cross-entropy fits the policy to it."""

from typing import Any

import torch
from torch import Tensor


def tpo_target(old_logits_GK: Tensor, u_GK: Tensor, eta: float) -> Tensor:
    """q = softmax(log p_old + u / eta) over each group [G, K]; rows sum to 1 (arXiv 2604.06159, Eq. 2).

    `old_logits_GK` may be unnormalised. Where u = 0 the result is p_old, bit for bit.
    """
    return torch.softmax(old_logits_GK + u_GK / eta, dim=-1)


def tpo_target_no_anchor(u_GK: Tensor, present_GK: Tensor, eta: float) -> Tensor:
    """q = softmax(u / eta): the ablation that forgets the snapshot (section 3.7)."""
    return torch.softmax(torch.where(present_GK, u_GK / eta, -torch.inf), dim=-1)


def target_cross_entropy(logits_GK: Tensor, target_GK: Tensor) -> Tensor:
    """-sum_i q_i log p_i for each group [G], p = softmax(logits) (Eq. 3). d/dlogits = p - q (Proposition 1).

    The gradient is computed as p - q rather than by differentiating the sum, so that it is exactly zero where the
    policy meets its target. Autograd's route leaves rounding noise there, and normalising optimizers (Muon, Adam)
    turn noise into full-sized steps.
    """
    loss_G: Tensor = _TargetCrossEntropy.apply(logits_GK, target_GK)  # type: ignore[no-untyped-call]
    return loss_G


class _TargetCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_GK: Tensor, target_GK: Tensor) -> Tensor:
        ctx.save_for_backward(logits_GK, target_GK)
        log_p = torch.log_softmax(logits_GK, dim=-1)
        return -torch.where(target_GK > 0, target_GK * log_p, 0.0).sum(dim=-1)  # 0 * -inf is 0 here

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_G: Tensor) -> tuple[Tensor, None]:
        logits_GK, target_GK = ctx.saved_tensors
        return grad_G.unsqueeze(-1) * (torch.softmax(logits_GK, dim=-1) - target_GK), None
