"""What a learner of language models cannot do is refused before the run, without the packages that it needs."""

import pytest

from tpo_dist.components import build
from tpo_dist.config import RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.policies.causal_lm import CausalLMOptions
from tpo_dist.programs.needs import describe_needs, needs_of
from tpo_dist.programs.parts import make_objective
from tpo_dist.programs.resolve import _refuse_learning
from tpo_dist.runtime.placement import Need

ADAMW = {"optimizer": {"name": "adamw"}}


@pytest.mark.parametrize(
    ("learner", "options", "complaint"),
    [
        (
            {"micro_batch_tokens": 700},
            {},
            "micro_batch_tokens = 700: .* may have 768 tokens.*Fix: give 768 or more",
        ),
        (
            {"micro_batch_tokens": 900, "micro_batch_candidates": 4},
            {},
            "micro_batch_tokens = 900: .*micro_batch_candidates cuts the same batch",
        ),
        (
            {"old_logprobs": "recompute", "correction": {"name": "tis"}},
            {},
            "old_logprobs = 'recompute': learner.correction.name = 'tis' needs the sampler's",
        ),
        ({}, {"attention": "flex"}, "policy.attention = 'flex': .*no backward pass on a CPU"),
        ({"ranks": 2}, {}, "learner.ranks = 2: Muon orthogonalises whole matrices.*Fix: give .*=adamw, or"),
        ({"ranks": 2, "device": "cuda:1", "gpus": 1, **ADAMW}, {}, "ranks = 2: .*'cuda:1' is one of them.*=cuda and"),
        ({"ranks": 2, "device": "cuda", "gpus": 0.5, **ADAMW}, {}, "ranks = 2: .*one whole GPU.*is 0.5.*gpus=1"),
    ],
)
def test_what_contradicts_itself_is_refused(learner, options, complaint):
    config = RunConfig.model_validate({"learner": learner, "policy": {"name": "causal_lm"}})
    policy = CausalLMOptions(path="model", **options)
    with pytest.raises(UsageError, match=complaint):
        _refuse_learning(config, policy)


def test_what_does_not_is_not():
    ranks = {"ranks": 2, "device": "cuda", "gpus": 1, "optimizer": {"name": "adamw"}}
    config = RunConfig.model_validate({"learner": {"micro_batch_tokens": 768, **ranks}})
    _refuse_learning(config, CausalLMOptions(path="model", attention="flex"))


def test_what_a_learner_takes_is_for_all_of_its_ranks():
    learner = {"ranks": 4, "cpus": 2, "gpus": 1}
    config = RunConfig.model_validate({"learner": learner, "rollout": {"workers": 1, "cpus": 1}})
    assert needs_of(config)[0] == Need(8, 4)
    assert "needs 9 CPU and 4 GPU, of which 4 ranks of the learner 2 CPU and 1 GPU each" in describe_needs(config)


@pytest.mark.parametrize(
    ("task", "options", "gate"),
    [("token_reversal", {}, "token"), ("gsm8k", {}, "candidate"), ("gsm8k", {"gate": "token"}, "token")],
)
def test_dg_gates_whole_candidates_where_they_are_in_words(task, options, gate):
    config = RunConfig.model_validate({"task": {"name": task}, "objective": {"name": "dg", **options}})
    assert make_objective(config).gate == gate


def test_options_read_from_a_job_are_checked():
    made = build("policy", CausalLMOptions, {"path": "x", "lora_rank": 4, "lora_modules": ["q_proj", "v_proj"]})
    assert made.lora_modules == ["q_proj", "v_proj"]
    with pytest.raises(UsageError, match="policy.lora_rank = 0"):
        build("policy", CausalLMOptions, {"path": "x", "lora_rank": 0})
    with pytest.raises(UsageError, match="policy.dtype = 'float16'"):
        build("policy", CausalLMOptions, {"path": "x", "dtype": "float16"})
    with pytest.raises(UsageError, match="policy.path"):
        build("policy", CausalLMOptions, {})
