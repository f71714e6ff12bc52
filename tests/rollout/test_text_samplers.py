"""What every sampler of language models promises, on a real model in a real engine; a new one is a line in SAMPLERS."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.processes import pids_running
from tests.rollout.language_models import END, VOCAB, about, all_plain_logps, changed, load, questions, snapshot_of
from tpo_dist.errors import UsageError
from tpo_dist.records import StopReason
from tpo_dist.rollout.contract import WrongWeights
from tpo_dist.rollout.generation import Adapters
from tpo_dist.rollout.transformers_sampler import TransformersSampler, TransformersSampling
from tpo_dist.rollout.vllm_sampler import VLLMSampler, VLLMSampling

pytestmark = pytest.mark.filterwarnings("ignore")  # importing what is not ours warns

LONG = 256


@pytest.fixture(scope="module")
def weights(folder):
    """A model of other weights than the folder's, and their snapshot."""
    return changed(folder, version=4)


def transformers_samplers(folder, **changes):
    """Samplers of these settings over one model, and how to end it."""
    model = TransformersSampling().build(about(folder, **changes))._model

    def make(**changes):
        return TransformersSampler(model, about(folder, **changes), max_sequences=12)

    return make, lambda: None


def vllm_samplers(folder, kind="inproc", **changes):
    """The same over one engine."""
    pytest.importorskip("vllm")
    options = VLLMSampling(engine=kind, max_sequences=24)
    sizes = {"stop": ("",), "max_tokens": LONG}  # where texts may stop it, it has a tokenizer
    first = options.build(about(folder, **{**sizes, **changes}))

    def make(**changes):
        first.engine._about = about(folder, **changes)
        return VLLMSampler(first.engine, first.engine._about, options)

    return make, first.close


def vllm_async_samplers(folder, **changes):
    """The same over one engine beside this process, of which nothing may be left."""
    make, close = vllm_samplers(folder, "async", **changes)
    pid = make().engine.pid
    assert pid in pids_running("EngineCore")

    def end():
        close()
        assert pid not in pids_running("EngineCore")

    return make, end


SAMPLERS = [
    pytest.param(transformers_samplers, id="transformers"),
    pytest.param(vllm_samplers, id="vllm", marks=pytest.mark.vllm),
    pytest.param(vllm_async_samplers, id="vllm-async", marks=pytest.mark.vllm),
]


@pytest.fixture(scope="module", params=SAMPLERS)
def make(request, folder):
    """Samplers over one engine, with changes to `about`."""
    make, close = request.param(folder)
    yield make
    close()


@pytest.fixture(scope="module", params=SAMPLERS)
def make_adapted(request, folder):
    """The same over one that takes adapters."""
    make, close = request.param(folder, adapters=Adapters(rank=4, scale=1.5))
    yield make
    close()


@pytest.fixture
def sampler(make, weights):
    """One that has loaded the weights."""
    sampler = make()
    sampler.load(weights[1])
    return sampler


def loaded(make, weights, **changes):
    sampler = make(**changes)
    sampler.load(weights[1])
    return sampler


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_log_probs_are_those_of_the_distribution_sampled_from(temperature, make, weights):
    sampler = loaded(make, weights, temperature=temperature)
    prompts = questions([5, 40, 33, 64, 1])
    drawn = sampler.sample(prompts, 6)
    expected = all_plain_logps(weights[0], prompts, drawn, temperature)
    np.testing.assert_allclose(drawn.logps_GKT, expected, atol=1e-4, rtol=0)
    assert (drawn.logps_GKT[drawn.tokens_GKT > 0] < 0).all()
    assert drawn.versions_GKT is None
    assert sampler.version == 4
    assert sampler.digest == weights[1].digest


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_are_drawn_with_these_probabilities(temperature, make, weights):
    drawn = loaded(make, weights, temperature=temperature, max_tokens=1).sample(questions([7]), 1500)
    with torch.no_grad():
        logits = weights[0](torch.tensor(questions([7]).tokens[None]).long()).logits[0, -1].double()
    p = (logits / temperature).softmax(-1).numpy()
    counts = np.bincount(drawn.tokens_GKT.ravel(), minlength=VOCAB)
    often = p > 0.01
    observed, expected = np.append(counts[often], counts[~often].sum()), 1500 * np.append(p[often], p[~often].sum())
    chi_squared = ((observed - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert freedom > 10
    assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5


def test_draws_are_a_function_of_seed_and_draw(make, weights):
    prompts = questions([9, 9, 9, 9], first=20)
    same = dataclasses.replace(prompts, tokens=np.tile(prompts.tokens[:9], 4))  # one question in four draws
    first = loaded(make, weights).sample(same, 4)
    tokens = first.tokens_GKT.reshape(16, -1)
    assert len(np.unique(tokens, axis=0)) == 16  # every draw and every candidate has random numbers of its own
    np.testing.assert_array_equal(loaded(make, weights).sample(same, 4).tokens_GKT, first.tokens_GKT)
    assert (loaded(make, weights, seed=4).sample(same, 4).tokens_GKT != first.tokens_GKT).mean() > 0.5
    alone = dataclasses.replace(same, ids=same.ids[2:], tokens=same.tokens[18:], lengths=same.lengths[2:])
    np.testing.assert_array_equal(loaded(make, weights).sample(alone, 4).tokens_GKT, first.tokens_GKT[2:])


def test_a_completion_ends_with_its_first_end_token_or_at_the_limit(make, weights):
    ends = tuple(range(0, VOCAB, 6))
    drawn = loaded(make, weights, end_tokens=ends).sample(questions([5, 30, 12]), 40)
    at_end = [drawn.tokens_GKT[index][: drawn.lengths_GK[index]] for index in np.ndindex(3, 40)]
    stopped = np.array([StopReason(reason) == StopReason.STOP for reason in drawn.stop_reasons_GK.ravel()])
    assert 0.2 < stopped.mean() < 0.95
    for tokens, stop in zip(at_end, stopped, strict=True):
        assert stop == (tokens[-1] in ends)
        assert not set(tokens[:-1].tolist()) & set(ends)
        assert stop or len(tokens) == 8
    assert set(drawn.stop_reasons_GK.ravel().tolist()) == {StopReason.STOP, StopReason.LENGTH}
    assert (drawn.tokens_GKT[np.arange(8) >= drawn.lengths_GK[..., None]] == 0).all()


def test_an_end_token_that_comes_last_is_no_cut(make, weights):
    drawn = loaded(make, weights, end_tokens=tuple(range(VOCAB)), max_tokens=1).sample(questions([5]), 3)
    assert (drawn.stop_reasons_GK == StopReason.STOP).all()


def test_an_empty_completion_is_its_end_token(make, weights):
    prompts = questions([5, 8])
    drawn = loaded(make, weights, end_tokens=tuple(range(VOCAB))).sample(prompts, 4)
    assert (drawn.lengths_GK == 1).all()
    assert (drawn.stop_reasons_GK == StopReason.STOP).all()
    np.testing.assert_allclose(drawn.logps_GKT, all_plain_logps(weights[0], prompts, drawn, 1.0), atol=1e-4)


def test_texts_end_completions_and_stay_in_them(make, weights, folder):
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(folder)
    free = loaded(make, weights, max_tokens=16).sample(questions([5, 30]), 40)
    said = [text.decode(row[1:3].tolist()) for row in free.tokens_GKT.reshape(80, -1)]
    plain = [two for two in said if two.isascii() and two.isprintable()]
    stops = (plain[0], plain[1])
    drawn = loaded(make, weights, max_tokens=16, stop=stops).sample(questions([5, 30]), 40)
    stopped = 0
    for group, kth in np.ndindex(2, 40):
        length, unstopped = drawn.lengths_GK[group, kth], free.lengths_GK[group, kth]
        tokens = drawn.tokens_GKT[group, kth, :length].tolist()
        assert tokens == free.tokens_GKT[group, kth, :length].tolist()  # the same draw, cut
        if any(stop in text.decode(tokens) for stop in stops):
            assert not any(stop in text.decode(tokens[:-1]) for stop in stops)
            assert drawn.stop_reasons_GK[group, kth] == StopReason.STOP
            stopped += 1
        else:
            assert length == unstopped
    assert stopped >= 2


def test_greedy_is_the_likeliest_token_each_time(make, weights):
    prompts = questions([5, 30])
    asked = loaded(make, weights, greedy=True).sample(prompts, 3)
    sole = loaded(make, weights, temperature=0.0).sample(prompts, 1)
    for row in range(2):
        prompt = torch.tensor([np.split(prompts.tokens, [5])[row].tolist()])
        mask = torch.ones_like(prompt)
        whole = weights[0].generate(prompt, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=END)
        expected = whole[0, prompt.shape[1] :].tolist()
        assert asked.greedy_GT[row, : asked.greedy_lengths_G[row]].tolist() == expected
        assert sole.tokens_GKT[row, 0, : sole.lengths_GK[row, 0]].tolist() == expected
    assert asked.tokens_GKT.shape[1] == 3
    np.testing.assert_array_equal(asked.tokens_GKT, loaded(make, weights).sample(prompts, 3).tokens_GKT)


@pytest.mark.parametrize("length", [0, 65])
def test_prompts_that_do_not_fit_are_refused_by_draw_and_length(length, sampler):
    with pytest.raises(UsageError, match=f"the prompt of draw 11 has {length} tokens"):
        sampler.sample(questions([5, length], first=10), 2)


def test_nothing_is_sampled_before_the_first_snapshot(make):
    with pytest.raises(RuntimeError, match="no weights yet"):
        make().sample(questions([5]), 2)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",  # tied to the output layer, of which an engine may keep a copy of its own
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.self_attn.q_norm.weight",
        "model.norm.weight",
    ],
)
def test_every_weight_is_taken_over(name, make, folder):
    sampler = make()
    for version in (5, 6):  # the second update finds what the first left behind
        model, snapshot = changed(folder, version, [name])
        sampler.load(snapshot)
        prompts = questions([5, 33], first=version)
        drawn = sampler.sample(prompts, 3)
        expected = all_plain_logps(model, prompts, drawn, 1.0)
        np.testing.assert_allclose(drawn.logps_GKT, expected, atol=1e-4, rtol=0)
        assert np.abs(drawn.logps_GKT - all_plain_logps(load(folder), prompts, drawn, 1.0)).max() > 1e-3


def test_weights_that_changed_on_the_way_are_refused(make, weights):
    arrays = dict(weights[1].arrays)
    arrays["model.norm.weight"] = arrays["model.norm.weight"] * np.float32(1.0001)
    sampler = make()
    with pytest.raises(WrongWeights, match="snapshot 4 was published with digest"):
        sampler.load(dataclasses.replace(weights[1], arrays=arrays))
    assert sampler.version is None


def test_an_engine_that_computes_with_other_weights_is_found_out(make, weights):
    odd = weights[1].probe_logps.copy()
    odd[3] += 0.002
    with pytest.raises(WrongWeights, match="after loading snapshot 4, the engine's log-probs .* differ .* 0.00"):
        make().load(dataclasses.replace(weights[1], probe_logps=odd))
    make().load(dataclasses.replace(weights[1], probe_tokens=None, probe_logps=None))  # none to compare


def adapted(folder, version):
    """The model with adapters on some layers, and the snapshot that has them alone, as peft saves them."""
    import copy

    import peft

    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])
    model = peft.get_peft_model(copy.deepcopy(load(folder)), config).eval()
    generator = torch.Generator().manual_seed(version)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    arrays = {name: tensor.numpy() for name, tensor in peft.get_peft_model_state_dict(model).items()}
    return model, snapshot_of(model, version, arrays)


def test_adapters_alone_are_enough(make_adapted, folder):
    sampler = make_adapted(adapters=Adapters(rank=4, scale=1.5))
    for version in (1, 2):
        model, snapshot = adapted(folder, version)
        assert len(snapshot.arrays) == 16
        sampler.load(snapshot)
        prompts = questions([5, 33], first=version)
        drawn = sampler.sample(prompts, 3)
        np.testing.assert_allclose(drawn.logps_GKT, all_plain_logps(model, prompts, drawn, 1.0), atol=1e-4, rtol=0)
        assert np.abs(drawn.logps_GKT - all_plain_logps(load(folder), prompts, drawn, 1.0)).max() > 1e-2


@pytest.mark.parametrize("make_adapted", SAMPLERS[1:], indirect=True)
def test_adapters_change_on_the_way(make_adapted, folder):
    sampler = make_adapted(adapters=Adapters(rank=4, scale=1.5), max_tokens=LONG, end_tokens=())
    models = {version: adapted(folder, version) for version in (1, 2)}
    sampler.load(models[1][1])
    prompts = questions([5, 33], first=7)
    sampler.submit(3, prompts, 4)
    for _ in range(3):
        sampler.step()
    sampler.load(models[2][1])  # its probe is computed beside eight candidates
    while sampler.pending:
        for _, drawn in sampler.step():
            versions = drawn.versions_GKT
    assert {1, 2} <= set(versions.ravel().tolist())
    for version, (model, _) in models.items():
        there = versions == version
        plain = all_plain_logps(model, prompts, drawn, 1.0)
        np.testing.assert_allclose(drawn.logps_GKT[there], plain[there], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [TransformersSampling, VLLMSampling])
@pytest.mark.parametrize("option", [{"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.05}])
def test_sampling_from_another_distribution_is_refused(kind, option):
    [(name, value)] = option.items()
    with pytest.raises(UsageError, match=f"{name} = {value}: training would fit another distribution"):
        kind(**option)
    kind(top_p=1.0, top_k=0, min_p=0.0)
