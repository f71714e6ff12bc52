"""TPO's options beyond the paper: what each does, and that none does anything while it is off."""

import math

import pytest
import torch

from tests.objective.batches import make_objective, ragged, ragged_scores, random_batch
from tests.objective.oracles import group_logits, log_softmax, mean, population_std, softmax, standardise
from tpo_dist.objective import make_groups, weigh

DISTRIBUTIONS = ["sequence", "length_mean", "ratio"]


def at(objective, logps, groups):
    return weigh(objective, logps, groups, objective.signal(groups))


def kl(q, log_p):
    return sum(a * (math.log(a) - b) for a, b in zip(q, log_p, strict=True) if a > 0)


def test_off_is_the_paper_s_bit_for_bit():
    logps, groups = random_batch(1)
    plain = make_objective("tpo")
    off = make_objective("tpo", score_floor=0.0, kl_budget=None, dg_gate=False, dg_eta=3.0)
    assert off.signal(groups).equal(plain.signal(groups))
    assert at(off, logps, groups).weights_GKT.equal(at(plain, logps, groups).weights_GKT)
    assert "eta" not in plain.diagnostics(groups, plain.signal(groups))


@pytest.mark.parametrize("floor", [0.01, 0.3, 10.0])
def test_score_floor(floor):
    _, groups = random_batch(3)
    target = make_objective("tpo", score_floor=floor).signal(groups)
    old = ragged(groups.old_logps_GKT, groups)
    for g, scores in enumerate(ragged_scores(groups)):
        scale = math.sqrt(population_std(scores) ** 2 + floor**2)
        u = [(s - mean(scores)) / scale for s in scores]
        q = softmax([sum(candidate) + tilt for candidate, tilt in zip(old[g], u, strict=True)])
        assert target[g][groups.present_GK[g]].tolist() == pytest.approx(q, rel=1e-9)


def test_score_floor_calms_groups_that_hardly_differ():
    scores = torch.tensor([[0.500, 0.501], [0.0, 1.0]])
    groups = make_groups(torch.zeros(2, 2, 1, dtype=torch.float64), scores)
    sharp = make_objective("tpo").signal(groups)
    calm = make_objective("tpo", score_floor=0.05).signal(groups)
    assert sharp[0, 1] > 0.88
    assert calm[0, 1] < 0.51
    assert calm[1, 1] > 0.87


def test_a_floor_gives_no_preference_to_a_group_without_one():
    old = -torch.rand(1, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    groups = make_groups(old, torch.tensor([[0.0, 1.5e-6]]))
    assert at(make_objective("tpo", score_floor=1e-9), old, groups).weights_GKT.eq(0).all()


@pytest.mark.parametrize("eta", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("budget", [0.01, 0.2])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_kl_budget_is_met(distribution, budget, eta):
    """By the mean over the groups that have a preference, wherever the search starts."""
    _, groups = random_batch(5)
    objective = make_objective("tpo", kl_budget=budget, group_distribution=distribution, eta=eta)
    target = objective.signal(groups)
    used = objective.diagnostics(groups, target)["eta"]
    old, distances = ragged(groups.old_logps_GKT, groups), []
    for g, scores in enumerate(ragged_scores(groups)):
        q = target[g][groups.present_GK[g]].tolist()
        log_p = log_softmax(group_logits(old[g], old[g], distribution))
        assert q == pytest.approx(softmax([a + u / used for a, u in zip(log_p, standardise(scores), strict=True)]))
        if population_std(scores) > 1e-6:
            distances.append(kl(q, log_p))
    assert len(distances) == len(target) - 1
    assert mean(distances) == pytest.approx(budget, rel=1e-8)


def test_a_budget_out_of_reach_takes_the_nearer_end():
    """Two candidates are never more than log 2 from equal."""
    groups = make_groups(torch.zeros(1, 2, 1, dtype=torch.float64), torch.tensor([[0.0, 1.0]]))
    objective = make_objective("tpo", kl_budget=1.0, eta=2.0)
    assert objective.diagnostics(groups, objective.signal(groups))["eta"] == pytest.approx(2e-4)
    assert objective.signal(groups).tolist() == [[0.0, 1.0]]


def test_a_batch_without_preference_needs_no_budget():
    old = -torch.rand(2, 3, 1)
    groups = make_groups(old, torch.ones(2, 3))
    objective = make_objective("tpo", kl_budget=0.1, eta=2.0)
    assert objective.diagnostics(groups, objective.signal(groups))["eta"] == 2.0
    assert not at(objective, old, groups).weights_GKT.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_budget_survives_extreme_log_probs(dtype):
    old = torch.tensor([[[-1e4], [-1e-4], [-3.0]], [[-1e4], [-1e4], [-1e4]]], dtype=dtype)
    groups = make_groups(old, torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]))
    assert make_objective("tpo", kl_budget=0.3).signal(groups).isfinite().all()


@pytest.mark.parametrize("dg_eta", [0.5, 1.0])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_gate_scales_p_minus_q_of_each_group(distribution, dg_eta):
    logps, groups = random_batch(2)
    plain = make_objective("tpo", group_distribution=distribution)
    gated = make_objective("tpo", group_distribution=distribution, dg_gate=True, dg_eta=dg_eta)
    assert gated.signal(groups).equal(plain.signal(groups))
    ungated, got = at(plain, logps, groups).weights_GKT, at(gated, logps, groups).weights_GKT
    old, seen = ragged(groups.old_logps_GKT, groups), set()
    for g, scores in enumerate(ragged_scores(groups)):
        log_p = log_softmax(group_logits(old[g], old[g], distribution))
        u = standardise(scores)
        q = softmax([a + b for a, b in zip(log_p, u, strict=True)])
        delight = sum(a * b * -c for a, b, c in zip(q, u, log_p, strict=True))
        gate = 1 / (1 + math.exp(-delight / dg_eta))
        seen.add(round(gate, 6))
        torch.testing.assert_close(got[g], gate * ungated[g])
    assert 0.5 in seen  # the group without preference
    assert len(seen) == len(groups.scores_GK)


def test_gate_leaves_a_met_target_alone():
    _, groups = random_batch(2, length=1)
    objective = make_objective("tpo", dg_gate=True)
    met = objective.signal(groups).clamp(min=1e-300).log().unsqueeze(-1)
    assert at(objective, met, groups).weights_GKT.abs().max() < 1e-15
