"""What every policy promises; a new policy is tested by adding a line to CASES."""

import numpy as np
import pytest
import torch

from tests.policies.gradients import assert_same_gradients
from tpo_dist.bench.plain_torch import _logps as plain_transformer_logps
from tpo_dist.policies import POLICIES, ContextPolicyOptions
from tpo_dist.policies.contract import CandidateBatch
from tpo_dist.policies.mlp import MLPOptions
from tpo_dist.policies.tabular import TabularOptions
from tpo_dist.policies.transformer import TransformerOptions
from tpo_dist.policies.weights import export_weights, import_weights

VOCAB, CONTEXTS = 5, 9
FEATURES = np.random.default_rng(0).normal(size=(CONTEXTS, 6)).astype(np.float32)
CASES = {
    "transformer": TransformerOptions(width=16),
    "tabular": TabularOptions(initial_std=1.5),
    "mlp": MLPOptions(width=8, layers=2),
}


def make(name, seed=1):
    options = CASES[name]
    if isinstance(options, ContextPolicyOptions):
        return options.build_for_contexts(VOCAB, CONTEXTS, FEATURES, seed).double()
    policy = options.build(VOCAB, 7, seed).double()
    with torch.no_grad():
        policy.head.weight *= 3  # a policy with opinions
    return policy


def naive_logps(name, policy, context, tokens):
    """Log-probs [T] of one candidate, computed by itself with plain operations."""
    if name == "transformer":
        return plain_transformer_logps(policy, context[None], tokens[None])[0]
    if name == "tabular":
        logits = policy.table[context.item()]
    else:
        x = torch.tensor(FEATURES[context.item()], dtype=torch.float64)
        first, second, last = policy.layers
        hidden = torch.clamp(first.weight @ x + first.bias, min=0)
        hidden = torch.clamp(second.weight @ hidden + second.bias, min=0)
        logits = last.weight @ hidden + last.bias
    return (logits - logits.exp().sum().log())[tokens]


def shape_of(name):
    """Prompt tokens, candidate tokens, and what a prompt token may be."""
    return (3, 2, VOCAB) if name == "transformer" else (1, 1, CONTEXTS)


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def random_prompts(name, groups=6, seed=0):
    prompt, _, count = shape_of(name)
    prompts = torch.randint(0, count, (groups, prompt), generator=torch.Generator().manual_seed(seed))
    prompts[1] = prompts[0]  # one prompt asked twice
    return prompts


def random_uniforms(name, groups=6, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(groups, size, shape_of(name)[1], dtype=torch.float64, generator=generator)


def random_batch(name):
    tokens = torch.randint(0, VOCAB, (6, 4, shape_of(name)[1]), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[2, 1, -1] = False
    tokens[2, 1, -1] = 10**6  # padding may hold anything
    return CandidateBatch(prompts_GP=random_prompts(name), tokens_GKT=tokens, mask_GKT=mask)


def test_every_policy_has_a_case():
    assert CASES.keys() == POLICIES.keys() - {"causal_lm"}  # which has weights of its own: test_causal_lm.py
    assert all(isinstance(options, POLICIES[name]) for name, options in CASES.items())


def test_sampled_log_probs_are_scored_log_probs(name):
    policy, prompts = make(name), random_prompts(name)
    tokens, logps = policy.sample(prompts, random_uniforms(name))
    assert tokens.dtype == torch.int64
    batch = CandidateBatch(prompts_GP=prompts, tokens_GKT=tokens, mask_GKT=torch.ones_like(tokens, dtype=torch.bool))
    torch.testing.assert_close(logps, policy.scorer(batch)().detach(), rtol=1e-12, atol=1e-12)
    assert not logps.requires_grad


def test_values_and_gradients_equal_those_of_plain_operations(name):
    policy, batch = make(name), random_batch(name)
    weights = torch.randn(batch.tokens_GKT.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    got = policy.scorer(batch)()
    rows = []
    for g in range(len(batch)):
        for tokens, present in zip(batch.tokens_GKT[g], batch.mask_GKT[g], strict=True):
            row = torch.zeros(len(present), dtype=torch.float64)
            if present.any():
                row = torch.cat([naive_logps(name, policy, batch.prompts_GP[g], tokens[present]), row[present.sum() :]])
            rows.append(row)
    want = torch.stack(rows).view(got.shape)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    assert not got[~batch.mask_GKT].any()
    gradients = assert_same_gradients(policy, got, want, weights, rtol=1e-9)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients)


def test_frequencies_are_probabilities(name):
    policy = make(name)
    prompts = random_prompts(name)[2:3]
    uniforms = random_uniforms(name, groups=1, size=20000, seed=7)
    tokens, _ = policy.sample(prompts, uniforms)
    first = torch.bincount(tokens[0, :, 0], minlength=VOCAB).double()
    probs = torch.stack([naive_logps(name, policy, prompts[0], torch.tensor([v]))[0] for v in range(VOCAB)]).exp()
    expected = probs.detach() * 20000
    assert expected.min() > 5
    assert ((first - expected) ** 2 / expected).sum().item() < 18.5  # chi-squared, 4 degrees of freedom, p = 0.001


def test_samples_are_a_pure_function_of_prompt_and_uniforms(name):
    policy, prompts, uniforms = make(name), random_prompts(name), random_uniforms(name)
    tokens, logps = policy.sample(prompts, uniforms)
    again, _ = policy.sample(prompts, uniforms)
    assert torch.equal(tokens, again)
    for g in range(len(prompts)):
        alone, alone_logps = policy.sample(prompts[g : g + 1], uniforms[g : g + 1, 1:3])
        assert torch.equal(alone[0], tokens[g, 1:3])
        torch.testing.assert_close(alone_logps[0], logps[g, 1:3])
    assert not torch.equal(tokens, policy.sample(prompts, random_uniforms(name, seed=1))[0])


def test_scoring_follows_the_weights_of_the_moment(name):
    policy, batch = make(name), random_batch(name)
    score = policy.scorer(batch)
    before = score().detach()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.3)
    torch.testing.assert_close(score(), policy.scorer(batch)())
    assert not torch.allclose(score(), before)


def test_weights_are_the_seed_s_and_travel_without_buffers(name):
    policy, same, other = make(name), make(name), make(name, seed=2)
    weights = export_weights(policy)
    assert all(np.array_equal(array, export_weights(same)[key]) for key, array in weights.items())
    assert any(not np.array_equal(array, export_weights(other)[key]) for key, array in weights.items())
    assert weights.keys() == dict(policy.named_parameters()).keys() == policy.state_dict().keys()
    batch = random_batch(name)
    import_weights(other, weights)
    assert torch.equal(other.scorer(batch)(), policy.scorer(batch)())


def test_matrix_views_name_parameters(name):
    policy = make(name)
    for key, view in policy.matrix_views().items():
        assert policy.get_parameter(key).numel() == np.prod(view.shape)
