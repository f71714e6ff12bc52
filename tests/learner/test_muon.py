"""Muon and Adam step as the author's do."""

import numpy as np
import pytest
import torch

from tests.objective.batches import make_objective
from tests.policies.test_transformer import flax_arrays
from tpo_dist.bench.plain_torch import _optimize, _scores
from tpo_dist.learner.batch import TrainingBatch
from tpo_dist.learner.gradients import EpochGradients
from tpo_dist.learner.muon import MuonAdam, orthogonalise
from tpo_dist.objective import make_groups
from tpo_dist.policies.contract import CandidateBatch, MatrixView
from tpo_dist.policies.flax_layout import load_flax, to_flax
from tpo_dist.policies.transformer import TransformerOptions


def golden_start(golden_step):
    policy = TransformerOptions().build(2, 10, seed=0)
    load_flax(policy, flax_arrays(golden_step))
    actions = torch.from_numpy(golden_step["actions"])
    batch = CandidateBatch(
        prompts_GP=torch.from_numpy(golden_step["prompts"]),
        tokens_GKT=actions,
        mask_GKT=torch.ones_like(actions, dtype=torch.bool),
    )
    groups = make_groups(torch.from_numpy(golden_step["old_token_log_probs"]), torch.from_numpy(golden_step["scores"]))
    return policy, batch, groups


@pytest.mark.parametrize("reuse", [False, True], ids=["recomputed", "reused-log-probs"])
@pytest.mark.parametrize("name", ["tpo", "grpo", "group_pg"])
def test_four_epochs_follow_the_author_s(name, reuse, golden_step):
    policy, batch, groups = golden_start(golden_step)
    optimizer = MuonAdam(policy.named_parameters(), policy.matrix_views(), lr=1e-3)
    gradients = EpochGradients(policy, make_objective(name), TrainingBatch(candidates=batch, groups=groups), None)
    # The paths of GRPO and Group PG amplify rounding (their losses reach 500); TPO is held to the golden tolerance.
    tolerance = 1e-4 if name == "tpo" else 1e-3
    for epoch in range(4):
        optimizer.zero_grad()
        loss = gradients.on_policy_epoch() if reuse and epoch == 0 else gradients.epoch()
        norm = torch.nn.utils.get_total_norm([p.grad for p in policy.parameters()]).item()
        assert loss == pytest.approx(golden_step[f"{name}_loss_epoch{epoch}"], rel=tolerance, abs=1e-5)
        assert norm == pytest.approx(golden_step[f"{name}_gradnorm_epoch{epoch}"], rel=tolerance)
        optimizer.step()
        if epoch in (0, 3):
            logps = policy.scorer(batch)().detach().numpy()
            expected = golden_step[f"{name}_logprobs_after_epoch{epoch + 1}"]
            assert np.linalg.norm(logps - expected) <= tolerance * np.linalg.norm(expected)
    if name == "tpo":
        ours = to_flax(policy)
        for parameter, after in flax_arrays(golden_step, "after4/params/").items():
            if not parameter.endswith("key/bias"):  # zero gradient: what they hold is rounding, in the reference too
                distance = np.linalg.norm(ours[parameter].reshape(after.shape) - after)
                assert distance <= 1e-4 * np.linalg.norm(after), parameter


def test_newton_schulz_makes_singular_values_near_one():
    matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert (values > 0.6).all()
    assert (values < 1.3).all()


def naive_muon(weights, gradients, scale, lr=0.1, beta=0.95):
    """One matrix, step by step, as algorithm notes write it."""
    mu = torch.zeros_like(weights)
    for t, g in enumerate(gradients, start=1):
        mu = beta * mu + (1 - beta) * g
        y = beta * mu / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
        wide = y.T if y.shape[0] > y.shape[1] else y
        x = wide / (wide.norm() + 1e-8)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        weights = weights - lr * scale * (x.T if y.shape[0] > y.shape[1] else x)
    return weights


@pytest.mark.parametrize(
    ("shape", "view", "scale"),
    [
        ((3, 12), MatrixView((3, 12)), 2.0),
        ((12, 3), MatrixView((12, 3)), 1.0),
        ((12, 3), MatrixView((12, 3), transposed=True), 2.0),
        ((24,), MatrixView((2, 3, 4)), (4 / 3) ** 0.5),
    ],
)
def test_a_batch_of_shapes_equals_one_matrix_at_a_time(shape, view, scale):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, dtype=torch.float64, generator=generator)
    gradients = [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(4)]
    parameter, companion = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.ones(3, 12).double())
    named = [("a", companion), ("b", parameter)]
    optimizer = MuonAdam(named, {"a": MatrixView((3, 12)), "b": view}, lr=0.1)
    for gradient in gradients:
        parameter.grad, companion.grad = gradient.clone(), torch.ones_like(companion)
        optimizer.step()
    pieces = zip(
        start.view(-1, *view.shape[-2:]),
        zip(*[g.view(-1, *view.shape[-2:]) for g in gradients], strict=True),
        strict=True,
    )
    expected = torch.stack([naive_muon(weights, list(steps), scale) for weights, steps in pieces]).view(shape)
    torch.testing.assert_close(parameter.detach(), expected)


def test_adam_looks_ahead_from_its_first_step():
    """Nesterov momentum: the first step is 1.474 learning rates long, not one."""
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = MuonAdam([("a", parameter)], {}, lr=0.01)
    parameter.grad = torch.tensor([5.0, -0.2, 1e-3], dtype=torch.float64)
    optimizer.step()
    expected = -0.01 * (0.9 * 0.1 / (1 - 0.81) + 1.0) * parameter.grad.sign()
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=0)
    assert abs(parameter[0].item()) == pytest.approx(0.01 * 1.4737, rel=1e-3)


def test_damped_steps_shrink_with_the_gradient():
    """Full steps while the gradient keeps its size, or grows; a hundredth of it moves a hundredth as far."""
    moved = {}
    for damping in (None, 0.9):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(4, 6))
        optimizer = MuonAdam([("w", weight)], {"w": MatrixView((4, 6))}, lr=0.1, momentum=0.0, damping=damping)
        direction = torch.randn(4, 6)
        moved[damping] = []
        for size in (1.0, 1.0, 0.01, 0.0, 5.0):
            before = weight.detach().clone()
            weight.grad = size * direction
            optimizer.step()
            moved[damping].append((weight.detach() - before).norm().item())
    assert moved[0.9][:2] == pytest.approx(moved[None][:2], rel=1e-5)
    square = 0.0
    for step, size in enumerate((1.0, 1.0, 0.01), start=1):
        square = 0.9 * square + 0.1 * size**2
        usual = (square / (1 - 0.9**step)) ** 0.5
    assert moved[0.9][2] / moved[None][2] == pytest.approx(0.01 / usual, rel=1e-3)
    assert moved[0.9][3] == 0.0
    assert moved[0.9][4] == pytest.approx(moved[None][4], rel=1e-5)


def test_the_yardstick_of_the_benchmark_steps_alike():
    ours, theirs = (TransformerOptions(width=16).build(5, 6, seed=1) for _ in range(2))
    optimizer = MuonAdam(ours.named_parameters(), ours.matrix_views(), lr=0.01)
    generator, state = torch.Generator().manual_seed(2), {}
    for step in (1, 2, 3):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        optimizer.step()
        _optimize(theirs, state, step, 0.01)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(("reward", "score"), [("terminal", 0.0), ("sequential", 0.5), ("bag_of_tokens", 0.75)])
def test_the_yardstick_of_the_benchmark_scores_alike(reward, score):
    assert _scores(torch.tensor([[[True, True, False, True]]]), reward).item() == score
