"""The KL to a reference that any objective can carry: against loops that read like the formula, gradient included."""

import math

import pytest
import torch

from tests.objective.batches import make_objective
from tpo_dist.objective import make_groups, mean_kl, weigh

WEIGHT = 0.7


def batch():
    """Two groups of three candidates of up to four tokens, one of them empty, with a reference of its own."""
    draw = torch.Generator().manual_seed(5)
    logps, old, reference = (-torch.rand(2, 3, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    mask = torch.arange(4) < torch.tensor([[4, 2, 0], [1, 3, 4]])[..., None]
    scores = torch.rand(2, 3, generator=draw, dtype=torch.float64)
    return logps, make_groups(old, scores, mask, reference_logps_GKT=reference)


def by_loops(logps, groups):
    total, tokens = 0.0, int(groups.mask_GKT.sum())
    gradient = torch.zeros_like(logps)
    for g in range(2):
        for k in range(3):
            length = int(groups.mask_GKT[g, k].sum())
            for t in range(length):
                d = float(logps[g, k, t] - groups.reference_logps_GKT[g, k, t])
                total += (math.exp(-d) + d - 1) / tokens
                gradient[g, k, t] = (1 - math.exp(-d)) / tokens
    return total, gradient


@pytest.mark.parametrize("name", ["tpo", "grpo", "ppo"])
def test_it_adds_its_own_loss_and_gradient_to_those_of_the_objective(name):
    logps, groups = batch()
    objective = make_objective(name)
    signal = objective.signal(groups)
    plain = weigh(objective, logps, groups, signal)
    anchored = weigh(objective, logps, groups, signal, reference_kl=WEIGHT)
    loss, gradient = by_loops(logps, groups)
    assert anchored.loss - plain.loss == pytest.approx(WEIGHT * loss, rel=1e-9)
    torch.testing.assert_close(anchored.weights_GKT - plain.weights_GKT, WEIGHT * gradient, rtol=1e-9, atol=1e-12)


def test_it_is_zero_at_the_reference_and_where_there_is_none_at_the_snapshot():
    logps, groups = batch()
    assert mean_kl(groups.reference_logps_GKT, groups).item() == 0
    assert mean_kl(logps, groups).item() > 0
    bare = make_groups(groups.old_logps_GKT, groups.scores_GK, groups.mask_GKT)
    assert mean_kl(groups.old_logps_GKT, bare).item() == 0
