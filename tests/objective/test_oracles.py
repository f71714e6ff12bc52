"""Every objective equals its paper's equation, written as slow loops; and its gradient is that equation's."""

import pytest
import torch

from tests.objective.batches import make_objective, ragged, ragged_scores, random_batch
from tests.objective.oracles import ORACLES, batch_baseline, dg, softmax, standardise, token_rewards, tpo
from tpo_dist.objective import OBJECTIVES, weigh


def test_every_objective_has_an_oracle():
    assert ORACLES.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_value(name, seed):
    logps, groups = random_batch(seed)
    objective = make_objective(name)
    got = objective.loss(logps, groups, objective.signal(groups)).item()
    want = ORACLES[name](ragged(logps, groups), ragged(groups.old_logps_GKT, groups), ragged_scores(groups))
    assert got == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("distribution", ["sequence", "length_mean", "ratio"])
@pytest.mark.parametrize("eta", [0.5, 1.0, 3.0])
def test_tpo_value_for_each_group_distribution(distribution, eta):
    logps, groups = random_batch(7)
    objective = make_objective("tpo", group_distribution=distribution, eta=eta)
    got = objective.loss(logps, groups, objective.signal(groups)).item()
    want = tpo(
        ragged(logps, groups),
        ragged(groups.old_logps_GKT, groups),
        ragged_scores(groups),
        eta=eta,
        distribution=distribution,
    )
    assert got == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "dg"])
def test_gradient_by_finite_differences(name):
    """The signal is frozen, so the gradient is the oracle's slope with old log-probs and scores held."""
    logps, groups = random_batch(3, groups=3, size=4, length=3)
    objective = make_objective(name)
    gradient = weigh(objective, logps, groups, objective.signal(groups)).weights_GKT
    old, scores, step = ragged(groups.old_logps_GKT, groups), ragged_scores(groups), 1e-6
    for index in groups.mask_GKT.nonzero().tolist():
        values = []
        for sign in (1, -1):
            moved = logps.clone()
            moved[tuple(index)] += sign * step
            values.append(ORACLES[name](ragged(moved, groups), old, scores))
        slope = (values[0] - values[1]) / (2 * step)
        assert gradient[tuple(index)].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert not gradient[~groups.mask_GKT].any()


def test_dg_gradient_stops_at_the_gate():
    logps, groups = random_batch(3, groups=3, size=4, length=3)
    objective = make_objective("dg")
    gradient = weigh(objective, logps, groups, objective.signal(groups)).weights_GKT
    lists = ragged(logps, groups)
    rewards = token_rewards(lists, ragged_scores(groups))
    baseline = batch_baseline(rewards)
    candidates = sum(len(group) for group in lists)
    for g, group in enumerate(lists):
        for k, candidate in enumerate(group):
            for t, logp in enumerate(candidate):
                advantage = rewards[g][k][t] - baseline[t]
                gate = 1 / (1 + torch.exp(torch.tensor(advantage * logp, dtype=torch.float64)).item())
                assert gradient[g, k, t].item() == pytest.approx(-gate * advantage / candidates, rel=1e-9)
    assert dg(lists, lists, ragged_scores(groups)) == pytest.approx(
        objective.loss(logps, groups, objective.signal(groups)).item()
    )


def test_gradient_is_p_minus_q():
    """Proposition 1: on each candidate's log-prob, the gradient is p - q over the number of groups."""
    logps, groups = random_batch(1)
    objective = make_objective("tpo")
    target = objective.signal(groups)
    gradient = weigh(objective, logps, groups, target).weights_GKT
    for g, group in enumerate(ragged(logps, groups)):
        p = softmax([sum(candidate) for candidate in group])
        for k in range(len(group)):
            expected = (p[k] - target[g, k].item()) / len(logps)
            seen = gradient[g, k][groups.mask_GKT[g, k]]
            torch.testing.assert_close(seen, torch.full_like(seen, expected))


def test_target_maximises_the_regularised_score():
    """Eq. 4: no other distribution on the simplex scores better against KL to the snapshot."""
    _, groups = random_batch(2)
    q = make_objective("tpo", eta=0.7).signal(groups)[0]
    u = torch.tensor(standardise(ragged_scores(groups)[0]), dtype=torch.float64)
    p_old = torch.tensor(
        softmax([sum(candidate) for candidate in ragged(groups.old_logps_GKT, groups)[0]]), dtype=torch.float64
    )

    def value(r):
        return (r * u).sum() - 0.7 * (r * (r / p_old).log()).sum()

    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        other = torch.softmax(q.log() + 0.3 * torch.randn(len(q), generator=generator, dtype=torch.float64), dim=0)
        assert value(other) < value(q)
