"""Corrections, a fixed reference, early stopping and the oracle, through the learner that users run."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.objective.batches import make_objective
from tpo_dist.errors import UsageError
from tpo_dist.learner.batch import to_tensors
from tpo_dist.learner.gradients import EpochGradients
from tpo_dist.learner.measures import signal_metrics
from tpo_dist.learner.optimizer import make_correction
from tpo_dist.objective import CORRECTIONS, OBJECTIVES, evaluate, make_groups
from tpo_dist.programs import local
from tpo_dist.programs.job import configure
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.programs.run import create_run


def standing(config, draws=24, trained=0):
    """A learner, a worker and one record; `trained` steps later than the snapshot that sampled it."""
    learner, worker = make_learner(config), make_worker(config)
    worker.load(learner.snapshot())
    record = worker.roll(np.arange(draws)).groups
    for step in range(trained):
        worker.load(learner.snapshot())
        learner.update(worker.roll(np.arange(1000 + draws * step, 1000 + draws * (step + 1))).groups)
    return learner, record


def flat(policy):
    return torch.cat([p.detach().flatten().clone() for p in policy.parameters()])


DENSE = ("task.reward=bag_of_tokens", "task.vocab=3")


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if not name.endswith("_token")])
def test_every_objective_trains(name, small_config):
    config = small_config(*DENSE, f"objective.name={name}", "steps=3", "learner.reference=initial")
    reports = list(local.train(create_run(config)))
    assert len(reports) == 3
    assert all(np.isfinite(report.metrics["loss_first"].value) for report in reports)
    assert reports[0].metrics["grad_norm_first"].value > 0


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("name", ["tpo", "grpo", "ppo", "rebel"])
def test_corrections_change_nothing_on_policy(name, correction, small_config):
    """The ratio to the sampling policy is 1: the step is the uncorrected one to rounding."""
    gradients = []
    for chosen in ("none", correction):
        config = small_config(*DENSE, f"objective.name={name}", f"learner.correction.name={chosen}", "learner.epochs=1")
        learner, record = standing(config)
        learner.update(record)
        gradients.append(torch.cat([p.grad.flatten() for p in learner.policy.parameters()]))
    assert (gradients[0] - gradients[1]).norm() <= 1e-4 * gradients[0].norm()


@pytest.mark.parametrize("name", ["tpo", "grpo"])
def test_a_stale_batch_is_weighed_against_the_start_of_its_epochs(name, small_config):
    """W is that of the objective seen from the start, times min(pi_start / pi_behaviour, cap)."""
    config = small_config(*DENSE, "learner.correction.name=tis", "learner.correction.cap=1.1")
    learner, record = standing(config, trained=3)
    batch = to_tensors(record, learner.device)
    start = learner.policy.scorer(batch.candidates)().detach()
    gradients = EpochGradients(learner.policy, make_objective(name), batch, None)
    metrics = gradients.corrected(make_correction(config.learner.correction))
    learner.policy.zero_grad()
    gradients.epoch()
    got = [p.grad.clone() for p in learner.policy.parameters()]
    weights = (start - batch.groups.old_logps_GKT).exp().clamp(max=1.1)
    assert (weights == 1.1).any()
    assert metrics["correction_weight"].value == pytest.approx(weights.mean().item(), rel=1e-5)
    pulled = evaluate(make_objective(name), start, start, batch.groups.scores_GK).weights_GKT * weights
    learner.policy.zero_grad()
    (pulled * learner.policy.scorer(batch.candidates)()).sum().backward()
    for mine, parameter in zip(got, learner.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-3, atol=1e-6)


def test_the_first_weights_can_be_the_reference(small_config):
    """On policy, a KL to the snapshot is zero; one to the first weights is not, once the policy has left them."""
    losses = {}
    for reference in ("snapshot", "initial"):
        config = small_config(
            *DENSE, "objective.name=pmpo", f"learner.reference={reference}", "objective.beta=5.0", "learner.epochs=1"
        )
        learner, worker = make_learner(config), make_worker(config)
        losses[reference] = []
        for step in range(2):
            if step:  # somewhere else
                torch.manual_seed(0)
                with torch.no_grad():
                    for parameter in learner.policy.parameters():
                        parameter += 0.1 * torch.randn_like(parameter)
            worker.load(learner.snapshot())
            losses[reference].append(learner.update(worker.roll(np.arange(24)).groups)["loss_first"].value)
    assert losses["snapshot"][0] == pytest.approx(losses["initial"][0], rel=1e-4)
    assert losses["initial"][1] > losses["snapshot"][1] + 1e-2


def test_any_objective_can_be_held_to_the_first_weights(small_config):
    """The penalty alone: its gradient points back to where the policy started."""
    config = small_config(*DENSE, "learner.reference=initial", "learner.reference_kl=3.0", "learner.epochs=1")
    learner, worker = make_learner(config), make_worker(config)
    free = make_learner(small_config(*DENSE, "learner.epochs=1"))
    losses = []
    for each in (learner, free):
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in each.policy.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        worker.load(each.snapshot())
        losses.append(each.update(worker.roll(np.arange(24)).groups)["loss_first"].value)
    assert losses[0] > losses[1] + 1e-2


def test_epochs_end_where_the_policy_has_gone_far_enough(small_config):
    free, record = standing(small_config(*DENSE, "learner.epochs=6"))
    assert free.update(record)["epochs"].value == 6
    config = small_config(*DENSE, "learner.epochs=6", "learner.early_stop.kl=0.01")
    bounded, record = standing(config)
    assert 1 <= bounded.update(record)["epochs"].value < 6


def test_a_target_that_is_met_takes_no_step(small_config):
    config = small_config("learner.early_stop.distance=1e-6", "task.length=12", "rollout.group_size=2")
    learner, record = standing(config)
    assert not record.scores.any()  # nobody solves it: q = p_old everywhere
    before = flat(learner.policy)
    metrics = learner.update(record)
    assert metrics["epochs"].value == 0
    assert (flat(learner.policy) == before).all()
    assert learner.version == 1
    with pytest.raises(UsageError, match=r"early_stop.distance.*has no target"):
        small_config("objective.name=grpo", "learner.early_stop.distance=0.1")


def test_misalignment_is_one_minus_the_cosine_with_the_oracle():
    """Both gradients on a table of logits, the oracle's by hand."""
    bandit = {"task": {"name": "tabular_bandit"}, "policy": {"name": "tabular"}, "objective": {"name": "ppo"}}
    config = configure(
        {**bandit, "log": {"oracle": True}, "rollout": {"groups_per_step": 24, "group_size": 8}}, ["learner.epochs=1"]
    )
    learner, record = standing(config)
    table = next(iter(learner.policy.parameters())).detach().clone().requires_grad_(True)
    metrics = learner.update(record)
    gradient = torch.cat([p.grad.flatten() for p in learner.policy.parameters()])
    task_answers = learner._oracle(record)[:, 0]
    probabilities = torch.softmax(table[torch.tensor(record.prompt_tokens).long()], dim=-1)
    success = probabilities.gather(1, torch.from_numpy(task_answers).long().unsqueeze(1)).mean()
    success.backward()
    cosine = torch.nn.functional.cosine_similarity(-gradient, table.grad.flatten(), dim=0).item()
    assert metrics["misalignment"].value == pytest.approx(1 - cosine, abs=1e-5)


@pytest.mark.parametrize("reward", ["terminal", "bag_of_tokens"])
def test_wrong_concentration_counts_the_commonest_mistake(reward, small_config):
    """Whatever is not wholly right is wrong."""
    _, record = standing(small_config("rollout.group_size=8", f"task.reward={reward}"))
    from tpo_dist.learner.measures import score_metrics

    groups = to_tensors(record, torch.device("cpu")).groups
    got = score_metrics(record, groups)["wrong_concentration"].value
    tokens = record.tokens.reshape(*record.lengths.shape, -1)
    shares = []
    for group, scores in zip(tokens, record.scores, strict=True):
        wrong = [tuple(row) for row, score in zip(group.tolist(), scores, strict=True) if score < 1]
        if wrong:
            shares.append(max(wrong.count(row) for row in wrong) / len(wrong))
    assert got == pytest.approx(np.mean(shares))


def test_remax_compares_with_the_greedy_completion(small_config):
    learner, record = standing(small_config(*DENSE, "objective.name=remax"))
    assert record.greedy_scores is not None
    batch = to_tensors(record, learner.device)
    signal = learner.objective.signal(batch.groups)
    expected = record.scores - record.greedy_scores[:, None]
    shape = signal.shape
    np.testing.assert_allclose(signal.numpy().reshape(*shape[:2], -1)[..., 0], expected, atol=1e-6)


def test_the_signal_of_winners_and_of_losers_is_told_apart():
    """By hand: a target over three candidates, one of which does not exist, and advantages of one token and of two."""
    scores, old = torch.tensor([[1.0, 0.5, 9.0], [0.0, 0.55, 0.2]]), torch.zeros(2, 3, 2)
    present = torch.tensor([[True, True, False], [True, True, True]])
    mask = torch.tensor([[[True, True]] * 3, [[True, False]] * 3])
    groups = make_groups(old, scores, mask, present_GK=present)
    found = signal_metrics(groups, torch.tensor([[0.8, 0.2, 0.5], [0.1, 0.6, 0.3]]))
    assert found["signal_on_winners"].value == pytest.approx((0.8 + 0.6) / 2)
    assert found["signal_on_losers"].value == pytest.approx((0.2 + 0.1 + 0.3) / 3)
    advantages = torch.tensor([[[-1.0, 3.0], [0.5, -0.5], [9, 9]], [[-2.0, 9.0], [4.0, 9.0], [-1.0, 9.0]]])
    found = signal_metrics(groups, advantages)
    assert found["signal_on_winners"].value == pytest.approx((2.0 + 4.0) / 2)
    assert found["signal_on_losers"].value == pytest.approx((0.5 + 2.0 + 1.0) / 3)


def test_every_diagnostic_of_the_documentation_is_logged(small_config):
    page = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()
    rows = [line for line in page.partition("## Diagnostics")[2].splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall("`([a-z_]+)`", row.split(" | ")[0])}
    overrides = (
        "log.oracle=true",
        "learner.correction.name=tis",
        "learner.reference=initial",
        "learner.reference_kl=0.1",
    )
    learner, record = standing(small_config(*overrides, "learner.epochs=1"))
    assert {"all_fail", "signal_on_winners", "misalignment"} <= named <= learner.update(record).keys()
