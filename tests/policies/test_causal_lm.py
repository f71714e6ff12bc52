"""A causal language model as a policy, against transformers' own forward pass, one candidate at a time."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model
from tpo_dist.errors import UsageError
from tpo_dist.policies.causal_lm import CausalLMOptions
from tpo_dist.policies.contract import CandidateBatch
from tpo_dist.policies.weights import export_weights, import_weights

transformers = pytest.importorskip("transformers")

PROMPTS, LENGTHS = (7, 3, 1, 12), ((5, 1, 0, 9), (2, 2, 2, 2), (0, 0, 0, 0), (1, 14, 3, 6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("model"), spread=0.2))


@pytest.fixture(scope="module")
def plain(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).double()


def ragged_batch(prompts=PROMPTS, lengths=LENGTHS, vocab=250, seed=0):
    """Prompts and candidates of many lengths, empty ones too; padding is filled with other tokens."""
    generator = torch.Generator().manual_seed(seed)
    width = max(map(max, lengths))
    return CandidateBatch(
        prompts_GP=torch.randint(0, vocab, (len(prompts), max(prompts)), generator=generator),
        tokens_GKT=torch.randint(0, vocab, (len(prompts), len(lengths[0]), width), generator=generator),
        mask_GKT=torch.arange(width) < torch.tensor(lengths).unsqueeze(-1),
        prompt_lengths_G=torch.tensor(prompts),
    )


def plain_logps(model, batch, temperature=1.0):
    """Each candidate by itself behind its prompt, all logits at once."""
    rows = []
    for prompt, length, tokens, masks in zip(
        batch.prompts_GP, batch.prompt_lengths, batch.tokens_GKT, batch.mask_GKT, strict=True
    ):
        for row, mask in zip(tokens, masks, strict=True):
            sequence = torch.cat([prompt[:length], row[mask]]).unsqueeze(0)
            logps = (model(input_ids=sequence).logits[0] / temperature).log_softmax(dim=-1)
            picked = logps[length - 1 : -1].gather(1, row[mask].unsqueeze(-1)).squeeze(-1)
            rows.append(torch.cat([picked, picked.new_zeros(int((~mask).sum()))]))
    return torch.stack(rows).view(batch.mask_GKT.shape)


def assert_same_gradients(policy, ours, model, theirs, rtol=1e-5):
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5))
    got = dict(zip(policy.published_parameters(), grads(ours, policy.published_parameters(), weights), strict=True))
    named = dict(model.named_parameters())
    want = dict(zip(named, grads(theirs, named, weights), strict=True))
    assert got.keys() == want.keys()
    scale = torch.cat([g.flatten() for g in want.values()]).norm()
    for name, gradient in want.items():
        assert gradient.norm() > 1e-4 * scale, name
        assert (got[name] - gradient).norm() <= rtol * scale, name


def grads(logps, parameters, weights):
    return torch.autograd.grad((logps * weights).sum(), list(parameters.values()))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}])
def test_log_probs_and_gradients_are_those_of_the_plain_forward(folder, plain, options, temperature):
    policy = CausalLMOptions(path=folder, **options).load(temperature, 0)
    batch = ragged_batch()
    ours, theirs = policy.scorer(batch)(), plain_logps(plain, batch, temperature)
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-5)
    assert not ours[~batch.mask_GKT].any()
    assert_same_gradients(policy, ours, plain, theirs)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_block_mask_of_flex_attention_lets_the_same_keys_through(folder, plain):
    """Values alone: on a CPU, it has no backward pass."""
    policy, batch = CausalLMOptions(path=folder, attention="flex").load(1.0, 0), ragged_batch()
    with torch.no_grad():
        torch.testing.assert_close(policy.scorer(batch)(), plain_logps(plain, batch).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Mistral"])
def test_other_families(tmp_path, family):
    """Biases, no norms of queries, untied output layers, every head its own keys: none of it is ours to know."""
    config = getattr(transformers, f"{family}Config")(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4 if family == "Llama" else 1, initializer_range=0.3, tie_word_embeddings=False,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    model.save_pretrained(tmp_path)
    policy, batch = CausalLMOptions(path=str(tmp_path)).load(1.0, 0), ragged_batch()
    ours, theirs = policy.scorer(batch)(), plain_logps(model.double(), batch)
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=2e-5)
    assert_same_gradients(policy, ours, model, theirs)


def test_every_token_is_computed_once_and_only_real_ones(folder, monkeypatch):
    policy, batch = CausalLMOptions(path=folder).load(1.0, 0), ragged_batch()
    seen = []
    layer = policy.model.model.layers[0]
    layer.register_forward_pre_hook(lambda module, args, kwargs: seen.append(args[0].shape), with_kwargs=True)
    policy.scorer(batch)()
    followed = sum(max(length - 1, 0) for row in LENGTHS for length in row)
    assert seen == [(1, sum(PROMPTS) + followed, 64)]


def test_equal_prompts_need_no_lengths(folder):
    policy, batch = CausalLMOptions(path=folder).load(1.0, 0), ragged_batch()
    same = CandidateBatch(prompts_GP=batch.prompts_GP[:, :3], tokens_GKT=batch.tokens_GKT, mask_GKT=batch.mask_GKT)
    said = CandidateBatch(
        prompts_GP=batch.prompts_GP,
        tokens_GKT=batch.tokens_GKT,
        mask_GKT=batch.mask_GKT,
        prompt_lengths_G=torch.full((4,), 3),
    )
    assert torch.equal(policy.scorer(same)(), policy.scorer(said)())


def test_bfloat16_weights_travel_bit_for_bit(folder):
    policy, other = (CausalLMOptions(path=folder, dtype="bfloat16").load(1.0, 0) for _ in range(2))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.5)
    arrays = export_weights(policy)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int16)}
    import_weights(other, arrays)
    for name, parameter in policy.published_parameters().items():
        assert torch.equal(parameter, other.published_parameters()[name])
    batch = ragged_batch()
    assert torch.equal(policy.scorer(batch)(), other.scorer(batch)())
    with pytest.raises(ValueError, match="bfloat16 travels as int16"):
        import_weights(other, {name: array.astype(np.float32) for name, array in arrays.items()})


def test_names_are_those_of_the_checkpoint_and_tied_weights_appear_once(folder):
    from safetensors import safe_open

    policy = CausalLMOptions(path=folder).load(1.0, 0)
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        assert set(file.keys()) == policy.published_parameters().keys() == export_weights(policy).keys()
    assert "lm_head.weight" not in policy.published_parameters()
    assert not policy.has_adapters


def test_adapters_alone_are_published_under_peft_s_names_and_trained(folder):
    from peft import get_peft_model_state_dict

    policy = CausalLMOptions(path=folder, lora_rank=4, lora_alpha=8.0).load(1.0, 3)
    theirs = get_peft_model_state_dict(policy.model)
    assert policy.published_parameters().keys() == theirs.keys()
    assert {p for p in policy.parameters() if p.requires_grad} == set(policy.published_parameters().values())
    assert len(theirs) == 2 * 7 * 2  # two layers, seven linear ones each, two matrices each
    again, other = (CausalLMOptions(path=folder, lora_rank=4).load(1.0, seed) for seed in (3, 4))
    ours = export_weights(policy)
    assert all(np.array_equal(array, ours[name]) for name, array in export_weights(again).items())
    assert any(not np.array_equal(array, ours[name]) for name, array in export_weights(other).items())


def test_adapters_change_the_policy_by_their_scaled_product_and_the_frozen_one_stays(folder, plain):
    import copy

    policy = CausalLMOptions(path=folder, lora_rank=4, lora_alpha=8.0, lora_modules=["q_proj", "down_proj"]).load(
        1.0, 0
    )
    batch, frozen = ragged_batch(), policy.frozen()
    base = plain_logps(plain, batch).detach().float()
    torch.testing.assert_close(policy.scorer(batch)(), base, rtol=1e-5, atol=1e-5)
    changed, generator = copy.deepcopy(plain), torch.Generator().manual_seed(2)
    with torch.no_grad():
        named = policy.published_parameters()
        for parameter in named.values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name in [name for name in named if "lora_A" in name]:
            weight = changed.get_parameter(name.removeprefix("base_model.model.").replace("lora_A.", ""))
            weight += 2.0 * (named[name.replace("lora_A", "lora_B")] @ named[name]).double()
    score, reference = policy.scorer(batch), frozen.scorer(batch)
    torch.testing.assert_close(score(), plain_logps(changed, batch).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reference(), base, rtol=1e-5, atol=1e-5)
    assert not reference().requires_grad
    assert not torch.allclose(score(), base, atol=1e-2)
    assert not list(frozen.parameters())  # no second copy


def test_an_architecture_that_packing_does_not_know_is_refused(tmp_path):
    config = transformers.CohereConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        logit_scale=0.3, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    transformers.CohereForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="CohereForCausalLM is no plain transformer"):
        CausalLMOptions(path=str(tmp_path)).load(1.0, 0)


def test_sequences_beyond_a_sliding_window_are_refused(tmp_path):
    config = transformers.MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=1, sliding_window=20, pad_token_id=0,
    )  # fmt: skip
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path)
    policy = CausalLMOptions(path=str(tmp_path)).load(1.0, 0)
    with pytest.raises(ValueError, match="sees the last 20 tokens only, and a sequence has 26"):
        policy.scorer(ragged_batch())()


def test_batches_that_cannot_be_scored_are_refused(folder):
    policy, batch = CausalLMOptions(path=folder).load(1.0, 0), ragged_batch()
    empty = ragged_batch(prompts=(7, 0, 1, 12))
    long = ragged_batch(prompts=(1020, 3, 1, 12))
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        policy.scorer(empty)
    with pytest.raises(ValueError, match="a sequence has 1029 tokens; the model has 1024 positions"):
        policy.scorer(long)
    with pytest.raises(ValueError, match="token ids run from 0 to 999"):
        policy.scorer(CandidateBatch(prompts_GP=torch.tensor([[999, 0]]), tokens_GKT=batch.tokens_GKT[:1],
                                     mask_GKT=batch.mask_GKT[:1]))  # fmt: skip
    with pytest.raises(ValueError, match="not alternatives for single tokens"):
        policy.scorer(CandidateBatch(prompts_GP=batch.prompts_GP, tokens_GKT=batch.tokens_GKT,
                                     mask_GKT=batch.mask_GKT, prefixes_GT=batch.tokens_GKT[:, 0]))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"path": ""}, "no model is named"),
        ({"lora_rank": 0}, "lora_rank = 0: an adapter has at least rank 1"),
        ({"lora_alpha": 8.0}, "lora_alpha: there are no adapters while lora_rank is null"),
        ({"lora_rank": 4, "lora_alpha": 0.0}, "lora_alpha = 0.0: adapters would count nothing"),
        ({"path": "/nowhere/at/all"}, "policy.path = '/nowhere/at/all': no causal language model can be loaded"),
        ({"lora_rank": 4, "lora_modules": ["q_prj"]}, "q_prj: the model has no such linear layer.*mean 'q_proj'"),
        ({"lora_rank": 4, "lora_modules": ["lm_head"]}, "lm_head: the model has no such linear layer"),
    ],
)
def test_options_that_cannot_work_are_refused(folder, options, complaint):
    with pytest.raises(UsageError, match=complaint):
        CausalLMOptions(**{"path": folder, **options}).load(1.0, 0)


def test_a_folder_without_all_weights_is_refused(folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "half")
    weights = load_file(tmp_path / "half" / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"its files lack 'model.layers.1.mlp.up_proj.weight'"):
        CausalLMOptions(path=str(tmp_path / "half")).load(1.0, 0)


def test_a_missing_package_names_the_extra(monkeypatch, folder):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'tpo-dist\[llm\]'"):
        CausalLMOptions(path=folder).load(1.0, 0)
