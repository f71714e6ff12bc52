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
        metrics = learner.update(worker.roll(draws(config, step)))
        assert learner.snapshot().digest != before.digest
        assert 0 <= metrics["error"].value <= 1
        assert metrics["reward"].value == pytest.approx(1 - metrics["error"].value)
    assert learner.draws_trained == 3 * config.rollout.groups_per_step


def test_a_snapshot_is_frozen(small_config):
    config = small_config()
    learner, worker = step_parts(config)
    snapshot = learner.snapshot()
    held = {name: array.copy() for name, array in snapshot.arrays.items()}
    learner.update(worker.roll(draws(config)))
    for name, array in snapshot.arrays.items():
        np.testing.assert_array_equal(array, held[name])


def test_groups_of_unknown_weights_are_refused(small_config):
    config = small_config()
    learner, worker = step_parts(config)
    groups = worker.roll(draws(config))
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
    stale._issued[-1] = stale.snapshot().digest
    groups = worker.roll(draws(config))
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
    groups = worker.roll(draws(config))
    learner._issued[-1] = learner._issued[0]
    monkeypatch.setattr(EpochGradients, "on_policy_epoch", lambda _: pytest.fail("reused the snapshot's log-probs"))
    learner.update(mixed(groups, 0, -1))


@pytest.mark.parametrize(("oldest", "staleness"), [(4, 0), (3, 1), (1, 3)])
def test_staleness_is_the_age_of_the_oldest_group(oldest, staleness, small_config):
    config = small_config("learner.epochs=1")
    learner, worker = step_parts(config)
    groups = worker.roll(draws(config))
    learner.version = 4
    for version in (4, oldest):
        learner._issued[version] = learner._issued[0]
    assert learner.update(mixed(groups, 4, oldest))["staleness"].value == staleness


def test_a_group_fails_where_all_of_its_candidates_do(small_config):
    config = small_config("learner.epochs=1")
    learner, worker = step_parts(config)
    groups = worker.roll(draws(config))
    scores = np.zeros_like(groups.scores)
    scores[: len(groups) // 4, 0] = 1.0  # one success among many is enough
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
    metrics = learner.update(worker.roll(draws(config)))
    assert seen == [pytest.approx(0.001, rel=1e-3)]
    assert metrics["grad_norm_first"].value > 0.001


def test_a_gradient_that_is_not_finite_stops_before_the_step(small_config):
    config = small_config("objective.name=ppo", "rollout.group_size=1")
    learner, worker = step_parts(config)
    groups = worker.roll(draws(config))
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
        rates.append(learner.update(worker.roll(draws(config, step)))["learning_rate"].value)
    assert rates == pytest.approx([0.004, 0.003, 0.002, 0.001])


@pytest.mark.parametrize(("distribution", "warns"), [("sequence", True), ("ratio", False), ("length_mean", False)])
def test_a_collapsed_group_distribution_is_warned_about_once(distribution, warns, small_config, caplog):
    config = small_config(f"objective.group_distribution={distribution}", "learner.epochs=1")
    learner, worker = step_parts(config)
    groups = worker.roll(draws(config))
    spread = np.linspace(-40, 0, len(groups.behavior_logprobs), dtype=np.float32)
    collapsed = with_arrays(groups, behavior_logprobs=np.random.default_rng(0).permutation(spread))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            learner._issued[learner.version] = groups.snapshot_digests[0].decode()
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
        errors.append(learner.update(worker.roll(draws(config, step)))["error"].value)
    reached = {"tpo": 0.05, "ppo": 0.2, "dg": 0.2, "grpo": 0.3}.get(name, 0.4)  # an untrained policy is at 0.51
    assert np.mean(errors[-5:]) < reached < errors[0], errors


def test_dataclass_options_are_frozen(small_config):
    learner, _ = step_parts(small_config())
    assert replace(learner.objective, eta=2.0).eta == 2.0
    with pytest.raises(AttributeError):
        learner.objective.eta = 3.0
