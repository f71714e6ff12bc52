"""Policies over numbered contexts: how they start, and what they refuse."""

import numpy as np
import pytest
import torch

from tpo_dist.errors import UsageError
from tpo_dist.policies.contract import CandidateBatch
from tpo_dist.policies.mlp import MLPOptions
from tpo_dist.policies.tabular import TabularOptions


def test_a_table_starts_uniform_or_with_the_deviation_asked_for():
    assert not TabularOptions().build_for_contexts(5, 7, None, seed=3).table.any()
    table = TabularOptions(initial_std=2.0).build_for_contexts(50, 100, None, seed=3).table
    assert table.std().item() == pytest.approx(2.0, rel=0.05)


def test_the_network_starts_as_flax_s():
    features = np.zeros((4, 64), dtype=np.float32)
    policy = MLPOptions().build_for_contexts(10, 4, features, seed=0)
    assert [tuple(layer.weight.shape) for layer in policy.layers] == [(50, 64), (50, 50), (10, 50)]
    for layer in policy.layers:
        deviation = layer.in_features**-0.5
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.1)
        assert layer.weight.abs().max().item() <= 2.28 * deviation
        assert not layer.bias.any()


def test_more_than_one_token_is_refused():
    policy = TabularOptions().build_for_contexts(5, 7, None, seed=0)
    with pytest.raises(ValueError, match="prompts of 1 and candidates of 2 tokens"):
        policy.sample(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 3, 2))
    tokens = torch.zeros(1, 3, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="prompts of 2 and candidates of 1 tokens"):
        policy.scorer(
            CandidateBatch(prompts_GP=torch.zeros(1, 2, dtype=torch.long), tokens_GKT=tokens, mask_GKT=tokens == 0)
        )


def test_a_network_without_features_is_refused():
    with pytest.raises(UsageError, match="policy.name = 'mlp': it reads features"):
        MLPOptions().build_for_contexts(5, 7, None, seed=0)


@pytest.mark.parametrize("options", [{"width": 0}, {"layers": 0}])
def test_impossible_networks_are_refused(options):
    with pytest.raises(UsageError):
        MLPOptions(**options)


@pytest.mark.parametrize("deviation", [-1.0, float("nan"), float("inf")])
def test_impossible_deviations_are_refused(deviation):
    with pytest.raises(UsageError, match="initial_std"):
        TabularOptions(initial_std=deviation)
