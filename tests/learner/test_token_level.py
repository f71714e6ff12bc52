"""Token-level groups: one pass over the followed trajectory gives what separate prefixes would."""

import numpy as np
import pytest
import torch

from tpo_dist.errors import UsageError
from tpo_dist.learner.batch import to_tensors
from tpo_dist.learner.gradients import EpochGradients
from tpo_dist.objective import OBJECTIVES, make_groups, weigh
from tpo_dist.policies.contract import CandidateBatch
from tpo_dist.programs import local
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.programs.run import create_run
from tpo_dist.records import concatenate, pad
from tpo_dist.tasks import TokenReversal

TOKEN_LEVEL = ("task.reward=bag_of_tokens", "task.vocab=3", "task.length=5", "objective.name=tpo_token")


def rolled(small_config, *overrides, draws=12):
    config = small_config(*TOKEN_LEVEL, *overrides)
    learner, worker = make_learner(config), make_worker(config)
    worker.load(learner.snapshot())
    return learner, worker.roll(np.arange(draws)).groups


def separate_prefixes(learner, record):
    """Weights and gradient with every prefix state as a prompt of its own, position by position."""
    prompts, tokens = pad(record.prompt_tokens, record.prompt_lengths), pad(record.tokens, record.lengths)
    rewards = torch.from_numpy(pad(record.token_rewards, record.lengths).copy())
    logps = []
    for position in range(tokens.shape[-1]):
        prefix = np.concatenate([prompts, tokens[:, 0, :position]], axis=1)
        candidates = torch.from_numpy(tokens[:, :, position].copy()).long().unsqueeze(-1)
        batch = CandidateBatch(
            prompts_GP=torch.from_numpy(prefix).long(), tokens_GKT=candidates, mask_GKT=torch.ones_like(candidates) > 0
        )
        logps.append(learner.policy.scorer(batch)().squeeze(-1))
    logps_GK1 = torch.stack(logps, dim=1).flatten(0, 1).unsqueeze(-1)
    old = torch.from_numpy(pad(record.behavior_logprobs, record.lengths).copy())
    groups = make_groups(old.transpose(1, 2).flatten(0, 1).unsqueeze(-1), rewards.transpose(1, 2).flatten(0, 1))
    return logps_GK1, groups


@pytest.mark.parametrize("micro", [None, 5, 16])
@pytest.mark.parametrize("name", ["tpo", "grpo", "group_pg", "tpo_no_anchor"])
def test_gradients_equal_those_of_separate_prefixes(name, micro, small_config):
    learner, record = rolled(small_config)
    with torch.no_grad():
        for parameter in learner.policy.parameters():  # off the snapshot, as in a later epoch
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    method = OBJECTIVES[name]
    objective = method.kind(**method.options)
    EpochGradients(learner.policy, objective, to_tensors(record, learner.device), micro).epoch()
    ours = {n: p.grad.clone() for n, p in learner.policy.named_parameters()}
    learner.policy.zero_grad()
    logps, groups = separate_prefixes(learner, record)
    at = weigh(objective, logps.detach(), groups, objective.signal(groups))
    (at.weights_GKT * logps).sum().backward()
    scale = torch.cat([g.flatten() for g in ours.values()]).norm()
    assert scale > 0
    for n, parameter in learner.policy.named_parameters():
        assert (parameter.grad - ours[n]).norm() <= 2e-6 * scale, n


def test_behaviour_log_probs_are_those_of_the_followed_prefix(small_config):
    learner, record = rolled(small_config)
    logps, groups = separate_prefixes(learner, record)
    torch.testing.assert_close(logps.detach(), groups.old_logps_GKT, rtol=1e-4, atol=1e-5)
    batch = to_tensors(record, learner.device)
    torch.testing.assert_close(batch.groups.old_logps_GKT, groups.old_logps_GKT)
    torch.testing.assert_close(batch.groups.scores_GK, groups.scores_GK)
    scored = learner.policy.scorer(batch.candidates)()
    torch.testing.assert_close(batch.to_groups(scored).detach(), groups.old_logps_GKT, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.from_groups(batch.to_groups(scored)), scored)


def test_candidates_of_a_position_are_drawn_from_one_distribution(small_config):
    """Tokens alike have log-probs alike: they share the prefix, whatever the candidate drew before."""
    _, record = rolled(small_config)
    tokens, logps = pad(record.tokens, record.lengths), pad(record.behavior_logprobs, record.lengths)
    for n, t in np.ndindex(tokens.shape[0], tokens.shape[2]):
        for token in range(3):
            same = logps[n, tokens[n, :, t] == token, t]
            assert same.size == 0 or np.ptp(same) == 0


@pytest.mark.parametrize("reward", ["bag_of_tokens", "sequential"])
def test_alternatives_are_scored_behind_the_followed_tokens(reward):
    task = TokenReversal(variant="copy", reward=reward, length=3, vocab=2)
    prompts = task.prompts(0, np.arange(1))
    right = task.answers(prompts)[0]
    wrong = 1 - right
    followed = np.array([right[0], wrong[1], right[2]])
    other = np.array([wrong[0], right[1], right[2]])
    scores = task.score_alternatives(prompts, np.array([[followed, other]], dtype=np.int32), np.full((1, 2), 3))
    last = 1.0 if reward == "bag_of_tokens" else 0.0  # the followed second token was wrong
    assert scores.token_rewards_GKT[0].tolist() == [[1.0, 0.0, last], [0.0, 1.0, last]]


def test_select_and_concatenate_keep_the_level(small_config):
    _, record = rolled(small_config)
    whole = concatenate([record.select([0, 1]), record.select([2])])
    assert whole.token_level
    assert whole.tokens.tolist() == record.select([0, 1, 2]).tokens.tolist()
    plain = make_worker(config := small_config("task.reward=bag_of_tokens", "task.vocab=3", "task.length=5"))
    plain.load(make_learner(config).snapshot())
    with pytest.raises(ValueError, match="token-level groups and groups of whole candidates"):
        concatenate([record, plain.roll(np.arange(3)).groups])


@pytest.mark.parametrize("name", ["tpo_token", "grpo_token"])
def test_it_learns(name, small_config):
    config = small_config(*TOKEN_LEVEL, f"objective.name={name}", "steps=60", "rollout.groups_per_step=48")
    errors = [report.metrics["error"].value for report in local.train(create_run(config))]
    assert np.mean(errors[:3]) > 0.5
    assert np.mean(errors[-5:]) < 0.12


def test_a_reward_for_the_whole_answer_has_no_token_level(small_config):
    with pytest.raises(UsageError, match=r"task.reward = 'terminal'"):
        small_config("task.reward=terminal", "objective.name=tpo_token")
    assert small_config(*TOKEN_LEVEL).rollout.candidates == "token"
    assert small_config(*TOKEN_LEVEL, "rollout.candidates=sequence").rollout.candidates == "sequence"
