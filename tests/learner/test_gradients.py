"""Micro-batches, reused log-probs and skipped groups: the gradient is the one-batch gradient, for every objective."""

import pytest
import torch

from tests.objective.batches import make_objective
from tests.policies.test_transformer import make_policy, random_batch
from tpo_dist.learner.batch import TrainingBatch
from tpo_dist.learner.gradients import EpochGradients
from tpo_dist.learner.micro_batches import split
from tpo_dist.objective import OBJECTIVES, make_groups


def prepare(dtype=torch.float32, seed=0):
    """Six groups of seven with their snapshot log-probs; groups 2 and 4 have no preference."""
    policy = make_policy(dtype=dtype)
    batch = random_batch(seed=seed)
    old = policy.scorer(batch)().detach()
    scores = torch.rand(batch.tokens_GKT.shape[:2], generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    scores[2], scores[4] = 0.3, 0.0
    return policy, batch, make_groups(old, scores, batch.mask_GKT, greedy_scores_G=torch.full((len(old),), 0.5))


def gradient(policy, objective, batch, groups, micro=None, *, on_policy=False):
    policy.zero_grad(set_to_none=True)
    epochs = EpochGradients(policy, objective, TrainingBatch(candidates=batch, groups=groups), micro)
    loss = epochs.on_policy_epoch() if on_policy else epochs.epoch()
    return loss, {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in policy.named_parameters()}


def assert_same(ours, theirs, tolerance):
    scale = torch.cat([g.flatten() for g in theirs.values()]).norm()
    for name, value in theirs.items():
        assert (ours[name] - value).norm() <= tolerance * scale, name


def move(policy):
    """Away from the snapshot, as after an epoch."""
    with torch.no_grad():
        for parameter in policy.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9))
            parameter += 0.02 * noise.to(parameter.dtype)


@pytest.mark.parametrize("micro", [1, 3, 7, 10, 14, 1000])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_give_the_one_batch_gradient(name, micro):
    """1 and 3 candidates cut groups of 7 apart; 10 holds one whole group, 14 two."""
    policy, batch, groups = prepare()
    move(policy)
    objective = make_objective(name)
    whole_loss, whole = gradient(policy, objective, batch, groups)
    loss, parts = gradient(policy, objective, batch, groups, micro)
    assert loss == pytest.approx(whole_loss, rel=1e-5, abs=1e-6)
    assert_same(parts, whole, 2e-6)


@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_first_on_policy_epoch_may_reuse_the_snapshot_s_log_probs(name, micro):
    """And leave out groups whose weight is exactly zero: in float64 nothing differs but rounding."""
    policy, batch, groups = prepare(torch.float64)
    objective = make_objective(name)
    loss, whole = gradient(policy, objective, batch, groups)
    reused_loss, reused = gradient(policy, objective, batch, groups, micro, on_policy=True)
    assert reused_loss == pytest.approx(loss, rel=1e-9)
    assert_same(reused, whole, 1e-9)


def test_groups_without_preference_are_left_out_of_the_first_epoch_and_only_then(monkeypatch):
    policy, batch, groups = prepare()
    scored = []
    scorer = policy.scorer
    monkeypatch.setattr(policy, "scorer", lambda part: scored.append(len(part)) or scorer(part))
    epochs = EpochGradients(policy, make_objective("tpo"), TrainingBatch(candidates=batch, groups=groups), None)
    epochs.on_policy_epoch()
    epochs.epoch()
    assert scored == [3, 6]  # groups 2 and 4 have equal scores, the last has no tokens


def test_a_batch_without_any_preference_has_no_gradient_on_policy():
    policy, batch, groups = prepare()
    flat = make_groups(groups.old_logps_GKT, torch.ones(6, 7), groups.mask_GKT)
    policy.zero_grad(set_to_none=True)
    EpochGradients(policy, make_objective("tpo"), TrainingBatch(candidates=batch, groups=flat), None).on_policy_epoch()
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_parts_cover_every_candidate_once():
    policy, batch, _ = prepare()
    for micro in (1, 2, 5, 7, 8, 20, 42, None):
        seen = torch.zeros(batch.tokens_GKT.shape[:2], dtype=torch.long)
        for part in split(policy, batch, micro):
            seen[part.groups, part.candidates] += 1
            assert micro is None or part.score().shape[:2].numel() <= max(micro, 1)
        assert (seen == 1).all()


def test_the_signal_is_built_once():
    """q stays what it was for all epochs, whatever the policy becomes."""
    policy, batch, groups = prepare()
    epochs = EpochGradients(policy, make_objective("tpo"), TrainingBatch(candidates=batch, groups=groups), None)
    before = epochs.signal.clone()
    epochs.epoch()
    move(policy)
    epochs.epoch()
    torch.testing.assert_close(epochs.signal, before, rtol=0, atol=0)
