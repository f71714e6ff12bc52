"""The learner: versions, provenance, clipping, warnings, and that it learns."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from tpo_dist.learner.gradients import EpochGradients
from tpo_dist.policies.weights import export_weights
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.records import ScoredGroups


def step_parts(config):
    learner, worker = make_learner(config), make_worker(config)
    worker.load(learner.snapshot())
    return learner, worker


def draws(config, step=0):
    count = config.rollout.groups_per_step
    return np.arange(step * count, (step + 1) * count)


def with_arrays(groups, **changes):
    arrays = {name: array for name, array in groups.arrays().items() if "/" not in name}
    return ScoredGroups(**{**arrays, "info": groups.info, **changes})


def test_each_update_makes_a_version(small_config):
    config = small_config("learner.epochs=2")
    learner, worker = step_parts(config)
    for step in range(3):
        before = learner.snapshot()
        assert (learner.version, before.version) == (step, step)
        worker.load(before)
        metrics = learner.update(worker.roll(draws(config, step)).groups)
        assert learner.snapshot().digest != before.digest
        assert 0 <= metrics["error"].value <= 1
        assert metrics["reward"].value == pytest.approx(1 - metrics["error"].value)
    assert learner.draws_trained == 3 * config.rollout.groups_per_step


def test_a_snapshot_is_frozen(small_config):
    config = small_config()
    learner, worker = step_parts(config)
    snapshot = learner.snapshot()
    held = {name: array.copy() for name, array in snapshot.arrays.items()}
    learner.update(worker.roll(draws(config)).groups)
    for name, array in snapshot.arrays.items():
        np.testing.assert_array_equal(array, held[name])


def test_groups_of_unknown_weights_are_refused(small_config):
    config = small_config()
    learner, worker = step_parts(config)
    groups = worker.roll(draws(config)).groups
    weights = export_weights(learner.policy)
    wrong_digest = with_arrays(groups, snapshot_digests=np.full(len(groups), b"0" * 32))
    with pytest.raises(ValueError, match="digest 0000.*this learner published"):
        learner.update(wrong_digest)
    with pytest.raises(ValueError, match="version 5 .*no such version"):
        learner.update(with_arrays(groups, snapshot_versions=np.full(len(groups), 5)))
    assert all((export_weights(learner.policy)[name] == array).all() for name, array in weights.items())
    assert learner.version == 0


def test_on_policy_and_stale_groups_train_alike_up_to_rounding(small_config):
    """A stale version label only means that nothing may be reused; the weights here are the same."""
    config = small_config("learner.epochs=1", "task.reward=bag_of_tokens")
    fresh, worker = step_parts(config)
    stale, _ = step_parts(config)
    stale.published[-1] = stale.snapshot().digest
    groups = worker.roll(draws(config)).groups
    fresh.update(groups)
    stale.update(with_arrays(groups, snapshot_versions=np.full(len(groups), -1)))
    for (name, a), (_, b) in zip(fresh.policy.named_parameters(), stale.policy.named_parameters(), strict=True):
        if name.endswith("qkv.bias"):  # the gradient of key biases is rounding noise, which Muon scales up
            continue
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


def mixed(groups, *versions):
    """The groups as if half of them came from each version."""
    labels = np.repeat(versions, len(groups) // len(versions))
    return with_arrays(groups, snapshot_versions=labels)


def test_a_batch_that_is_stale_in_part_is_not_taken_for_fresh(small_config, monkeypatch):
    config = small_config("learner.epochs=1", "task.reward=bag_of_tokens")
    learner, worker = step_parts(config)
    groups = worker.roll(draws(config)).groups
    learner.published[-1] = learner.published[0]
    monkeypatch.setattr(EpochGradients, "on_policy_epoch", lambda _: pytest.fail("reused the snapshot's log-probs"))
    learner.update(mixed(groups, 0, -1))


@pytest.mark.parametrize(
    ("every", "versions", "lags"),
    [(1, (4, 4), (0, 0)), (1, (4, 1), (0, 3)), (2, (4, 2), (0, 1)), (2, (0, 2), (2, 1)), (3, (3, 0), (0, 1))],
)
def test_staleness_counts_publications_group_by_group(every, versions, lags, small_config):
    config = small_config("learner.epochs=1", f"learner.publish_every={every}")
    learner, worker = step_parts(config)
    groups = worker.roll(draws(config)).groups
    learner.version = 4
    for version in versions:
        learner.published[version] = learner.published[0]
    scores = np.random.default_rng(0).random(groups.scores.shape, dtype=np.float32)
    metrics = learner.update(mixed(with_arrays(groups, scores=scores), *versions))
    half = len(groups) // 2
    assert metrics["staleness"].observations == (lags[0],) * half + (lags[1],) * half
    assert metrics["staleness"].value == pytest.approx(sum(lags) / 2)
    assert metrics["staleness_max"].value == max(lags)
    assert metrics["groups_trained"].value == len(groups)
    parts = {lag: [scores[half * i :][:half] for i in range(2) if lags[i] == lag] for lag in lags}
    for lag, rewards in parts.items():
        assert metrics[f"reward_lag_{lag}"].value == pytest.approx(np.mean(rewards), rel=1e-6)
    assert len([name for name in metrics if name.startswith("reward_lag")]) == len(parts)


def test_rewards_of_the_stalest_groups_have_no_line_of_their_own(small_config):
    learner, worker = step_parts(small_config("learner.epochs=1"))
    groups = worker.roll(np.arange(4)).whole()
    learner.version = 20
    learner.published |= dict.fromkeys((12, 11), learner.published[0])
    metrics = learner.update(mixed(groups, 12, 11))
    assert metrics["staleness_max"].value == 9
    assert [name for name in metrics if name.startswith("reward_lag")] == ["reward_lag_8"]


@pytest.mark.parametrize("every", [1, 4])
def test_what_was_published_is_remembered_as_far_back_as_it_can_arrive(every, small_config):
    """Staleness 2 at most: three publications, and one to spare."""
    config = small_config("stream.max_staleness=2", f"learner.publish_every={every}")
    learner, worker = step_parts(config)
    first = worker.roll(np.arange(4)).whole()
    for version in range(1, 60):
        learner.version = version
        if learner.publishes(version):
            assert version % every == 0
            learner.snapshot()
    newest = 59 // every
    assert list(learner.published) == [every * index for index in range(newest - 3, newest + 1)]
    assert learner.refusal(first) == (
        f"groups come from version 0 with digest {first.snapshot_digests[0].decode()}; "
        f"this learner remembers no version before {every * (newest - 3)}"
    )
    assert learner.refusal(with_arrays(first, snapshot_versions=np.full(4, every * (newest - 3)))) is None
    with pytest.raises(ValueError, match="remembers no version before"):
        learner.update(first)


def test_a_refusal_names_the_first_strange_weights_and_changes_nothing(small_config):
    learner, worker = step_parts(small_config())
    groups = worker.roll(np.arange(4)).whole()
    assert learner.refusal(groups) is None
    digests = groups.snapshot_digests.copy()
    digests[2] = b"\xff" * 32  # a stamp that is no text
    refusal = learner.refusal(with_arrays(groups, snapshot_digests=digests))
    assert "version 0 with digest \\xff" in refusal
    assert refusal.endswith(f"this learner published {learner.published[0]}")
    learner.published.clear()
    assert learner.refusal(groups).endswith("this learner published no such version")


def test_a_group_fails_where_all_of_its_candidates_do(small_config):
    config = small_config("learner.epochs=1")
    learner, worker = step_parts(config)
    groups = worker.roll(draws(config)).groups
    scores = np.zeros_like(groups.scores)
    scores[: len(groups) // 4, 0] = 0.25  # one candidate with any success is enough
    metrics = learner.update(with_arrays(groups, scores=scores))
    assert metrics["all_fail"].value == pytest.approx(0.75)


def test_clipping_scales_the_gradient_to_the_bound(small_config):
    config = small_config("learner.epochs=1", "learner.max_grad_norm=0.001", "task.reward=bag_of_tokens")
    learner, worker = step_parts(config)
    seen = []
    step = learner.optimizer.step
    learner.optimizer.step = lambda: (
        seen.append(torch.nn.utils.get_total_norm([p.grad for p in learner.policy.parameters()]).item()) or step()
    )
    metrics = learner.update(worker.roll(draws(config)).groups)
    assert seen == [pytest.approx(0.001, rel=1e-3)]
    assert metrics["grad_norm_first"].value > 0.001


def test_a_gradient_that_is_not_finite_stops_before_the_step(small_config):
    config = small_config("objective.name=ppo", "rollout.group_size=1")
    learner, worker = step_parts(config)
    groups = worker.roll(draws(config)).groups
    rewards = np.full_like(groups.token_rewards, 3e38)
    rewards[: len(rewards) // 2] *= -1  # finite each; less their mean, and summed over a candidate, they are not
    lost = with_arrays(groups, token_rewards=rewards)
    before = export_weights(learner.policy)
    with pytest.raises(FloatingPointError, match="the gradient of step 0"):
        learner.update(lost)
    after = export_weights(learner.policy)
    assert all((after[name] == array).all() for name, array in before.items())


def test_the_schedule_reaches_the_optimizer(small_config):
    config = small_config("steps=4", "learner.schedule.name=linear", "learner.optimizer.lr=0.004")
    learner, worker = step_parts(config)
    rates = []
    for step in range(4):
        worker.load(learner.snapshot())
        rates.append(learner.update(worker.roll(draws(config, step)).groups)["learning_rate"].value)
    assert rates == pytest.approx([0.004, 0.003, 0.002, 0.001])


@pytest.mark.parametrize(("distribution", "warns"), [("sequence", True), ("ratio", False), ("length_mean", False)])
def test_a_collapsed_group_distribution_is_warned_about_once(distribution, warns, small_config, caplog):
    config = small_config(f"objective.group_distribution={distribution}", "learner.epochs=1")
    learner, worker = step_parts(config)
    groups = worker.roll(draws(config)).groups
    spread = np.linspace(-40, 0, len(groups.behavior_logprobs), dtype=np.float32)
    collapsed = with_arrays(groups, behavior_logprobs=np.random.default_rng(0).permutation(spread))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            learner.published[learner.version] = groups.snapshot_digests[0].decode()
            learner.update(with_arrays(collapsed, snapshot_versions=np.full(len(groups), learner.version)))
    assert len([r for r in caplog.records if "effective group size" in r.message]) == int(warns)


@pytest.mark.parametrize("name", ["tpo", "grpo", "ppo", "dg", "reinforce", "group_pg"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_kind_of_method_learns_dense_rewards(name, optimizer, small_config):
    config = small_config(
        f"objective.name={name}",
        f"learner.optimizer.name={optimizer}",
        "task.length=3",
        "task.reward=bag_of_tokens",
        "rollout.groups_per_step=60",
        "rollout.block_size=60",
    )
    learner, worker = step_parts(config)
    errors = []
    for step in range(60):
        worker.load(learner.snapshot())
        errors.append(learner.update(worker.roll(draws(config, step)).groups)["error"].value)
    reached = {"tpo": 0.05, "ppo": 0.2, "dg": 0.2, "grpo": 0.3}.get(name, 0.4)  # an untrained policy is at 0.51
    assert np.mean(errors[-5:]) < reached < errors[0], errors


def test_dataclass_options_are_frozen(small_config):
    learner, _ = step_parts(small_config())
    assert replace(learner.objective, eta=2.0).eta == 2.0
    with pytest.raises(AttributeError):
        learner.objective.eta = 3.0
