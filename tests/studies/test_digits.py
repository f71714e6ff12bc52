"""The digits bandit: autograd and torch's Adam as yardsticks, seeds that do not know of each other, learning."""

import itertools

import numpy as np
import pytest
import torch

from tests.studies.test_tabular import assert_same_curves, silent
from tpo_dist.errors import UsageError
from tpo_dist.objective.bandit import BANDIT_METHODS, first_order_gains, wrong_arm_concentration
from tpo_dist.studies.engines.digits import simulate_digits
from tpo_dist.studies.engines.draws import draw_arms, step_indices, step_uniforms
from tpo_dist.studies.engines.stacked_mlp import Adam, StackedMLP, gradient_norm
from tpo_dist.tasks.digit_data import load_digits

SMALL = {"samples": 30, "eval_every": 20, "width": 21}


def layers_of(network, sizes, s):
    """Torch's own layers with the weights of one seed."""
    modules = []
    for weight, bias, (fan_in, fan_out) in zip(network.weights, network.biases, itertools.pairwise(sizes), strict=True):
        layer = torch.nn.Linear(fan_in, fan_out)
        with torch.no_grad():
            layer.weight.copy_(weight[s, :fan_in, :fan_out].T)
            layer.bias.copy_(bias[s, 0, :fan_out])
        modules += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


def test_networks_and_their_gradients_equal_autograd_s():
    sizes = (6, 5, 17, 3)
    network = StackedMLP(sizes, [1, 2])
    network.biases[0][..., :5] += 0.1
    x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))
    pull = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(1))
    values = network.forward(x)
    gradients = network.backward(values, pull)
    for s in range(2):
        plain = layers_of(network, sizes, s)
        logits = plain(x[s])
        torch.testing.assert_close(values[-1][s], logits)
        torch.testing.assert_close(network.logits_of(s, x[s]), logits)
        wanted = torch.autograd.grad((logits * pull[s]).sum(), list(plain.parameters()))
        ours = [gradient[s] for pair in zip(gradients[:3], gradients[3:], strict=True) for gradient in pair]
        for mine, theirs in zip(ours, wanted, strict=True):
            wide = theirs.T if theirs.ndim == 2 else theirs[None]
            rows, columns = wide.shape
            torch.testing.assert_close(mine[:rows, :columns], wide)
            assert mine.count_nonzero() == mine[:rows, :columns].count_nonzero()  # nothing in the padding
        norm = torch.nn.utils.get_total_norm(wanted).item()
        assert gradient_norm(s, gradients) == pytest.approx(norm, rel=1e-5)


def test_adam_is_torch_s():
    mine = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = torch.nn.Parameter(mine.clone())
    ours, reference = Adam([mine], 1e-2), torch.optim.Adam([theirs], lr=1e-2)
    for step in range(20):
        theirs.grad = torch.randn(3, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        ours.step([theirs.grad])
        reference.step()
    torch.testing.assert_close(mine, theirs.detach(), rtol=1e-10, atol=1e-12)


def test_initial_weights_are_flax_s():
    sizes = (64, 50, 50, 10)
    network = StackedMLP(sizes, [3, 4])
    for weight, bias, (fan_in, fan_out) in zip(network.weights, network.biases, itertools.pairwise(sizes), strict=True):
        used = weight[:, :fan_in, :fan_out]
        assert used.std().item() == pytest.approx(fan_in**-0.5, rel=0.05)
        assert used.abs().max().item() <= 2.28 * fan_in**-0.5
        assert weight.count_nonzero() == used.numel()
        assert not bias.any()
    assert not torch.equal(network.weights[0][0], network.weights[0][1])


@pytest.mark.parametrize("method", BANDIT_METHODS)
def test_seeds_are_independent_bit_for_bit(method):
    together = simulate_digits({"method": method, **SMALL}, [0, 1, 2], 60, silent)
    (alone,) = simulate_digits({"method": method, **SMALL}, [1], 60, silent)
    assert_same_curves(alone, together[1])
    assert not np.array_equal(together[0]["error"], together[1]["error"])


@pytest.mark.parametrize("method", BANDIT_METHODS)
def test_the_paper_s_sizes_keep_seeds_independent_too(method):
    together = simulate_digits({"method": method, "eval_every": 40}, range(20), 80, silent)
    (alone,) = simulate_digits({"method": method, "eval_every": 40}, [13], 80, silent)
    assert_same_curves(alone, together[13])


def test_runs_equal_a_plain_training_loop():
    """PG with torch's own layers, autograd and Adam on the same draws."""
    (curves,) = simulate_digits({"method": "pg", "samples": 50, "eval_every": 10, "lr": 3e-3}, [4], 30, silent)
    digits = load_digits("sklearn")
    images, labels = torch.tensor(digits.train_images_ND), torch.tensor(digits.train_labels_N)
    sizes = (64, 50, 50, 10)
    network = layers_of(StackedMLP(sizes, [4]), sizes, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    indices, uniforms = step_indices([4], 0, 30, 50, len(images))[0], step_uniforms([4], 0, 30, 50)[0]
    for step in range(30):
        logps = torch.log_softmax(network(images[indices[step]]), -1)
        arms = draw_arms(logps.detach().exp(), uniforms[step])
        rewards = (arms == labels[indices[step]]).float()
        advantages = rewards - logps.detach().exp().square().sum(-1)
        optimizer.zero_grad()
        (-(advantages * logps.gather(1, arms[:, None])[:, 0]).mean()).backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters()])
        optimizer.step()
        if step % 10 == 9:
            row = step // 10
            assert curves["step"][row] == step + 1
            assert curves["train_error"][row] == pytest.approx(1 - rewards.mean().item())
            assert curves["grad_norm"][row] == pytest.approx(norm.item(), rel=1e-4)
    check_measurements(curves, network, digits)


def check_measurements(curves, network, digits):
    """The last row of the curves, image by image."""
    with torch.no_grad():
        probs = torch.softmax(network(torch.tensor(digits.test_images_ND)).double(), -1)
    bins, concentrations = {k: [] for k in range(4)}, []
    for pi, y in zip(probs, digits.test_labels_N.tolist(), strict=True):
        if int(pi.argmax()) == y:
            continue
        wrong = [pi[j].item() for j in range(10) if j != y]
        concentrations.append(max(wrong) / sum(wrong))
        exact, surrogate = first_order_gains("pg", pi[None], torch.tensor([y]))
        bins[min(3, int(concentrations[-1] * 4))].append((exact.item(), (exact - surrogate).item()))
    assert curves["error"][-1] == pytest.approx(len(concentrations) / len(probs))
    assert curves["concentration"][-1] == pytest.approx(np.mean(concentrations), rel=1e-3)
    for k, rows in bins.items():
        assert curves[f"mechanism_count_bin{k}"][-1] == len(rows)
        if rows:
            assert curves[f"mechanism_gain_bin{k}"][-1] == pytest.approx(np.mean([row[0] for row in rows]), rel=1e-2)
            assert curves[f"mechanism_surplus_bin{k}"][-1] == pytest.approx(0, abs=1e-9)  # PG has none


def test_a_value_on_an_edge_belongs_to_the_upper_bin():
    from tpo_dist.studies.engines.digits import DigitsBandit, _measure

    logits = torch.full((1, 10), -torch.inf)
    logits[0, :3] = torch.tensor([0.0, 1.0, 1.0])  # two wrong classes share all that is wrong: c = 0.5 exactly
    assert wrong_arm_concentration(torch.softmax(logits, -1), torch.tensor([0])).item() == 0.5
    measured = _measure(logits, torch.tensor([0]), DigitsBandit())
    assert [measured[f"mechanism_count_bin{k}"] for k in range(4)] == [0, 0, 1, 0]
    assert np.isfinite(measured["mechanism_surplus_bin2"])
    assert np.isnan(measured["mechanism_gain_bin0"])


@pytest.mark.parametrize("method", BANDIT_METHODS)
def test_it_learns(method):
    told = []
    curves = simulate_digits({"method": method, "eval_every": 150}, [0, 1], 400, told.append)
    assert told == [300, 600, 800]  # of both seeds together
    assert curves[0]["step"].tolist() == [150, 300, 400]
    assert np.mean([curve["error"][-1] for curve in curves]) < 0.25
    assert np.isnan(curves[0]["mechanism_gain_bin3"]).all() == (method == "grpo")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"method": "ppo"}, "setting.method = 'ppo'"),
        ({"layers": 0}, "setting.layers = 0"),
        ({"lr": 0.0}, "setting.lr = 0.0"),
        ({"source": "folder"}, "setting.source = 'folder': path does not say which"),
        ({"path": "here"}, "setting.path = 'here': source = 'sklearn' takes no folder"),
    ],
)
def test_wrong_settings_are_refused(setting, words):
    with pytest.raises(UsageError, match=words):
        simulate_digits(setting, [0], 3, silent)
