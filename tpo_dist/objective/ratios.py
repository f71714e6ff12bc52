"""Probability ratios between two policies at the sampled tokens, and the divergences estimated from them."""

import torch
from torch import Tensor

BOUND = 20.0
"""Log-ratios are kept within this many nats: the exponential stays finite, and beyond it the gradient is zero."""


def log_ratios(logps_GKT: Tensor, base_GKT: Tensor, live_GKT: Tensor) -> Tensor:
    """log pi - log base at each sampled token, within 20 nats [G, K, T]; 0 on padding, which may hold anything."""
    return torch.where(live_GKT, logps_GKT - base_GKT, 0.0).clamp(-BOUND, BOUND)


def k2(log_ratio: Tensor) -> Tensor:
    """d^2 / 2: its gradient d * grad(log pi) is, on policy, that of KL(pi | base) without bias (nats)."""
    return log_ratio.square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """exp(-d) + d - 1 with d = log pi - log base: the non-negative estimator of KL(pi | base) under pi (nats).

    k3(-d) estimates the other direction, KL(base | pi), under base.
    """
    return torch.exp(-log_ratio) + log_ratio - 1.0


def divergence_under_base(log_ratio: Tensor) -> Tensor:
    """rho log rho - rho + 1, rho = pi / base: the non-negative estimator of KL(pi | base) under base (nats).

    What the snapshot drew says with it how far pi has gone; what pi gave up counts 1 at most, where k3 explodes.
    """
    ratio = log_ratio.exp()
    return ratio * log_ratio - ratio + 1.0
