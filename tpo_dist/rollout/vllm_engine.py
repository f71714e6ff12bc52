"""vLLM behind a small interface; nothing else imports it.

Import this module after `vllm_sampler.set_environment`: vLLM reads the environment while it is imported.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file, save_file
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.lora.punica_wrapper import punica_cpu
from vllm.lora.request import LoRARequest
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.sampling_params import RequestOutputKind

from tpo_dist.records import Array, StopReason
from tpo_dist.rollout.generation import Adapters, Completion, Generation
from tpo_dist.rollout.group_fetch import Fetcher, Fetching, Taking
from tpo_dist.rollout.incoming import borrow
from tpo_dist.weight_group import Announcement, Sender

_TRANSFER, _GROUP_TRANSFER = "tpo_dist", "tpo_dist_group"  # the names of our transfer engines in vLLM's factory
_STOPS = {"stop": StopReason.STOP, "length": StopReason.LENGTH}


class Engine:
    """vLLM's engine in this process: it works while `step` is called, and at no other time."""

    def __init__(self, about: Generation, arguments: Mapping[str, Any]) -> None:
        """`arguments`: of `vllm.EngineArgs`, beside those that follow from the run."""
        self._about = about
        self._adapters: Any = None
        self._ready: list[tuple[str, Completion]] = []
        self._one_process = arguments["tensor_parallel_size"] == 1
        if about.adapters is not None and about.device == "cpu":
            punica_cpu.PunicaWrapperCPU = _OneAdapter
        set_threads = torch.set_num_threads
        with torch.random.fork_rng(devices=[]):  # vLLM seeds the whole process
            self._llm: Any = LLMEngine.from_engine_args(EngineArgs(**_arguments(about), **arguments))
        torch.set_num_threads = set_threads  # vLLM's CPU worker replaces it
        if about.wire is not None:
            self.fetcher = Fetcher(self._llm.collective_rpc, arguments["tensor_parallel_size"], about.wire)
        elif about.adapters is None:
            self._llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})

    def add(self, name: str, prompt: list[int], temperature: float, seed: int, salt: str) -> None:
        """Begin a completion. What prompts of one salt have in common is computed once."""
        about = self._about
        parameters = SamplingParams(
            temperature=temperature,
            seed=seed if temperature > 0 else None,
            max_tokens=about.max_tokens,
            ignore_eos=True,  # the tokenizer's own; all end tokens are named instead
            stop_token_ids=list(about.end_tokens),
            stop=list(about.stop),
            include_stop_str_in_output=True,
            detokenize=bool(about.stop),
            skip_special_tokens=False,
            logprobs=0,
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._llm.add_request(name, _prompt(prompt, salt), parameters, lora_request=self._adapters)

    def step(self) -> list[tuple[str, Completion]]:
        """Work for one token of each candidate at most; the completions that ended since the last call, by name."""
        if self._llm.has_unfinished_requests():
            self._advance()
        done, self._ready = self._ready, []
        return done

    def _advance(self) -> Any:
        """One step; the outputs of our own questions, which are no completions."""
        own = []
        for output in self._llm.step():
            if output.prompt_logprobs is not None:
                own.append(output)
            elif output.finished:
                self._ready.append((output.request_id, _completion(output.outputs[0])))
        return own

    def logps(self, tokens: list[int], salt: str) -> list[float]:
        """Log-probs (nats, logits undivided) of each of these tokens but the first, under the weights of now.

        Completions that are under way go on meanwhile.
        """
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._llm.add_request("logps", _prompt(tokens, salt), parameters, lora_request=self._adapters)
        while True:
            for output in self._advance():
                found: list[float] = list(output.prompt_logprobs.logprobs)
                return found

    def load(self, arrays: Mapping[str, Array], version: int) -> None:
        """Take over these weights, or adapters; completions under way go on with them."""
        if self._about.adapters is not None:
            self._load_adapters(self._about.adapters, arrays)
        else:
            self._llm.collective_rpc("start_weight_update")
            if self._one_process:
                self._update({"weights": dict(arrays)})
            else:
                with _folder_in_memory() as folder:
                    path = str(folder / "weights.safetensors")
                    save_file(dict(arrays), path)
                    self._update({"path": path})
            self._llm.collective_rpc("finish_weight_update")
        self._llm.set_weight_version(str(version))

    def fetch(self, announced: Announcement, sender: Sender) -> None:
        """As `load`, of weights that come by a process group. Raises WeightsLost and WrongWeights, as `Fetcher`."""
        self.fetcher.fetch(announced, sender)
        self._llm.set_weight_version(str(announced.header.version))

    def _update(self, info: dict[str, Any]) -> None:
        self._llm.collective_rpc("update_weights", kwargs={"update_info": info})

    def _load_adapters(self, adapters: Adapters, arrays: Mapping[str, Array]) -> None:
        """vLLM reads adapters from a folder, once; those that it has of that name are replaced."""
        modules = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in arrays})
        config = {"r": adapters.rank, "lora_alpha": adapters.scale * adapters.rank, "target_modules": modules}
        with _folder_in_memory() as folder:
            (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "LORA"}))
            save_file(dict(arrays), folder / "adapter_model.safetensors")
            self._llm.add_lora(LoRARequest("policy", 1, str(folder), load_inplace=True))
            self._adapters = LoRARequest("policy", 1, str(folder))

    def forget(self) -> None:
        """Drop all keys and values; those of completions under way are computed anew, under the weights of now."""
        self._llm.reset_prefix_cache(reset_running_requests=True)

    def close(self) -> None:
        """End vLLM and its processes."""
        self._llm.engine_core.shutdown()


@contextmanager
def _folder_in_memory() -> Iterator[Path]:
    """A folder that other processes of this machine can read; it is gone afterwards."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="tpo-weights-", dir=place) as name:
        yield Path(name)


def _prompt(tokens: list[int], salt: str) -> dict[str, Any]:
    return {"type": "token", "prompt_token_ids": tokens, "cache_salt": salt}


def _completion(output: Any) -> Completion:
    if output.finish_reason not in _STOPS:
        raise RuntimeError(f"vLLM ended a completion with {output.finish_reason!r}")
    versions = [int(span.version) for span in output.weight_versions for _ in range(span.start, span.end)]
    return Completion(
        tokens=list(output.token_ids),
        logps=list(output.logprobs.logprobs),
        stop=_STOPS[output.finish_reason],
        versions=versions,
    )


def _arguments(about: Generation) -> dict[str, Any]:
    """What follows from the run."""
    found: dict[str, Any] = {
        "model": about.path,
        "revision": about.revision,
        "tokenizer_revision": about.revision,
        "skip_tokenizer_init": not about.stop,
        "generation_config": "vllm",  # the model's own may change temperature and top-p
        "max_model_len": about.max_prompt_tokens + about.max_tokens,
        "logprobs_mode": "processed_logprobs",
        "async_scheduling": False,  # no step is under way while weights change
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if about.device == "cpu":
        # A prompt in pieces rewinds its random numbers, which those of a CPU cannot.
        found |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(2048, found["max_model_len"])}
    if about.adapters is None:
        backend = _TRANSFER if about.wire is None else _GROUP_TRANSFER
        found["weight_transfer_config"] = WeightTransferConfig(backend=backend)
        found["worker_extension_cls"] = f"{__name__}.{Registration.__name__}"
    else:
        ranks = (8, 16, 32, 64, 128, 256, 320, 512)
        rank = next((each for each in ranks if each >= about.adapters.rank), about.adapters.rank)
        found |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
    return found


class _OneAdapter(punica_cpu.PunicaWrapperCPU):  # type: ignore[misc]  # vLLM may not be installed where types are checked
    """One adapter for all tokens is a matrix product; vLLM's own kernels copy its matrices for every token."""

    def add_lora_linear(
        self, y: Any, x: Any, lora_a_stacked: Any, lora_b_stacked: Any, scale: float, output_slices: Any, **_: Any
    ) -> None:
        """y += scale x A B, slice by slice."""
        start = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            y[:, start : start + width] += scale * (x @ a[0, 0].t()) @ b[0, 0].t()
            start += width

    def add_lora_logits(self, y: Any, x: Any, lora_a_stacked: Any, lora_b_stacked: Any, scale: float, **_: Any) -> None:
        """y += scale x A B. vLLM's own expects a row for each sequence, and fails for a probe's, one for each token."""
        a, b = lora_a_stacked[0, 0], lora_b_stacked[0, 0]
        y[:, : len(b)] += scale * (x @ a.t()) @ b.t()  # the rest of y is padding


@dataclass
class _NoInfo(WeightTransferInitInfo):  # type: ignore[misc]  # as above
    """There is nothing to agree on."""


@dataclass
class _Weights(WeightTransferUpdateInfo):  # type: ignore[misc]  # as above
    """Arrays by the names of Hugging Face checkpoints, or the file that has them."""

    weights: dict[str, Array] = field(default_factory=dict)
    path: str | None = None


class ArrayTransfer(WeightTransferEngine):  # type: ignore[misc]  # as above
    """Weights from arrays in shared memory, such as Ray's object store hands out, read in place."""

    init_info_cls: Any = _NoInfo
    update_info_cls: Any = _Weights

    def init_transfer_engine(self, init_info: _NoInfo) -> None:
        """Nothing to do."""

    def start_weight_update(self) -> None:
        """Layers get back the form in which a checkpoint fills them."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: _Weights) -> None:
        """Fill the layers; each takes its own form again when it is complete."""
        arrays = update_info.weights if update_info.path is None else load_file(update_info.path)
        self.model.load_weights((name, borrow(array)) for name, array in arrays.items())

    def finish_weight_update(self) -> None:
        """Layers that got nothing take back what they had.

        The output layer is one of them where it is tied to the embedding. On CPUs it keeps a packed copy of its own,
        which would stay behind silently: vLLM makes that copy anew only for layers that were loaded.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        for module in self.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Nothing to release."""


class GroupTransfer(Taking, ArrayTransfer):
    """Weights from the learner's process by a process group: beside those in use, until all of them are here.

    vLLM's own NCCL engine waits without end for a learner that died, and fills layers while weights come.
    """

    def finish_weight_update(self) -> None:
        """Fill the layers."""
        ArrayTransfer.start_weight_update(self)
        ArrayTransfer.receive_weights(self, _Weights(weights=self.arrival.arrays))
        ArrayTransfer.finish_weight_update(self)
        self.arrival.drop()


class Registration(Fetching):
    """vLLM's worker processes import this module for it, and so know the transfer engines."""


WeightTransferEngineFactory.register_engine(_TRANSFER, ArrayTransfer)
WeightTransferEngineFactory.register_engine(_GROUP_TRANSFER, GroupTransfer)
