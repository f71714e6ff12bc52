"""The sampled groups: what the objective computed, before and after the step, against slow loops in float64."""

import math

import numpy as np
import pytest
import torch

from tpo_dist.learner.batch import to_tensors
from tpo_dist.policies.weights import export_weights
from tpo_dist.programs.parts import make_learner, make_worker


def trained(config, steps=1):
    """The learner after some steps, and the groups of the last of them."""
    learner, worker = make_learner(config), make_worker(config)
    for step in range(steps):
        worker.load(learner.current())
        count = config.rollout.groups_per_step
        groups = worker.roll(np.arange(step * count, (step + 1) * count)).groups
        learner.update(groups)
    return learner, groups


def softmax(numbers):
    top = max(numbers)
    weights = [math.exp(number - top) for number in numbers]
    return [weight / sum(weights) for weight in weights]


def logits(kind, sums, old_sums, lengths):
    if kind == "sequence":
        return sums
    if kind == "length_mean":
        return [total / length for total, length in zip(sums, lengths, strict=True)]
    return [total - old for total, old in zip(sums, old_sums, strict=True)]


def target(p_old, scores, eta):
    mean = sum(scores) / len(scores)
    std = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    u = [(score - mean) / std if std > 1e-6 else 0.0 for score in scores]
    weights = [p * math.exp(number / eta) for p, number in zip(p_old, u, strict=True)]
    return [weight / sum(weights) for weight in weights]


def log_prob_sums(policy, groups, row):
    """Summed log-probs of the candidates of one group, under the policy as it is."""
    batch = to_tensors(groups.select([row]), torch.device("cpu")).candidates
    with torch.no_grad():
        return policy.scorer(batch)()[0].double().sum(dim=-1).tolist()


@pytest.mark.parametrize("kind", ["sequence", "length_mean", "ratio"])
@pytest.mark.parametrize("parts", ["learner.micro_batch_candidates=null", "learner.micro_batch_candidates=3"])
def test_a_sample_is_what_the_objective_computed(small_config, kind, parts):
    config = small_config(f"objective.group_distribution={kind}", "objective.eta=0.7", "log.groups=5", parts)
    learner, groups = trained(config)
    assert [each.draw for each in learner.sample] == [0, 4, 9, 14, 19]
    ends = np.cumsum(groups.lengths.sum(axis=1))
    for each in learner.sample:
        row = int(np.flatnonzero(groups.group_ids == each.draw)[0])
        flat = groups.behavior_logprobs[ends[row] - groups.lengths[row].sum() : ends[row]].astype(np.float64)
        old = flat.reshape(config.rollout.group_size, -1).sum(axis=1).tolist()
        after = log_prob_sums(learner.policy, groups, row)
        lengths, scores = groups.lengths[row].tolist(), groups.scores[row].astype(np.float64).tolist()
        p_old = softmax(logits(kind, old, old, lengths))
        np.testing.assert_allclose(each.logps_old_K, old, atol=1e-5)
        np.testing.assert_allclose(each.logps_after_K, after, atol=1e-4)
        np.testing.assert_allclose(each.p_old_K, p_old, atol=1e-6)
        np.testing.assert_allclose(each.p_after_K, softmax(logits(kind, after, old, lengths)), atol=1e-5)
        np.testing.assert_allclose(each.target_K, target(p_old, scores, 0.7), atol=1e-6)
        np.testing.assert_array_equal(each.scores_K, groups.scores[row])
        assert each.zero_variance == (len(set(scores)) == 1)
        assert (each.version, each.staleness, each.advantages_K) == (0, 0, None)
    assert any(not each.zero_variance for each in learner.sample)


def test_a_method_without_a_target_shows_its_advantages(small_config):
    learner, groups = trained(small_config("objective.name=grpo", "log.groups=24"))
    for row, each in enumerate(learner.sample):
        scores = groups.scores[row].astype(np.float64)
        np.testing.assert_allclose(each.advantages_K, (scores - scores.mean()) / (scores.std() + 1e-8), atol=1e-5)
        np.testing.assert_allclose(each.p_old_K, softmax(each.logps_old_K.tolist()), atol=1e-6)
        assert each.target_K is None


def test_a_position_is_shown_where_candidates_are_tokens(small_config):
    config = small_config(
        "objective.name=tpo_token", "rollout.candidates=token", "task.reward=bag_of_tokens", "log.groups=3"
    )
    learner, groups = trained(config)
    assert [each.position for each in learner.sample] == [0, 1, 2]
    tokens = groups.tokens.reshape(len(groups), config.rollout.group_size, -1)
    rewards = groups.token_rewards.reshape(tokens.shape)
    old = groups.behavior_logprobs.reshape(tokens.shape)
    for each in learner.sample:
        row, place = int(np.flatnonzero(groups.group_ids == each.draw)[0]), each.position
        np.testing.assert_array_equal(each.tokens_KT, tokens[row])
        np.testing.assert_array_equal(each.scores_K, rewards[row, :, place])
        np.testing.assert_allclose(each.logps_old_K, old[row, :, place], atol=1e-6)
        p_old = softmax(old[row, :, place].astype(np.float64).tolist())
        q = target(p_old, rewards[row, :, place].astype(np.float64).tolist(), 1.0)
        np.testing.assert_allclose(each.target_K, q, atol=1e-6)
        batch = to_tensors(groups.select([row]), torch.device("cpu")).candidates
        with torch.no_grad():
            after = learner.policy.scorer(batch)()[0, :, place].double().tolist()
        np.testing.assert_allclose(each.p_after_K, softmax(after), atol=1e-5)


def test_only_every_so_many_th_step_is_sampled_and_training_is_the_same(small_config):
    sampled, plain = small_config("log.groups=4", "log.groups_every=2"), small_config("log.groups=0")
    (learner, _), (other, _) = trained(sampled, steps=3), trained(plain, steps=3)
    assert [len(trained(sampled, steps=steps)[0].sample) for steps in (1, 2, 3)] == [4, 0, 4]
    assert other.sample == ()
    for name, array in export_weights(learner.policy).items():
        np.testing.assert_array_equal(array, export_weights(other.policy)[name], err_msg=name)
