"""Numbers that the other tests would not miss if they changed."""

import math

import pytest
import torch

from tests.objective import oracles
from tests.objective.batches import make_objective, ragged, random_batch
from tpo_dist.objective import evaluate, make_groups, progress
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


@pytest.mark.parametrize("distribution", ["sequence", "length_mean", "ratio"])
def test_how_far_tpo_has_come(distribution):
    """KL(p | p_old) and sum|p - q| of each group, by loops."""
    logps, groups = random_batch(6)
    tpo = make_objective("tpo", group_distribution=distribution)
    signal = tpo.signal(groups)
    divergences, distances = [], []
    for g, (now, then) in enumerate(zip(ragged(logps, groups), ragged(groups.old_logps_GKT, groups), strict=True)):
        p, old = (oracles.softmax(oracles.group_logits(each, then, distribution)) for each in (now, then))
        divergences.append(sum(a * math.log(a / b) for a, b in zip(p, old, strict=True)))
        distances.append(sum(abs(a - q) for a, q in zip(p, signal[g].tolist(), strict=False)))
    found = progress(tpo, logps, groups, signal)
    assert found.kl == pytest.approx(sum(divergences) / len(divergences), rel=1e-9)
    assert found.distance == pytest.approx(sum(distances) / len(distances), rel=1e-9)
    assert progress(tpo, groups.old_logps_GKT, groups, signal).kl == pytest.approx(0.0, abs=1e-12)


def test_how_far_methods_without_a_target_have_come():
    """By whole candidates that the snapshot drew. One that has become impossible counts 1, and stops no run alone."""
    logps, groups = random_batch(6)
    grpo = make_objective("grpo")
    terms = []
    for now, then in zip(ragged(logps, groups), ragged(groups.old_logps_GKT, groups), strict=True):
        moved = [sum(a) - sum(b) for a, b in zip(now, then, strict=True)]
        terms += [math.exp(d) * d - math.exp(d) + 1 for d in moved]
    found = progress(grpo, logps, groups, grpo.signal(groups))
    assert found.kl == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    assert found.distance is None
    old = torch.full((1, 2, 1), -1.0)
    lost = make_groups(old, torch.tensor([[1.0, 0.0]]))
    moved = old - torch.tensor([[[0.0], [300.0]]])
    assert progress(grpo, moved, lost, grpo.signal(lost)).kl == pytest.approx(0.5)


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
