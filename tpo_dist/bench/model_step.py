"""One forward and backward pass of a language model over packed groups: tokens per second, and how busy a GPU is."""

import dataclasses
import statistics
import time
from typing import Any

import torch

from tpo_dist.policies.causal_lm import CausalLM, CausalLMOptions
from tpo_dist.policies.contract import CandidateBatch
from tpo_dist.policies.pretrained import require, shaped_model

QWEN3_06B = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40_960,
}
"""Qwen3-0.6B's shape; its weights do not matter here."""

_PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}
"""Of dense bfloat16 products, as NVIDIA's data sheets have them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a pass is made over: groups of K completions behind one prompt, as many as make so many tokens."""

    tokens: int = 16_384
    prompt: int = 128
    completion: int = 256
    group_size: int = 16

    @property
    def groups(self) -> int:
        """How many groups come nearest to the tokens."""
        return max(1, round(self.tokens / (self.prompt + self.group_size * self.completion)))


def bench_model(path: str, load: Load, dtype: str, device: str, threads: int, repeats: int) -> dict[str, Any]:
    """Median seconds of a pass, tokens per second, peak memory on a GPU, and MFU where its peak is known.

    `path`: a model folder, or `qwen3-0.6b` for that shape with random weights.
    """
    torch.set_num_threads(threads)
    flex = torch.device(device).type == "cuda"
    if path == "qwen3-0.6b":
        config = require("transformers").Qwen3Config(**QWEN3_06B)
        policy = CausalLM(shaped_model(config, getattr(torch, dtype)), 1.0, flex=flex)
    else:
        options = {"path": path, "dtype": dtype, "attention": "flex" if flex else "sdpa"}
        policy = CausalLMOptions(**options).load(1.0, 0)  # type: ignore[arg-type]  # dtype is checked by its caller
    policy = policy.to(device)
    score = policy.scorer(_batch(load, policy.vocab_size, device))
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        score().sum().backward()  # type: ignore[no-untyped-call]
        if flex:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    typical = statistics.median(seconds[1:])  # the first compiles and allocates
    tokens = load.groups * (load.prompt + load.group_size * load.completion)
    peak = next(
        (tflops for name, tflops in _PEAK_TFLOPS.items() if flex and name in torch.cuda.get_device_name()), None
    )
    speed = _flops(policy, load) / typical
    return {
        "seconds": typical,
        "tokens": tokens,
        "tokens_per_second": tokens / typical,
        "tflops_per_second": speed / 1e12,
        "mfu": None if peak is None else speed / (peak * 1e12),
        "gpu_peak_bytes": torch.cuda.max_memory_allocated() if flex else None,
    }


def _batch(load: Load, vocabulary: int, device: str) -> CandidateBatch:
    generator = torch.Generator().manual_seed(0)
    shape = (load.groups, load.group_size, load.completion)
    tokens = torch.randint(0, vocabulary, shape, generator=generator)
    return CandidateBatch(
        prompts_GP=torch.randint(0, vocabulary, (load.groups, load.prompt), generator=generator).to(device),
        tokens_GKT=tokens.to(device),
        mask_GKT=torch.ones(shape, dtype=torch.bool, device=device),
    )


def _flops(policy: CausalLM, load: Load) -> float:
    """Of one pass, as MFU counts them: 6 for each weight that a token meets, and attention's products; nothing that is
    computed twice."""
    config: Any = policy.model.config
    head = policy.vocab_size * config.hidden_size
    parameters = sum(parameter.numel() for parameter in policy.published_parameters().values())
    layers = parameters - head * (1 if config.tie_word_embeddings else 2)
    candidates = load.groups * load.group_size * load.completion
    tokens = candidates + load.groups * load.prompt
    width: int = config.num_attention_heads * getattr(
        config, "head_dim", config.hidden_size // config.num_attention_heads
    )
    pairs: float = candidates * (load.prompt + load.completion / 2) + load.groups * load.prompt**2 / 2
    flops: float = 6.0 * (layers * tokens + head * candidates) + 12.0 * config.num_hidden_layers * width * pairs
    return flops
