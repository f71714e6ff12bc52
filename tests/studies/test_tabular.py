"""The tabular bandits: golden curves, a slow oracle, and seeds that do not know of each other."""

import math

import numpy as np
import pytest
import torch

from tests.conftest import DATA
from tests.objective.oracles import softmax
from tests.objective.test_bandit import pooled_oracle
from tpo_dist.errors import UsageError
from tpo_dist.objective.bandit import POOLED_METHODS, POPULATION_METHODS
from tpo_dist.studies.engines.draws import count_arms, draw_arms, step_indices, step_uniforms
from tpo_dist.studies.engines.tabular import simulate_many_contexts, simulate_one_context


def silent(step):
    """No progress wanted."""


def assert_same_curves(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def golden():
    """Initial logits and the exact curves of 1000 steps, computed by the author's code."""
    return dict(np.load(DATA / "tabular_multi.npz"))


@pytest.mark.parametrize("method", POPULATION_METHODS)
def test_golden_logits_give_golden_curves(method, golden):
    setting = {"method": method, "initial_logits": golden["initial_logits"].tolist()}
    (curves,) = simulate_many_contexts(setting, [0], 1000, silent)
    assert curves["step"].tolist() == list(range(1, 1001))
    np.testing.assert_allclose(curves["error"], golden[f"{method}_error"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(curves["misalignment"], golden[f"{method}_misalignment"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", POOLED_METHODS)
def test_one_context_against_loops(method):
    """Same uniforms, everything else one sample and one arm at a time."""
    setting = {"method": method, "arms": 4, "samples": 9, "step_size": 0.5}
    (curves,) = simulate_one_context(setting, [3], 12, silent)
    uniforms, logits = step_uniforms([3], 0, 12, 9)[0].tolist(), [0.0] * 4
    for step in range(12):
        pi = softmax(logits)
        drawn = [next((a for a in range(4) if sum(pi[: a + 1]) > u), 3) for u in uniforms[step]]
        field = pooled_oracle(method, pi, drawn, 0, 0.5, 1.0)
        oracle = [pi[0] * ((arm == 0) - pi[arm]) for arm in range(4)]
        norm, oracle_norm = math.hypot(*field), math.hypot(*oracle)
        assert curves["error"][step] == pytest.approx(1 - pi[0], rel=1e-9)
        cosine = sum(a * b for a, b in zip(field, oracle, strict=True)) / (norm * oracle_norm) if norm else 0.0
        assert curves["misalignment"][step] == pytest.approx(1 - cosine, abs=1e-6)
        logits = [z + 0.5 * f / norm if norm else z for z, f in zip(logits, field, strict=True)]
    assert curves["step"].tolist() == list(range(12))


@pytest.mark.parametrize("method", POOLED_METHODS)
def test_one_context_seeds_are_independent_bit_for_bit(method):
    together = simulate_one_context({"method": method}, [0, 1, 2], 60, silent)
    (alone,) = simulate_one_context({"method": method}, [1], 60, silent)
    assert_same_curves(alone, together[1])
    assert not np.array_equal(together[0]["error"], together[1]["error"])


@pytest.mark.parametrize("method", POPULATION_METHODS)
def test_many_contexts_seeds_are_independent_bit_for_bit(method):
    together = simulate_many_contexts({"method": method}, [0, 1, 2], 60, silent)
    (alone,) = simulate_many_contexts({"method": method}, [1], 60, silent)
    assert_same_curves(alone, together[1])
    assert not np.array_equal(together[0]["error"], together[1]["error"])


def test_one_context_ranks_the_methods_as_the_paper_does():
    final = {
        method: np.mean(
            [curves["error"][-1] for curves in simulate_one_context({"method": method}, range(20), 150, silent)]
        )
        for method in POOLED_METHODS
    }
    assert max(final["tpo"], final["dg"]) < 1e-3 < 5e-4 + min(final["pg"], final["grpo"])


def test_progress_is_reported_up_to_the_last_step():
    told = []
    simulate_one_context({"arms": 3, "samples": 2}, [0], 120, told.append)
    simulate_many_contexts({"contexts": 2, "arms": 3}, [0], 120, told.append)
    assert told == [50, 100, 120] * 2


@pytest.mark.parametrize(
    ("simulate", "setting", "words"),
    [
        (simulate_one_context, {"method": "ppo"}, "setting.method = 'ppo'"),
        (simulate_one_context, {"armes": 3}, "did you mean 'arms'"),
        (simulate_one_context, {"arms": 1}, "setting.arms = 1"),
        (simulate_one_context, {"samples": 0}, "setting.samples = 0"),
        (simulate_one_context, {"eta": 0.0}, "setting.eta = 0.0"),
        (simulate_many_contexts, {"step_size": -1.0}, "setting.step_size = -1.0"),
        (simulate_many_contexts, {"contexts": 2, "initial_logits": [[0.0] * 10]}, "one row per context"),
    ],
)
def test_wrong_settings_are_refused(simulate, setting, words):
    with pytest.raises(UsageError, match=words):
        simulate(setting, [0], 3, silent)


def test_draws_belong_to_seed_and_step():
    whole = step_uniforms([5, 6], 0, 10, 3)
    np.testing.assert_array_equal(whole[1:, 4:9], step_uniforms([6], 4, 5, 3))
    indices = step_indices([5, 6], 0, 400, 3, 7)
    np.testing.assert_array_equal(indices[1:, 4:9], step_indices([6], 4, 5, 3, 7))
    assert sorted(set(indices.flatten().tolist())) == list(range(7))
    counts = np.bincount(indices.flatten(), minlength=7)
    expected = indices.numel() / 7
    assert ((counts - expected) ** 2 / expected).sum() < 22.5  # chi-squared, 6 degrees of freedom, p = 0.001


def test_arms_are_drawn_by_their_probabilities():
    probs = np.array([[0.1, 0.0, 0.6, 0.3]])
    uniforms = step_uniforms([1], 0, 1, 20000)[:, 0]
    counts = count_arms(torch.tensor(probs), uniforms)
    arms = draw_arms(torch.tensor(probs).expand(20000, 4), uniforms[0])
    assert counts[0].tolist() == np.bincount(arms, minlength=4).tolist()
    assert counts[0, 1] == 0
    expected = probs[0, [0, 2, 3]] * 20000
    assert ((counts[0, [0, 2, 3]].numpy() - expected) ** 2 / expected).sum() < 13.8  # 2 degrees, p = 0.001
    edges = torch.tensor([[0.0, 0.1, 1 - 2**-53]], dtype=torch.float64)
    assert draw_arms(torch.tensor(probs).unsqueeze(1).expand(1, 3, 4), edges).tolist() == [[0, 2, 3]]


def test_a_uniform_on_an_edge_draws_the_arm_above_it():
    probs, uniforms = torch.tensor([[0.25, 0.0, 0.75]], dtype=torch.float64), torch.tensor([[0.25]]).double()
    assert count_arms(probs, uniforms).tolist() == [[0, 0, 1]]
    assert draw_arms(probs, uniforms[0]).tolist() == [2]
