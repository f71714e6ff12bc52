"""How far an update points from what an oracle would do who knows the right answers."""

import torch
from torch import Tensor

from tpo_dist.policies.contract import CandidateBatch, Policy


def oracle_gradient(policy: Policy, prompts_GP: Tensor, answers_GT: Tensor) -> Tensor:
    """Gradient of the mean probability of the right answers, over all parameters in one flat vector.

    The exact policy gradient of the terminal reward (arXiv 2604.06159, section 3.1, for one context).
    """
    answers_G1T = answers_GT.unsqueeze(1)
    batch = CandidateBatch(
        prompts_GP=prompts_GP, tokens_GKT=answers_G1T, mask_GKT=torch.ones_like(answers_G1T, dtype=torch.bool)
    )
    success = policy.scorer(batch)().sum(dim=-1).exp().mean()
    parameters = list(policy.parameters())
    gradients = torch.autograd.grad(success, parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(parameter) if gradient is None else gradient).flatten()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
    )


def misalignment(policy: Policy, oracle: Tensor) -> float:
    """1 - cos between the descent direction that `policy` holds as gradients and the oracle's ascent; NaN for none."""
    held = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters()]
    descent = -torch.cat([gradient.flatten() for gradient in held])
    if not bool(descent.any()) or not bool(oracle.any()):
        return float("nan")
    return 1.0 - torch.nn.functional.cosine_similarity(descent, oracle, dim=0).item()
