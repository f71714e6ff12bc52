"""Lean steps compute what the model's own forward pass computes, or are not taken."""

import numpy as np
import pytest
import torch

from tests.rollout.language_models import about, changed, questions
from tests.tiny import tiny_model
from tpo_dist.rollout.decoder import LeanModel, LeanSteps, PlainSteps, Read, take_apart
from tpo_dist.rollout.transformers_sampler import TransformersSampler, TransformersSampling

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # importing what is not ours warns

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


def model_of(family, **options):
    config = getattr(transformers, f"{family}Config")(**SIZES | options)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    for weight in model.parameters():
        if weight.ndim == 1:  # norms and biases begin as ones and zeros, which would hide a mistake
            weight.data += 0.3 * torch.randn_like(weight)
    return model.eval().requires_grad_(False)


MODELS = [
    pytest.param("Llama", {}, id="Llama"),
    pytest.param("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}, id="Llama-biased"),
    pytest.param(
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
        id="Llama-3",
    ),
    pytest.param("Mistral", {"sliding_window": None}, id="Mistral"),
    pytest.param("Qwen2", {}, id="Qwen2"),
    pytest.param("Qwen3", {"head_dim": 12, "tie_word_embeddings": True}, id="Qwen3"),
]


@pytest.mark.parametrize(("family", "options"), MODELS)
@torch.inference_mode()
def test_every_step_is_the_model_s_own(family, options):
    model = model_of(family, **options)
    lean = take_apart(model)
    assert lean is not None
    lengths, copies = [7, 3, 5], 2
    tokens = torch.randint(0, 60, (6, 7 + 40))
    tokens[:, :7] = tokens[::2, :7].repeat_interleave(copies, 0)
    mask = torch.stack([torch.arange(7) >= 7 - length for length in lengths]).long()
    places = (mask.cumsum(1) - 1).clamp(min=0)
    cache = model(tokens[::2, :7], attention_mask=mask, position_ids=places, use_cache=True).past_key_values
    first = torch.tensor(lengths).repeat_interleave(copies)
    read = Read(cache=cache, copies=copies, mask_AP=mask.repeat_interleave(copies, 0), positions_A=first)
    steps, rows = LeanSteps(lean, read, 40), torch.arange(6)
    for step in range(40):  # more than the cache has room for at first
        if step == 12:
            rows = rows[[0, 3, 4]]
            steps.keep(torch.tensor([0, 3, 4]))
        logits = steps.step(tokens[rows, 7 + step])
        if step % 13 == 12:
            for row, found in zip(rows.tolist(), logits, strict=True):
                whole = model(tokens[row : row + 1, 7 - first[row] : 8 + step], use_cache=False).logits[0, -1]
                torch.testing.assert_close(found, whole, atol=2e-5, rtol=1e-5)


def test_new_weights_reach_the_steps():
    model, other = model_of("Qwen2"), model_of("Qwen2", attention_dropout=0.0)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.1 * torch.randn_like(weight)
    lean = take_apart(model)
    for name, weight in model.named_parameters():
        weight.copy_(dict(other.named_parameters())[name])
    tokens = torch.randint(0, 60, (3, 6))
    with torch.inference_mode():
        cache = model(tokens[:, :5], use_cache=True).past_key_values
        read = Read(cache=cache, copies=1, mask_AP=None, positions_A=torch.full((3,), 5))
        found = LeanSteps(lean, read, 1).step(tokens[:, 5])
        torch.testing.assert_close(found, other(tokens, use_cache=False).logits[:, -1], atol=2e-5, rtol=1e-5)


def test_models_that_do_something_else_are_left_whole(monkeypatch):
    sliding = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0}
    assert take_apart(model_of("Mistral", sliding_window=4)) is None
    assert take_apart(model_of("Qwen2", **sliding)) is None
    assert take_apart(model_of("Gemma2", head_dim=8)) is None
    stretched = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert take_apart(model_of("Llama", rope_parameters=stretched)) is None
    odd = model_of("Llama")
    LeanModel(odd)  # nothing shows that it is another model
    own = odd.model.layers[1].mlp.forward
    monkeypatch.setattr(odd.model.layers[1].mlp, "forward", lambda x: 1.01 * own(x))
    assert take_apart(odd) is None


def test_a_sampler_draws_the_same_either_way(tmp_path):
    folder = tiny_model(tmp_path / "tiny", spread=0.15)
    sampler = TransformersSampling().build(
        about(folder, max_tokens=24, end_tokens=tuple(range(0, 272, 9)), greedy=True)
    )
    assert isinstance(sampler, TransformersSampler)
    assert isinstance(sampler._lean, LeanModel)
    _, snapshot = changed(folder, 1)
    sampler.load(snapshot)
    lean = sampler.sample(questions([5, 40, 1]), 6)
    sampler._lean = None
    assert isinstance(sampler._model, transformers.PreTrainedModel)
    plain = sampler.sample(questions([5, 40, 1]), 6)
    np.testing.assert_array_equal(lean.tokens_GKT, plain.tokens_GKT)
    np.testing.assert_array_equal(lean.greedy_GT, plain.greedy_GT)
    np.testing.assert_array_equal(lean.stop_reasons_GK, plain.stop_reasons_GK)
    np.testing.assert_allclose(lean.logps_GKT, plain.logps_GKT, atol=1e-4, rtol=0)
    assert len(set(lean.lengths_GK.ravel().tolist())) > 5


def test_plain_steps_know_padding():
    model = model_of("Llama")
    tokens = torch.randint(0, 60, (2, 6))
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        cache = model(tokens[:, :4], attention_mask=mask, position_ids=places, use_cache=True).past_key_values
        steps = PlainSteps(model, Read(cache=cache, copies=1, mask_AP=mask, positions_A=torch.tensor([4, 2])))
        steps.step(tokens[:, 4])
        steps.keep(torch.tensor([1]))
        whole = model(tokens[1:, 2:], use_cache=False).logits[0, -1]
        torch.testing.assert_close(steps.step(tokens[1:, 5])[0], whole, atol=2e-5, rtol=1e-5)
