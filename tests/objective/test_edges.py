"""What a batch can hold at its edges: no preference, one-sided groups, extreme numbers, padding, wrong shapes."""

from dataclasses import replace

import pytest
import torch

from tests.objective.batches import make_objective, pick, random_batch
from tpo_dist.errors import UsageError
from tpo_dist.objective import OBJECTIVES, Groups, evaluate, make_groups, wants_reference, weigh, zero_variance
from tpo_dist.objective.ratios import log_ratios

PER_GROUP = ["tpo", "tpo_no_anchor", "group_pg", "grpo", "grpo_no_kl", "rebel"]
"""Mean over groups of something that a group has by itself."""
PER_CANDIDATE = ["rloo", "dr_grpo", "gspo", "awr", "maxrl", "remax"]
"""Mean over candidates of something that a candidate has within its group."""
NO_PREFERENCE_NO_PULL = [*PER_GROUP, *PER_CANDIDATE, "dapo", "cispo", "pmpo", "mdpo", "vmpo", "reinforce_pp_baseline"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("score", [0.0, 0.1, 1.0, 1e8])
@pytest.mark.parametrize("size", [1, 3, 7, 8])
@pytest.mark.parametrize("name", [n for n in NO_PREFERENCE_NO_PULL if n not in ("tpo_no_anchor", "awr", "remax")])
def test_equal_scores_on_policy_give_exactly_no_gradient(name, size, score, dtype):
    """Exactly: noise of 1e-9 would be blown up to full steps by optimizers that normalise."""
    old = -3 * torch.rand(4, size, 5, dtype=dtype, generator=torch.Generator().manual_seed(size))
    got = evaluate(make_objective(name), old, old, torch.full((4, size), score, dtype=torch.float32))
    assert not got.weights_GKT.any()


@pytest.mark.parametrize("distribution", ["sequence", "length_mean", "ratio"])
def test_equal_scores_anchor_later_epochs(distribution):
    """q = p_old: once the policy has moved, the gradient pulls it back to the snapshot."""
    old = torch.log(torch.tensor([[[0.5], [0.25]]], dtype=torch.float64))
    moved = torch.log(torch.tensor([[[0.25], [0.5]]], dtype=torch.float64))
    objective = make_objective("tpo", group_distribution=distribution)
    got = evaluate(objective, moved, old, torch.ones(1, 2))
    assert got.weights_GKT[0, 0, 0] < 0 < got.weights_GKT[0, 1, 0]


def test_zero_variance_is_seen_whatever_the_rounding():
    scores = torch.tensor([[0.1] * 7, [1e8] * 7, [0.0] * 6 + [1.0], [1.0, 1.0 + 1e-7, 1, 1, 1, 1, 1]])
    assert zero_variance(scores, torch.ones_like(scores, dtype=torch.bool)).tolist() == [True, True, False, True]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_extreme_log_probs_stay_finite(name):
    old = torch.tensor([[[-1e4], [-1e-4], [-3.0]], [[-1e4], [-1e4], [-1e4]]])
    logps = torch.tensor([[[-1e-4], [-1e4], [-3.0]], [[-1e4], [-9e3], [-1e4]]])
    scores, reference = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]), logps.flip(1)
    got = evaluate(
        make_objective(name), logps, old, scores, reference_logps_GKT=reference, greedy_scores_G=torch.tensor([1.0, 0])
    )
    assert torch.isfinite(torch.tensor(got.loss))
    assert got.weights_GKT.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padding_may_hold_anything(name):
    logps, groups = random_batch(5)
    objective = make_objective(name)
    clean = weigh(objective, logps, groups, objective.signal(groups))
    for rubbish in (float("nan"), float("inf"), 1e30):
        dirty_groups = Groups(
            old_logps_GKT=torch.where(groups.mask_GKT, groups.old_logps_GKT, rubbish),
            scores_GK=torch.where(groups.present_GK, groups.scores_GK, rubbish),
            mask_GKT=groups.mask_GKT,
            present_GK=groups.present_GK,
            reference_logps_GKT=torch.where(groups.mask_GKT, groups.reference, rubbish),
            greedy_scores_G=groups.greedy_scores_G,
        )
        dirty_logps = torch.where(groups.mask_GKT, logps, rubbish)
        dirty = weigh(objective, dirty_logps, dirty_groups, objective.signal(dirty_groups))
        assert dirty.loss == clean.loss
        torch.testing.assert_close(dirty.weights_GKT, clean.weights_GKT, rtol=0, atol=0)


@pytest.mark.parametrize("name", [*PER_GROUP, *PER_CANDIDATE])
def test_smaller_groups_count_like_any_other(name):
    """A padded group of 2 gives what the same group of 2 gives alone, but for what the mean runs over."""
    logps, groups = random_batch(4)
    objective = make_objective(name)
    count = len(logps) if name in PER_GROUP else groups.present_GK.sum() / 2
    together = weigh(objective, logps, groups, objective.signal(groups)).weights_GKT[-1, :2] * count
    alone_groups = pick(groups, slice(-1, None), slice(2))
    alone = weigh(objective, logps[-1:, :2], alone_groups, objective.signal(alone_groups)).weights_GKT[0]
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_candidate_that_does_not_exist_changes_nothing(name):
    """Whatever its mask says."""
    logps, groups = random_batch(4)
    objective = make_objective(name)
    clean = weigh(objective, logps, groups, objective.signal(groups))
    wide = {
        "old_logps_GKT": groups.old_logps_GKT,
        "scores_GK": groups.scores_GK,
        "reference_logps_GKT": groups.reference,
        "mask_GKT": groups.mask_GKT,
        "present_GK": groups.present_GK,
    }
    wide = {name: torch.cat([value, torch.ones_like(value[:, :1])], dim=1) for name, value in wide.items()}
    wide["present_GK"][:, -1] = False
    more = Groups(**wide, greedy_scores_G=groups.greedy_scores_G)
    padded = torch.cat([logps, -torch.ones_like(logps[:, :1])], dim=1)
    got = weigh(objective, padded, more, objective.signal(more))
    assert got.loss == pytest.approx(clean.loss, rel=1e-12)
    torch.testing.assert_close(got.weights_GKT[:, :-1], clean.weights_GKT)
    assert not got.weights_GKT[:, -1].any()


@pytest.mark.parametrize("name", [name for name, method in OBJECTIVES.items() if method.kind.min_group_size == 1])
def test_single_samples_are_enough(name):
    logps, groups = random_batch(7, size=3)
    one = pick(groups, slice(None), slice(1))
    objective = make_objective(name)
    assert weigh(objective, logps[:, :1], one, objective.signal(one)).weights_GKT.any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_lone_candidate_never_breaks_a_group(name):
    """Groups of one have nothing to compare; the numbers stay finite."""
    logps, groups = random_batch(7, size=3)
    one = pick(groups, slice(None), slice(1))
    objective = make_objective(name)
    assert weigh(objective, logps[:, :1], one, objective.signal(one)).weights_GKT.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_order_of_groups_and_candidates_does_not_matter(name):
    logps, groups = random_batch(6)
    objective = make_objective(name)
    loss = objective.loss(logps, groups, objective.signal(groups))
    g, k = torch.tensor([3, 0, 4, 2, 1]), torch.tensor([5, 2, 0, 3, 1, 4])
    shuffled = pick(groups, g, k)
    again = objective.loss(logps[g][:, k], shuffled, objective.signal(shuffled))
    torch.testing.assert_close(loss, again)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_signal_never_looks_at_the_current_policy(name):
    """The target is frozen: whatever asks for it later gets the same one."""
    _, groups = random_batch(8)
    objective = make_objective(name)
    torch.testing.assert_close(objective.signal(groups), objective.signal(groups), rtol=0, atol=0)
    assert not objective.signal(groups).requires_grad


@pytest.mark.parametrize("name", ["tpo", "tpo_no_anchor"])
@pytest.mark.parametrize("distribution", ["sequence", "length_mean", "ratio"])
def test_target_is_a_distribution_over_present_candidates(name, distribution):
    _, groups = random_batch(9)
    target = make_objective(name, group_distribution=distribution).signal(groups)
    torch.testing.assert_close(target.sum(-1), torch.ones(len(target), dtype=target.dtype))
    assert not target[~groups.present_GK].any()


def test_diagnostics_of_a_known_target():
    old = torch.log(torch.tensor([[[0.25], [0.25], [0.25], [0.25]]], dtype=torch.float64))
    groups = make_groups(old, torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    objective = make_objective("tpo")
    numbers = objective.diagnostics(groups, objective.signal(groups))
    q = torch.softmax(torch.tensor([3**0.5, *[-(3**-0.5)] * 3], dtype=torch.float64), 0)
    assert numbers["effective_group_size"] == pytest.approx(4.0)
    assert numbers["p_max"] == pytest.approx(0.25)
    assert numbers["target_distance"] == pytest.approx((q - 0.25).abs().sum().item())
    assert numbers["target_kl"] == pytest.approx((q * (q / 0.25).log()).sum().item())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"old_logps_GKT": torch.zeros(2, 3)}, "three axes"),
        ({"old_logps_GKT": torch.zeros(2, 3, 4, dtype=torch.int64)}, "floating-point"),
        ({"scores_GK": torch.zeros(2, 4)}, r"scores_GK has shape \[2, 4\].*\[2, 3\]"),
        ({"scores_GK": torch.zeros(3)}, r"scores_GK has shape \[3\]"),
        ({"mask_GKT": torch.ones(2, 3, 1, dtype=torch.bool)}, r"mask_GKT has shape \[2, 3, 1\]"),
        ({"mask_GKT": torch.ones(2, 3, 4)}, "dtype bool"),
        ({"present_GK": torch.zeros(2, 3, dtype=torch.bool)}, "at least one"),
        ({"token_rewards_GKT": torch.zeros(2, 3)}, "token_rewards_GKT"),
        ({"reference_logps_GKT": torch.zeros(2, 3)}, r"reference_logps_GKT has shape \[2, 3\]"),
        ({"greedy_scores_G": torch.zeros(3)}, r"greedy_scores_G has shape \[3\]"),
        ({"greedy_scores_G": torch.zeros(2, 1)}, r"greedy_scores_G has shape \[2, 1\]"),
    ],
)
def test_wrong_shapes_are_errors_not_broadcasts(changes, message):
    fields = {
        "old_logps_GKT": torch.zeros(2, 3, 4),
        "scores_GK": torch.zeros(2, 3),
        "mask_GKT": torch.ones(2, 3, 4, dtype=torch.bool),
        "present_GK": torch.ones(2, 3, dtype=torch.bool),
    }
    with pytest.raises(ValueError, match=message):
        Groups(**{**fields, **changes})


def test_log_probs_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"logps_GKT has shape \[2, 3, 1\]"):
        evaluate(make_objective("tpo"), torch.zeros(2, 3, 1), torch.zeros(2, 3, 4), torch.zeros(2, 3))


def test_remax_says_what_it_lacks():
    with pytest.raises(ValueError, match="greedy_scores_G is None.*decode one completion"):
        evaluate(make_objective("remax"), torch.zeros(2, 3, 1), torch.zeros(2, 3, 1), torch.zeros(2, 3))


def test_the_snapshot_stands_in_for_a_missing_reference():
    logps, groups = random_batch(2)
    bare = make_groups(groups.old_logps_GKT, groups.scores_GK, groups.mask_GKT, present_GK=groups.present_GK)
    objective = make_objective("pmpo")
    held = evaluate(
        objective,
        logps,
        groups.old_logps_GKT,
        groups.scores_GK,
        groups.mask_GKT,
        present_GK=groups.present_GK,
        reference_logps_GKT=groups.old_logps_GKT,
    )
    assert weigh(objective, logps, bare, objective.signal(bare)).loss == held.loss
    assert weigh(objective, logps, groups, objective.signal(groups)).loss != held.loss


def test_who_wants_a_reference():
    wanting = {name for name in OBJECTIVES if wants_reference(make_objective(name))}
    assert wanting == {"pmpo", "reinforce_pp", "reinforce_pp_baseline"}
    assert wants_reference(make_objective("dapo", beta=0.01))
    assert wants_reference(make_objective("rloo", reward_beta=0.01))
    assert not wants_reference(make_objective("grpo"))  # its KL is to the snapshot
    assert not wants_reference(make_objective("awr"))  # its beta is a temperature


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tpo", {"eta": 0.0}),
        ("tpo", {"eta": -1.0}),
        ("dg", {"eta": 0.0}),
        ("grpo", {"clip": 0.0}),
        ("grpo", {"clip": 1.0}),
        ("grpo", {"beta": -0.1}),
        ("ppo", {"clip": 2.0}),
        ("tpo", {"score_floor": -0.1}),
        ("tpo", {"kl_budget": 0.0}),
        ("tpo_no_anchor", {"kl_budget": 0.1}),
        ("tpo", {"dg_eta": 0.0}),
        ("dapo", {"clip_low": 1.5}),
        ("dapo", {"clip_high": 0.0}),
        ("dapo", {"clip_low": None}),
        ("dapo", {"dual_clip": 1.0}),
        ("rloo", {"dual_clip": 3.0}),
        ("dr_grpo", {"length": 0}),
        ("dapo", {"beta": -1.0}),
        ("rloo", {"reward_beta": -1.0}),
        ("cispo", {"dual_clip": 3.0}),
        ("cispo", {"clip_low": None, "clip_high": None}),
        ("rebel", {"eta": 0.0}),
        ("pmpo", {"alpha": 1.5}),
        ("pmpo", {"beta": -1.0}),
        ("awr", {"beta": 0.0}),
        ("awr", {"cap": 0.0}),
        ("mdpo", {"step_size": 0.0}),
        ("vmpo", {"epsilon": 0.0}),
        ("vmpo", {"alpha": -1.0}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        make_objective(name, **options)


def test_token_rewards_are_returns_for_reinforce_pp():
    """Rewards 1, 2, 4 (padding aside) leave returns 7, 6, 4, whitened; the score is not counted again."""
    rewards = torch.tensor([[[1.0, 2.0, 4.0, float("nan")]]])
    mask = torch.tensor([[[True, True, True, False]]])
    groups = make_groups(
        torch.zeros(1, 1, 4, dtype=torch.float64), torch.tensor([[7.0]]), mask, token_rewards_GKT=rewards
    )
    returns = torch.tensor([7.0, 6.0, 4.0], dtype=torch.float64)
    expected = (returns - returns.mean()) / returns.std(correction=0)
    torch.testing.assert_close(make_objective("reinforce_pp").signal(groups)[0, 0, :3], expected)
    far = replace(groups, reference_logps_GKT=groups.old_logps_GKT - torch.tensor([0.0, 1.0, 3.0, 9.0]))
    returns -= 0.5 * torch.tensor([4.0, 4.0, 3.0])  # a drift of 0, 1 and 3 nats, from each token on
    expected = (returns - returns.mean()) / returns.std(correction=0)
    torch.testing.assert_close(make_objective("reinforce_pp", reward_beta=0.5).signal(far)[0, 0, :3], expected)


def test_log_ratios_are_zero_on_padding_and_bounded_elsewhere():
    live = torch.tensor([True, True, True, False, False])
    logps = torch.tensor([-1.0, -50.0, 0.0, float("nan"), 5.0])
    base = torch.tensor([-3.0, 0.0, -50.0, 0.0, float("inf")])
    assert log_ratios(logps, base, live).tolist() == [2.0, -20.0, 20.0, 0.0, 0.0]
