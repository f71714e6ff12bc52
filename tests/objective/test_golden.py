"""Losses, targets and gradients equal the author's to 1e-5."""

import numpy as np
import pytest
import torch

from tests.objective.batches import make_objective
from tpo_dist.objective import evaluate, make_groups, standardised_scores
from tpo_dist.objective.dg import DG
from tpo_dist.objective.ppo import ppo_loss
from tpo_dist.objective.reinforce import weighted_likelihood_loss
from tpo_dist.objective.scores import group_advantages

TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


@pytest.mark.parametrize("name", ["tpo", "tpo_no_anchor", "group_pg", "grpo", "grpo_no_kl"])
def test_grouped_objectives(name, losses):
    got = evaluate(
        make_objective(name),
        tensor(losses["group_new_logprobs"]).unsqueeze(-1),
        tensor(losses["group_old_logprobs"]).unsqueeze(-1),
        tensor(losses["group_scores"]),
    )
    np.testing.assert_allclose(got.loss, losses[f"{name}_loss"], **TOLERANCE)
    np.testing.assert_allclose(got.weights_GKT.squeeze(-1), losses[f"{name}_grad"], **TOLERANCE)


@pytest.mark.parametrize("eta", [0.25, 1.0, 4.0])
def test_target(eta, losses):
    groups = make_groups(tensor(losses["group_old_logprobs"]).unsqueeze(-1), tensor(losses["group_scores"]))
    target = make_objective("tpo", eta=eta).signal(groups)
    np.testing.assert_allclose(target, losses[f"tpo_target_eta{eta}"], **TOLERANCE)


def test_target_without_anchor(losses):
    groups = make_groups(tensor(losses["group_old_logprobs"]).unsqueeze(-1), tensor(losses["group_scores"]))
    target = make_objective("tpo_no_anchor").signal(groups)
    np.testing.assert_allclose(target, losses["tpo_target_no_anchor"], **TOLERANCE)


def test_scores(losses):
    scores = tensor(losses["group_scores"])
    present = torch.ones_like(scores, dtype=torch.bool)
    u = standardised_scores(scores, present, torch.float32)
    np.testing.assert_allclose(u, losses["standardized_scores"], **TOLERANCE)
    advantages = group_advantages(scores, present, torch.float32)
    np.testing.assert_allclose(advantages, losses["grpo_advantages"], **TOLERANCE)


def single_samples(losses):
    old = tensor(losses["token_old_logprobs"]).unsqueeze(1)
    return make_groups(old, torch.zeros(len(old), 1)), tensor(losses["token_advantages"]).unsqueeze(1)


@pytest.mark.parametrize(
    ("name", "loss_of"),
    [
        ("token_reinforce", weighted_likelihood_loss),
        ("token_ppo", lambda logps, groups, advantages: ppo_loss(logps, groups, advantages, 0.2)),
        ("token_dg", lambda logps, groups, advantages: DG().loss(logps, groups, advantages)),
        ("token_dg_eta0.5", lambda logps, groups, advantages: DG(eta=0.5).loss(logps, groups, advantages)),
    ],
)
def test_single_sample_objectives(name, loss_of, losses):
    groups, advantages = single_samples(losses)
    logps = tensor(losses["token_new_logprobs"]).unsqueeze(1).requires_grad_()
    loss = loss_of(logps, groups, advantages)
    loss.backward()
    np.testing.assert_allclose(loss.detach(), losses[f"{name}_loss"], **TOLERANCE)
    np.testing.assert_allclose(logps.grad.squeeze(1), losses[f"{name}_grad"], **TOLERANCE)


def test_tpo_on_a_classification_bandit(losses):
    """One sampled action among C classes is a group of C candidates, scored by the action's advantage."""
    logits = tensor(losses["bandit_logits"]).requires_grad_()
    logps = torch.log_softmax(logits, dim=-1)
    actions, rewards = tensor(losses["bandit_actions"]), tensor(losses["bandit_rewards"])
    advantage = rewards - logps.detach().exp().square().sum(-1)
    scores = advantage.unsqueeze(-1) * torch.nn.functional.one_hot(actions, logits.shape[-1])
    groups = make_groups(logps.detach().unsqueeze(-1), scores)
    objective = make_objective("tpo")
    loss = objective.loss(logps.unsqueeze(-1), groups, objective.signal(groups))
    loss.backward()
    np.testing.assert_allclose(loss.detach(), losses["bandit_tpo_loss"], **TOLERANCE)
    np.testing.assert_allclose(logits.grad, losses["bandit_tpo_grad"], **TOLERANCE)
