"""How long new weights take from a learner into vLLM, through Ray's object store, and how near that is to copying."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from tpo_dist.bench.timing import Stopwatch
from tpo_dist.config import ClusterConfig
from tpo_dist.records import Array, Snapshot, weights_digest
from tpo_dist.rollout.generation import Adapters, Generation, require
from tpo_dist.rollout.incoming import merged
from tpo_dist.rollout.vllm_sampler import VLLMSampling
from tpo_dist.runtime.cluster import cluster
from tpo_dist.runtime.weight_line import WeightLine

_START_SECONDS = 600.0  # the first start of an architecture takes vLLM a minute, more on a busy machine
_PROBE = 32
_MEGABYTE = 1e6


def bench_sync(
    model: str | None = None,
    rank: int = 32,
    rounds: int = 5,
    threads: int = 1,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Seconds of a full update in float32, and of one with adapters of that rank on every linear layer; medians.

    From the weights in one process, their checksum taken, until vLLM in another has computed a probe with them.
    `model`: a folder; None: random weights in the shape of SmolLM2-135M. The first update of each does not count: it
    touches the memory of the object store for the first time.
    """
    with TemporaryDirectory(prefix="tpo-bench-") as folder:
        path = model or str(_random_model(Path(folder)))
        size, copied = _copy(_Weights(path, None).arrays, rounds)
        store = max(512, 3 * size // 1024**2)
        with cluster(ClusterConfig(object_store_mb=store), 30.0):
            full = _measure(path, None, rounds, threads, lambda text: tell(f"all weights, {text}"))
            adapters = _measure(path, rank, rounds, threads, lambda text: tell(f"adapters, {text}"))
    seconds = full.pop("all")
    return {
        "bandwidth_ratio": copied / seconds,
        "full_seconds": seconds,
        "full_megabytes": size / _MEGABYTE,
        "full_megabytes_per_second": size / _MEGABYTE / seconds,
        "copy_megabytes_per_second": size / _MEGABYTE / copied,
        "parts": full,
        "adapter_seconds": adapters.pop("all"),
        "adapter_parts": adapters,
        "adapter_rank": rank,
        "rounds": rounds,
        "threads": threads,
    }


def _measure(path: str, rank: int | None, rounds: int, threads: int, tell: Callable[[str], None]) -> dict[str, float]:
    line = WeightLine(partial(_Weights, path, rank), partial(_Taker, path, rank), threads)
    try:
        line.stand(_START_SECONDS)
        turns = []
        for version in range(rounds + 1):
            turns.append(line.turn(version))
            tell(f"{f'round {version} of {rounds}' if version else 'warm-up'}: {turns[-1]['all']:.3f} s")
    finally:
        line.close()
    return {name: statistics.median(turn[name] for turn in turns[1:]) for name in turns[0]}


def _copy(arrays: Mapping[str, Array], rounds: int) -> tuple[int, float]:
    """Bytes, and median seconds of a plain copy from memory to memory that has been touched before."""
    target = {name: np.empty_like(array) for name, array in arrays.items()}
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        for name, array in arrays.items():
            np.copyto(target[name], array)
        times.append(time.perf_counter() - started)
    return sum(array.nbytes for array in arrays.values()), statistics.median(times[1:])


class _Weights:
    """What a learner publishes: all weights of a model, or adapters for it."""

    def __init__(self, path: str, rank: int | None) -> None:
        transformers = require("transformers", "llm")
        transformers.utils.logging.disable_progress_bar()
        load = transformers.AutoModelForCausalLM.from_pretrained
        model = load(path, dtype=torch.float32, trust_remote_code=False).requires_grad_(False)
        weights = dict(model.named_parameters())
        self.arrays: dict[str, Array] = {name: weight.numpy() for name, weight in weights.items()}
        if rank is not None:
            self.arrays = _random_adapters(model, rank)
            for name, weight in merged(self.arrays, 1.0, lambda name: weights[name]):
                weights[name].copy_(weight)
        tokens = torch.arange(_PROBE).unsqueeze(0)
        logps = model(tokens).logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None]).squeeze(1)
        self._snapshot = Snapshot(
            version=0,
            arrays=self.arrays,
            digest=weights_digest(self.arrays),
            probe_tokens=tokens[0].numpy().astype(np.int32),
            probe_logps=logps.numpy(),
        )

    def __call__(self, version: int) -> Snapshot:
        """The same weights under another version."""
        return replace(self._snapshot, version=version)


class _Taker:
    """A rollout worker's sampler, and the seconds of what it does with a snapshot."""

    def __init__(self, path: str, rank: int | None) -> None:
        adapters = None if rank is None else Adapters(rank, 1.0)
        about = Generation(path=path, adapters=adapters, max_prompt_tokens=64, max_tokens=8, end_tokens=(0,), seed=0)
        self._sampler = VLLMSampling(max_sequences=4).build(about)
        self._watch = Stopwatch()
        engine: Any = self._sampler.engine
        engine.load = self._watch.timed("load", engine.load)
        engine.logps = self._watch.timed("probe", engine.logps)

    def __call__(self, snapshot: Snapshot) -> dict[str, float]:
        """Load it: what is neither vLLM's loading nor the probe is the checksum."""
        self._watch.start()
        started = time.perf_counter()
        self._sampler.load(snapshot)
        seconds, parts = time.perf_counter() - started, self._watch.repetitions[-1]
        return {"check": seconds - sum(parts.values()), **parts}


def _random_adapters(model: Any, rank: int) -> dict[str, Array]:
    """Adapters on every linear layer of the blocks, by the names that peft gives them."""
    rng, found = np.random.default_rng(0), {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            stem = f"base_model.model.{name}"
            shapes = {"lora_A": (rank, module.in_features), "lora_B": (module.out_features, rank)}
            for half, shape in shapes.items():
                found[f"{stem}.{half}.weight"] = rng.normal(0.0, 0.01, shape).astype(np.float32)
    return found


def _random_model(folder: Path) -> Path:
    """Random weights in the shape of SmolLM2-135M: 538 MB in float32."""
    transformers = require("transformers", "llm")
    config = transformers.LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
