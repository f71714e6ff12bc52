"""A KL to the reference beside any objective: k3 in the mean over the tokens of the batch."""

import math
from dataclasses import replace

import pytest
import torch

from tests.objective.batches import make_objective, ragged, random_batch
from tpo_dist.objective import OBJECTIVES, mean_kl, weigh


def naive_kl(logps, reference):
    """The mean of k3, and its gradient, token by token."""
    tokens = [(g, k, t) for g, group in enumerate(logps) for k, row in enumerate(group) for t in range(len(row))]
    gaps = {at: logps[at[0]][at[1]][at[2]] - reference[at[0]][at[1]][at[2]] for at in tokens}
    mean = sum(math.exp(-d) + d - 1 for d in gaps.values()) / len(tokens)
    return mean, {at: (1 - math.exp(-d)) / len(tokens) for at, d in gaps.items()}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_is_added_to_the_loss_and_to_the_gradient_of_every_objective(name):
    logps, groups = random_batch()
    objective = make_objective(name)
    signal = objective.signal(groups)
    without = weigh(objective, logps, groups, signal)
    got = weigh(objective, logps, groups, signal, reference_kl=0.7)
    mean, slopes = naive_kl(ragged(logps, groups), ragged(groups.reference, groups))
    assert mean > 1e-3
    assert got.loss - without.loss == pytest.approx(0.7 * mean)
    want = torch.zeros_like(logps)
    for at, slope in slopes.items():
        want[at] = 0.7 * slope
    torch.testing.assert_close(got.weights_GKT - without.weights_GKT, want)
    assert mean_kl(logps, groups).item() == pytest.approx(mean)


def test_without_a_reference_it_is_the_snapshot():
    """Where it pulls towards nothing yet."""
    _, groups = random_batch()
    groups = replace(groups, reference_logps_GKT=None)
    objective = make_objective("tpo")
    signal = objective.signal(groups)
    here, held = (weigh(objective, groups.old_logps_GKT, groups, signal, reference_kl=kl) for kl in (0.0, 9.0))
    assert held.loss == here.loss
    assert torch.equal(held.weights_GKT, here.weights_GKT)
