"""Numbers that the other tests would not miss if they changed."""

import math

import pytest
import torch

from tests.objective.batches import make_objective
from tpo_dist.objective import evaluate, make_groups
from tpo_dist.objective.distribution import group_logits
from tpo_dist.objective.reinforce import single_sample_advantages


def test_grpo_keeps_log_ratios_up_to_20():
    """Losses of one group of two, A = (1, -1), whose second candidate became likelier by 15 and by 25 nats."""
    grpo = make_objective("grpo", beta=0.0)
    old, scores = torch.full((1, 2, 1), -30.0, dtype=torch.float64), torch.tensor([[1.0, 0.0]])
    for gain, kept in ((15.0, 15.0), (25.0, 20.0)):
        logps = old + torch.tensor([[[0.0], [gain]]], dtype=torch.float64)
        assert evaluate(grpo, logps, old, scores).loss == pytest.approx(math.exp(kept) - 1.0, rel=1e-6)


def test_grpo_keeps_log_ratios_down_to_minus_20():
    """The KL alone, of one candidate that lost 15 and 25 nats, and of one that stayed."""
    grpo = make_objective("grpo", beta=1.0)
    old, scores = torch.full((1, 2, 1), -3.0, dtype=torch.float64), torch.ones(1, 2)
    for loss, kept in ((15.0, 15.0), (25.0, 20.0)):
        logps = old - torch.tensor([[[0.0], [loss]]], dtype=torch.float64)
        assert evaluate(grpo, logps, old, scores).loss == pytest.approx(math.exp(kept) - kept - 1.0, rel=1e-6)


def test_an_empty_candidate_has_a_mean_length_logit_of_zero():
    logps = torch.full((1, 2, 3), -1.0)
    mask = torch.tensor([[[True, True, False], [False, False, False]]])
    logits = group_logits(logps, logps, mask, torch.ones(1, 2, dtype=torch.bool), "length_mean")
    assert logits.tolist() == [[-1.0, 0.0]]


def test_single_sample_methods_use_the_rewards_of_tokens_where_there_are_any():
    logps = torch.zeros(2, 1, 2)
    rewards = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    scores = torch.tensor([[0.25], [0.75]])
    with_rewards = single_sample_advantages(make_groups(logps, scores, token_rewards_GKT=rewards))
    assert with_rewards.tolist() == [[[0.5, 0.0]], [[-0.5, 0.0]]]
    without = single_sample_advantages(make_groups(logps, scores))
    assert without.tolist() == [[[-0.25, -0.25]], [[0.25, 0.25]]]
