"""The benchmarks of the learner of language models, at sizes of seconds."""

import json

import pytest
import torch

from tests.cli.run_cli import call
from tests.tiny import tiny_model
from tpo_dist.bench.log_probs import Sizes, bench_log_probs


def test_log_probs_in_chunks_take_less_memory_and_have_the_same_gradients():
    """The vocabulary is large enough for the logits to outweigh a chunk, and what a process does beside."""
    told = []
    found = bench_log_probs(Sizes(tokens=4096, width=8, vocabulary=20_000), told.append)
    logits = 4 * 4096 * 20_000
    assert found["naive_peak_bytes"] > 2 * logits
    assert found["peak_bytes"] < logits
    assert found["memory_ratio"] == found["peak_bytes"] / found["naive_peak_bytes"]
    assert found["gradient_difference"] < 1e-5
    assert found["tokens_per_second"] > 0
    assert len(told) == 2


def test_a_pass_of_a_model_says_how_many_tokens_and_products_it_took(tmp_path):
    from tpo_dist.bench.model_step import Load, _flops, bench_model
    from tpo_dist.policies.causal_lm import CausalLMOptions

    folder, load = str(tiny_model(tmp_path / "tiny")), Load(tokens=300, prompt=10, completion=20, group_size=5)
    found = bench_model(folder, load, "float32", "cpu", 1, 1)
    assert found["tokens"] == 3 * (10 + 5 * 20)
    assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"])
    assert found["mfu"] is None
    policy = CausalLMOptions(path=folder).load(1.0, 0)
    inside = sum(p.numel() for name, p in policy.published_parameters().items() if "embed" not in name)
    assert inside + 272 * 64 == sum(p.numel() for p in policy.parameters())
    pairs = 3 * 5 * 20 * (10 + 10) + 3 * 10 * 5
    assert _flops(policy, load) == 6 * (inside * 330 + 272 * 64 * 300) + 12 * 2 * 128 * pairs
    assert not any(torch.isnan(p.grad).any() for p in policy.parameters() if p.grad is not None)


def test_the_command_prints_one_json_value(monkeypatch, capsys):
    sizes = ("--tokens", 64, "--vocabulary", 640, "--width", 8)
    code, out, err = call(monkeypatch, capsys, "bench", "learner", *sizes, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["vocabulary"] == 640
