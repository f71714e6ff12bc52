"""The temperature at which a tilted distribution is as far from its base as a budget of nats allows."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

STEPS = 60
"""Halvings of the logarithmic interval: 25 nats wide, it ends below the rounding of float64."""


def tilt_divergence(base_logits: Tensor, tilt: Tensor, temperature: float) -> Tensor:
    """KL(q | p) in nats along the last axis, p = softmax(base_logits), q = softmax(base_logits + tilt / temperature).

    Falls monotonously in the temperature: its slope is -Var_q(tilt) / temperature^3.
    """
    step = tilt / temperature
    log_p = torch.log_softmax(base_logits, dim=-1)
    tilted = log_p + step
    return (torch.softmax(tilted, dim=-1) * step).sum(dim=-1) - torch.logsumexp(tilted, dim=-1)


def solve_temperature(divergence: Callable[[float], float], budget: float, low: float, high: float) -> float:
    """The temperature in [low, high] at which a falling divergence equals the budget, by bisection of its logarithm.

    The end nearer to the budget where none does. The divergence is the slope of a convex dual (REPS, MPO), so its root
    is that dual's minimum.
    """
    if divergence(low) <= budget:
        return low
    if divergence(high) >= budget:
        return high
    bottom, top = math.log(low), math.log(high)
    for _ in range(STEPS):
        middle = (bottom + top) / 2
        if divergence(math.exp(middle)) > budget:
            bottom = middle
        else:
            top = middle
    return math.exp((bottom + top) / 2)
