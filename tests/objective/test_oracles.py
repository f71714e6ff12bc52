"""Every objective equals its paper's equation, written as slow loops; and its gradient is that equation's."""

from dataclasses import replace

import pytest
import torch

from tests.objective import oracles, oracles_surrogate
from tests.objective.batches import make_objective, ragged, ragged_scores, random_batch
from tests.objective.oracles import dg_weights, softmax, standardise, tpo
from tests.objective.oracles_surrogate import cispo_weights
from tpo_dist.objective import OBJECTIVES, weigh

ORACLES = oracles.ORACLES | oracles_surrogate.ORACLES

# The methods at other options than their own: ours, then the oracle's names for them.
VARIANTS = {
    "dapo dual": ("dapo", {"dual_clip": 1.05}, {"dual": 1.05}),
    "dapo sequence": ("dapo", {"aggregation": "sequence_mean"}, {"how": "sequence_mean"}),
    "dapo kl": ("dapo", {"beta": 0.5}, {"beta": 0.5}),
    "dapo k2": ("dapo", {"beta": 0.5, "kl": "k2"}, {"beta": 0.5, "kl": "k2"}),
    "dr_grpo length": ("dr_grpo", {"length": 7, "clip_low": 0.1}, {"length": 7, "low": 0.1}),
    "rloo with kl in the reward": ("rloo", {"reward_beta": 0.7}, {"reward_beta": 0.7}),
    "rloo with a ratio": ("rloo", {"clip_low": 0.2, "clip_high": 0.2}, {"low": 0.2, "high": 0.2}),
    "remax with kl in the reward": ("remax", {"reward_beta": 0.7}, {"reward_beta": 0.7}),
    "reinforce_pp kl": ("reinforce_pp", {"reward_beta": 2.0}, {"reward_beta": 2.0}),
    "reinforce_pp_baseline kl": ("reinforce_pp_baseline", {"beta": 0.5, "kl": "k3"}, {"beta": 0.5, "kl": "k3"}),
    "gspo wide": ("gspo", {"clip_low": 0.1, "clip_high": 0.2}, {"low": 0.1, "high": 0.2}),
    "cispo": ("cispo", {"clip_low": 0.1, "clip_high": 0.05}, {"low": 0.1, "high": 0.05}),
    "dg": ("dg", {"eta": 0.3}, {"eta": 0.3}),
    "dg whole candidates": ("dg", {"eta": 2.0, "gate": "candidate"}, {"eta": 2.0, "gate": "candidate"}),
    "rebel": ("rebel", {"eta": 3.0}, {"eta": 3.0}),
    "pmpo": ("pmpo", {"alpha": 0.8, "beta": 2.0}, {"alpha": 0.8, "beta": 2.0}),
    "awr": ("awr", {"beta": 0.3, "cap": 5.0}, {"beta": 0.3, "cap": 5.0}),
    "mdpo": ("mdpo", {"step_size": 0.1}, {"step_size": 0.1}),
    "vmpo": ("vmpo", {"epsilon": 0.5, "alpha": 50.0}, {"epsilon": 0.5, "alpha": 50.0}),
}
CASES = {name: (name, {}, {}) for name in OBJECTIVES} | {f"{name}, other": case for name, case in VARIANTS.items()}


def by_oracle(name, logps, groups, **options):
    """The value that the equations give."""
    lists = [ragged(logps, groups), ragged(groups.old_logps_GKT, groups), ragged_scores(groups)]
    if name in oracles_surrogate.ORACLES:
        lists += [ragged(groups.reference, groups), groups.greedy_scores_G.tolist()]
    return ORACLES[name](*lists, **options)


def test_every_objective_has_an_oracle():
    assert ORACLES.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_value(case, seed):
    name, options, theirs = CASES[case]
    logps, groups = random_batch(seed)
    objective = make_objective(name, **options)
    got = objective.loss(logps, groups, objective.signal(groups)).item()
    assert got == pytest.approx(by_oracle(name, logps, groups, **theirs), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_value_where_completions_are_empty(case):
    """One of a group, and all of another: candidates that were scored, but have no token to pull at."""
    name, options, theirs = CASES[case]
    logps, groups = random_batch(4)
    mask = groups.mask_GKT.clone()
    mask[0, 1] = mask[2] = False
    groups = replace(groups, mask_GKT=mask)
    objective = make_objective(name, **options)
    got = weigh(objective, logps, groups, objective.signal(groups))
    assert got.loss == pytest.approx(by_oracle(name, logps, groups, **theirs), rel=1e-7, abs=1e-12)
    assert got.weights_GKT.isfinite().all()
    assert not got.weights_GKT[~mask].any()


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


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0] not in ("dg", "cispo")])
def test_gradient_by_finite_differences(case):
    """The signal is frozen, so the gradient is the oracle's slope with old log-probs and scores held.

    GSPO too: its stop-gradient gives each token the slope of the sequence form.
    """
    name, options, theirs = CASES[case]
    logps, groups = random_batch(3, groups=3, size=4, length=3)
    objective = make_objective(name, **options)
    gradient = weigh(objective, logps, groups, objective.signal(groups)).weights_GKT
    step = 1e-6
    for index in groups.mask_GKT.nonzero().tolist():
        values = []
        for sign in (1, -1):
            moved = logps.clone()
            moved[tuple(index)] += sign * step
            values.append(by_oracle(name, moved, groups, **theirs))
        slope = (values[0] - values[1]) / (2 * step)
        assert gradient[tuple(index)].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert gradient.any()
    assert not gradient[~groups.mask_GKT].any()


@pytest.mark.parametrize("options", [{}, {"clip_low": 0.1, "clip_high": 0.05}])
def test_cispo_gradient_stops_at_the_weight(options):
    """Also where the ratio is clipped: a bounded pull instead of none."""
    logps, groups = random_batch(3, groups=3, size=4, length=3)
    objective = make_objective("cispo", **options)
    gradient = weigh(objective, logps, groups, objective.signal(groups)).weights_GKT
    theirs = {name.removeprefix("clip_"): value for name, value in options.items()}
    old = ragged(groups.old_logps_GKT, groups)
    weights = cispo_weights(ragged(logps, groups), old, ragged_scores(groups), **theirs)
    tokens = int(groups.live.sum())
    for g, k, t in groups.mask_GKT.nonzero().tolist():
        assert gradient[g, k, t].item() == pytest.approx(-weights[g][k][t] / tokens, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("options", [{}, {"eta": 0.5, "gate": "candidate"}])
def test_dg_gradient_stops_at_the_gate(options):
    logps, groups = random_batch(3, groups=3, size=4, length=3)
    objective = make_objective("dg", **options)
    gradient = weigh(objective, logps, groups, objective.signal(groups)).weights_GKT
    weights = dg_weights(ragged(logps, groups), ragged_scores(groups), **options)
    candidates = int(groups.present_GK.sum())
    for g, k, t in groups.mask_GKT.nonzero().tolist():
        assert gradient[g, k, t].item() == pytest.approx(-weights[g][k][t] / candidates, rel=1e-9)


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
