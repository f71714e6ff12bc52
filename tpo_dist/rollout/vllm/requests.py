"""What is asked of vLLM and what it answers, in its words: the arguments of an engine, requests, completions."""

from collections.abc import Mapping
from typing import Any

from tpo_dist.records import StopReason
from tpo_dist.rollout.generation import Completion, Generation
from tpo_dist.rollout.vllm import weights
from tpo_dist.rollout.vllm.library import RequestOutputKind, SamplingParams, WeightTransferConfig

_STOPS = {"stop": StopReason.STOP, "length": StopReason.LENGTH}


def arguments(about: Generation, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `vllm.EngineArgs`: what follows from the run, beside what is given."""
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
        "worker_extension_cls": f"{weights.__name__}.{weights.Registration.__name__}",
    }
    if about.device == "cpu":
        # A prompt in pieces rewinds its random numbers, which those of a CPU cannot.
        found |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(2048, found["max_model_len"])}
    if about.adapters is None:
        backend = weights.TRANSFER if about.wire is None else weights.GROUP_TRANSFER
        found["weight_transfer_config"] = WeightTransferConfig(backend=backend)
    else:
        ranks = (8, 16, 32, 64, 128, 256, 320, 512)
        rank = next((each for each in ranks if each >= about.adapters.rank), about.adapters.rank)
        found |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
    return {**found, **given}


def prompt(tokens: list[int], salt: str) -> dict[str, Any]:
    """A prompt of tokens; what those of one salt have in common is computed once."""
    return {"type": "token", "prompt_token_ids": tokens, "cache_salt": salt}


def sampling(about: Generation, temperature: float, seed: int) -> Any:
    """How a completion is drawn, until which end."""
    return SamplingParams(
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


def reading() -> Any:
    """How a prompt is read for its log-probs, with as little drawn as vLLM allows."""
    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def completion(output: Any) -> Completion:
    """One that has ended, as vLLM gives it."""
    if output.finish_reason not in _STOPS:
        raise RuntimeError(f"vLLM ended a completion with {output.finish_reason!r}")
    versions = [int(span.version) for span in output.weight_versions for _ in range(span.start, span.end)]
    return Completion(
        tokens=list(output.token_ids),
        logps=list(output.logprobs.logprobs),
        stop=_STOPS[output.finish_reason],
        versions=versions,
    )
