"""The transformer equals the author's, and what its prefix tree saves changes nothing but time."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.policies.gradients import assert_same_gradients
from tpo_dist.bench.plain_torch import _logps as plain_logps
from tpo_dist.errors import UsageError
from tpo_dist.policies.contract import GREEDY, CandidateBatch
from tpo_dist.policies.flax_layout import load_flax, to_flax
from tpo_dist.policies.transformer import Transformer, TransformerOptions
from tpo_dist.policies.tree_sampling import draw_tokens
from tpo_dist.policies.weights import export_weights


def flax_arrays(golden_step, prefix="init/params/"):
    return {name.removeprefix(prefix): array for name, array in golden_step.items() if name.startswith(prefix)}


def make_policy(vocab=3, context=8, dtype=torch.float64, seed=1, **options) -> Transformer:
    policy = TransformerOptions(**{"width": 16, **options}).build(vocab, context, seed).to(dtype)
    with torch.no_grad():
        policy.head.weight *= 3  # a policy with opinions, so that errors show
    return policy


def random_batch(vocab=3, groups=6, size=7, prompt=4, length=4, seed=0, ragged=True):
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(0, vocab, (groups, prompt), generator=generator)
    prompts[1] = prompts[0]  # one prompt asked twice
    tokens = torch.randint(0, vocab, (groups, size, length), generator=generator)
    tokens[2] = tokens[2, :1]  # a group of one candidate K times
    lengths = torch.full((groups, size), length)
    if ragged:
        lengths = torch.randint(0, length + 1, (groups, size), generator=generator)
        lengths[-1] = 0
    return CandidateBatch(prompts_GP=prompts, tokens_GKT=tokens, mask_GKT=torch.arange(length) < lengths.unsqueeze(-1))


def one_by_one(policy, batch):
    """Every candidate by itself through plain causal attention."""
    rows = torch.zeros(batch.tokens_GKT.shape, dtype=torch.float64)
    for g, k in itertools.product(range(len(batch)), range(batch.tokens_GKT.shape[1])):
        count = int(batch.mask_GKT[g, k].sum())
        if count:
            rows[g, k, :count] = plain_logps(
                policy, batch.prompts_GP[g : g + 1], batch.tokens_GKT[g, k : k + 1, :count]
            )
    return rows


def test_golden_parameters_give_golden_log_probs(golden_step):
    policy = TransformerOptions().build(2, 10, seed=0)
    load_flax(policy, flax_arrays(golden_step))
    prompts, actions = (torch.from_numpy(golden_step[name]) for name in ("prompts", "actions"))
    batch = CandidateBatch(prompts_GP=prompts, tokens_GKT=actions, mask_GKT=torch.ones(4, 8, 5, dtype=torch.bool))
    np.testing.assert_allclose(
        policy.scorer(batch)().detach(), golden_step["old_token_log_probs"], rtol=1e-5, atol=2e-6
    )
    # All positions and all tokens, one sequence at a time.
    full = golden_step["full_log_probs"]
    sequences = torch.cat([prompts.repeat_interleave(8, 0), actions.reshape(32, 5)], dim=1)
    for row in range(0, 32, 5):
        for token in range(2):
            probe = torch.full((1, 1, 1), token)
            for end in range(1, 10):
                alone = CandidateBatch(
                    prompts_GP=sequences[row : row + 1, :end], tokens_GKT=probe, mask_GKT=torch.ones(1, 1, 1) > 0
                )
                got = policy.scorer(alone)().item()
                assert got == pytest.approx(full[row, end - 1, token], rel=1e-5, abs=2e-6)


def test_flax_layout_round_trip(golden_step):
    arrays = flax_arrays(golden_step)
    policy = TransformerOptions().build(2, 10, seed=0)
    load_flax(policy, arrays)
    back = to_flax(policy)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name].reshape(array.shape), array)


def test_flax_layout_refuses_what_does_not_fit(golden_step):
    arrays = flax_arrays(golden_step)
    with pytest.raises(ValueError, match="pos_emb has shape"):
        load_flax(TransformerOptions().build(2, 12, seed=0), arrays)
    with pytest.raises(ValueError, match="lack 'pos_emb'"):
        load_flax(TransformerOptions().build(2, 10, seed=0), {k: v for k, v in arrays.items() if k != "pos_emb"})


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("prompt", [1, 4])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_tree_changes_nothing_but_time(ragged, prompt, length):
    """Shared prompts, shared prefixes and duplicates: values and gradients equal those of separate candidates."""
    policy = make_policy()
    batch = random_batch(ragged=ragged, prompt=prompt, length=length)
    weights = torch.randn(batch.tokens_GKT.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    got, want = policy.scorer(batch)(), one_by_one(policy, batch)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert not got[~batch.mask_GKT].any()
    assert_same_gradients(policy, got, want, weights, rtol=1e-10)


def test_tree_gradient_of_many_shared_keys_passes_gradcheck():
    policy = make_policy(layers=1, width=4, heads=2, vocab=2)
    batch = random_batch(vocab=2, groups=3, size=4, prompt=2, length=3)
    names = [name for name, _ in policy.named_parameters()]

    def function(*values):
        return torch.func.functional_call(
            _Scored(policy, batch), dict(zip(("policy." + n for n in names), values, strict=True)), ()
        )

    values = tuple(p.detach().clone().requires_grad_() for p in policy.parameters())
    assert torch.autograd.gradcheck(function, values, atol=1e-6)


class _Scored(torch.nn.Module):
    def __init__(self, policy, batch):
        super().__init__()
        self.policy, self.score = policy, policy.scorer(batch)

    def forward(self):
        return self.score()


def test_scoring_follows_the_weights_of_the_moment():
    policy, batch = make_policy(), random_batch()
    score = policy.scorer(batch)
    before = score()
    with torch.no_grad():
        policy.positions *= 3
    torch.testing.assert_close(score(), policy.scorer(batch)())
    assert not torch.allclose(score(), before)


def plain_sampling(policy, prompts, uniforms):
    """Candidate by candidate, the whole prefix recomputed for every token."""
    groups, size, length = uniforms.shape
    tokens = torch.zeros(groups, size, length, dtype=torch.long)
    for g, k in itertools.product(range(groups), range(size)):
        for t in range(length):
            scores = []
            for token in range(policy.head.out_features):
                attempt = torch.cat([tokens[g, k, :t], torch.tensor([token])])[None]
                scores.append(plain_logps(policy, prompts[g : g + 1], attempt)[0, t])
            tokens[g, k, t] = draw_tokens(torch.stack(scores)[None], uniforms[g, k, t][None])[0]
    return tokens


def test_cached_sampling_draws_what_plain_sampling_draws():
    policy = make_policy(context=9)
    prompts = random_batch(prompt=4).prompts_GP
    uniforms = torch.rand(6, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    tokens, logps = policy.sample(prompts, uniforms)
    torch.testing.assert_close(tokens, plain_sampling(policy, prompts, uniforms))
    batch = CandidateBatch(prompts_GP=prompts, tokens_GKT=tokens, mask_GKT=torch.ones_like(tokens, dtype=torch.bool))
    torch.testing.assert_close(logps, policy.scorer(batch)(), rtol=1e-12, atol=1e-12)


def test_samples_follow_the_policy():
    policy = make_policy(vocab=3, context=3, dtype=torch.float32)
    prompts = torch.zeros(1, 2, dtype=torch.long)
    uniforms = torch.rand(1, 20000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    tokens, _ = policy.sample(prompts, uniforms)
    every = CandidateBatch(
        prompts_GP=prompts, tokens_GKT=torch.arange(3).view(1, 3, 1), mask_GKT=torch.ones(1, 3, 1, dtype=torch.bool)
    )
    p = policy.scorer(every)().exp().flatten()
    expected = p * tokens.numel()
    counts = torch.bincount(tokens.flatten(), minlength=3)
    assert ((counts - expected) ** 2 / expected).sum().item() < 13.8  # chi-squared, 2 degrees of freedom, p = 0.001


def test_drawing_covers_the_whole_interval():
    logps = F.log_softmax(torch.tensor([[0.0, -torch.inf, 1.0]] * 4, dtype=torch.float64), dim=-1)
    first = torch.exp(logps[0, 0])
    edge = torch.stack([torch.zeros(()).double(), first - 1e-12, first + 1e-12, torch.tensor(1 - 2**-53).double()])
    assert draw_tokens(logps, edge).tolist() == [0, 0, 2, 2]


def test_initial_weights_are_the_seed_s():
    first, again, other = (export_weights(TransformerOptions().build(2, 10, seed)) for seed in (0, 0, 1))
    assert all((first[name] == again[name]).all() for name in first)
    assert not (first["positions"] == other["positions"]).any()


def test_initial_weights_are_flax_s(golden_step):
    """Same zeros and ones, same deviations as the author's initial parameters."""
    ours, theirs = to_flax(TransformerOptions().build(2, 10, seed=0)), flax_arrays(golden_step)
    for name, array in theirs.items():
        if array.std() == 0:
            np.testing.assert_array_equal(ours[name].reshape(array.shape), array)
        elif array.size > 1000:
            assert ours[name].std() == pytest.approx(array.std(), rel=0.1), name
            assert abs(ours[name]).max() == pytest.approx(abs(array).max(), rel=0.2), name


def test_too_long_sequences_are_refused():
    policy = make_policy(context=5)
    with pytest.raises(ValueError, match="take 6 tokens; this policy has 5"):
        policy.sample(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 1, 3))


@pytest.mark.parametrize("options", [{"heads": 3}, {"width": 0}, {"layers": 0}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(UsageError):
        TransformerOptions(**options)


def test_greedy_takes_the_likeliest_token_beside_drawn_candidates():
    policy = make_policy()
    prompts = torch.randint(0, 3, (4, 3), generator=torch.Generator().manual_seed(1))
    uniforms = torch.rand(4, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    uniforms[:, 1] = GREEDY
    tokens, _ = policy.sample(prompts, uniforms)
    for position in range(4):
        prefix = torch.cat([prompts, tokens[:, 1, :position]], dim=1)
        every = torch.arange(3).view(1, 3, 1).expand(4, 3, 1)
        batch = CandidateBatch(prompts_GP=prefix, tokens_GKT=every, mask_GKT=torch.ones_like(every) > 0)
        assert (policy.scorer(batch)()[:, :, 0].argmax(dim=1) == tokens[:, 1, position]).all()
    others = [0, 2]
    alone, _ = policy.sample(prompts, uniforms[:, others])
    assert (alone == tokens[:, others]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.mask_GKT[0, 0].copy_(torch.tensor([True, False, True, True])), "mask_GKT has a hole"),
        (lambda b: b.tokens_GKT[0, 0].fill_(-1), "token ids run from -1 to 2; those of this policy from 0 to 2"),
        (lambda b: b.tokens_GKT[0, 0].fill_(3), "token ids run from 0 to 3"),
        (lambda b: b.prompts_GP[0].fill_(7), "token ids run from 0 to 7"),
    ],
)
def test_a_batch_that_cannot_be_scored_is_refused(change, message):
    batch = random_batch(ragged=False)
    change(batch)
    with pytest.raises(ValueError, match=message):
        make_policy().scorer(batch)


def test_unknown_tokens_of_a_followed_sequence_are_refused():
    batch = random_batch(ragged=False)
    prefixes = batch.tokens_GKT[:, 0].clone()
    prefixes[0, 1] = 3
    followed = CandidateBatch(
        prompts_GP=batch.prompts_GP, tokens_GKT=batch.tokens_GKT, mask_GKT=batch.mask_GKT, prefixes_GT=prefixes
    )
    with pytest.raises(ValueError, match="token ids run from 0 to 3"):
        make_policy().scorer(followed)


def test_padding_may_hold_any_token():
    policy, batch = make_policy(), random_batch()
    rubbish = CandidateBatch(
        prompts_GP=batch.prompts_GP,
        tokens_GKT=torch.where(batch.mask_GKT, batch.tokens_GKT, 2**62),
        mask_GKT=batch.mask_GKT,
    )
    assert (policy.scorer(rubbish)() == policy.scorer(batch)()).all()


@pytest.mark.parametrize(
    ("options", "vocab", "context"), [({}, 2, 20), ({"width": 12, "layers": 3, "heads": 3, "ffn_factor": 2}, 7, 9)]
)
def test_parameters_are_counted_without_building(options, vocab, context):
    chosen = TransformerOptions(**options)
    built = sum(parameter.numel() for parameter in chosen.build(vocab, context, 0).parameters())
    assert chosen.count(vocab, context) == built
