"""What samplers of language models share: what they need to know of a run, and completions as arrays.

Shapes: G groups (one prompt each), K candidates, T tokens of a candidate.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tpo_dist.errors import UsageError
from tpo_dist.ragged import pad
from tpo_dist.records import Prompts, StopReason
from tpo_dist.rollout.contract import Candidates, Sampler
from tpo_dist.weight_group import Wire


@dataclass(frozen=True, slots=True)
class Adapters:
    """LoRA (arXiv 2106.09685): each adapted weight is W + scale B A."""

    rank: int
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a sampler of language models needs to know of a run."""

    path: str
    """Folder of the model, or its name on the hub."""
    revision: str | None = None
    """Version on the hub."""
    dtype: str = "float32"
    """Precision of the policy's weights: float32 or bfloat16."""
    adapters: Adapters | None = None
    """Where adapters are trained: snapshots carry them alone."""
    device: str = "cpu"
    temperature: float = 1.0
    """Logits are divided by it; 0: greedy."""
    max_prompt_tokens: int
    max_tokens: int
    """Longest completion, end token included."""
    end_tokens: tuple[int, ...]
    """Each of them ends a completion, and is its last token."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion; their tokens stay in it."""
    seed: int
    """Of the run."""
    greedy: bool = False
    """Complete each prompt greedily as well."""
    wire: Wire | None = None
    """How announced weights come from the learner, for a sampler that fetches them; None: snapshots bring their own."""

    def rows(self, prompts: Prompts) -> list[list[int]]:
        """The tokens of each prompt. Raises UsageError, naming draw and length, for one that is too long or empty."""
        for draw, length in zip(prompts.ids.tolist(), prompts.lengths.tolist(), strict=True):
            if not 0 < length <= self.max_prompt_tokens:
                raise UsageError(
                    f"text.max_prompt_tokens = {self.max_prompt_tokens}",
                    f"the prompt of draw {draw} has {length} tokens",
                    "raise it, or ask shorter questions" if length else "ask something",
                )
        ends = np.cumsum(prompts.lengths, dtype=np.int64)[:-1]
        return [row.tolist() for row in np.split(prompts.tokens, ends)]


@runtime_checkable
class TextSampling(Protocol):
    """The options of a sampler of language models, which build it for a run."""

    def check(self, generation: Generation, group_size: int) -> None:
        """Raise UsageError where groups of K such completions cannot be sampled so; nothing is started."""
        ...

    def require_package(self, device: str) -> None:
        """Raise UsageError where the package that samples is not installed; it is not imported."""
        ...

    def build(self, generation: Generation) -> Sampler:
        """The sampler, without weights that it would sample from before it loads a snapshot.

        Raises UsageError where a package that it needs is not installed.
        """
        ...


def refuse_less_than_one(**sizes: int | None) -> None:
    """Raise UsageError for a size below 1; None is none."""
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} = {value}", "there have to be some", "give 1 or more")


def refuse_truncation(top_p: float, top_k: int, min_p: float) -> None:
    """Raise UsageError unless every token of the vocabulary may be drawn, with its own probability."""
    for name, value, neutral in (("top_p", top_p, 1.0), ("top_k", top_k, 0), ("min_p", min_p, 0.0)):
        if value != neutral:
            raise UsageError(
                f"{name} = {value}",
                "training would fit another distribution than the one that was sampled from: tokens that it cuts off "
                "keep their probability in the learner, so p_old and every ratio would be wrong",
                f"leave {name} out; rollout.temperature sharpens sampling and training alike",
            )


def require_installed(sampler: str, package: str, extra: str) -> None:
    """Raise UsageError, naming the extra, where a sampler's package is not there; finding it imports nothing."""
    if importlib.util.find_spec(package) is None:
        reason = f"the package {package}, which it needs, is not installed"
        fix = f"pip install 'tpo-dist[{extra}]'" + (", or give sampler.name=transformers" if package == "vllm" else "")
        raise UsageError(f"sampler.name = {sampler!r}", reason, fix)


def require(module: str, extra: str) -> Any:
    """A module of an optional package. Raises UsageError, naming the extra, where it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"import {module}", str(error), f"pip install 'tpo-dist[{extra}]'") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One completion, as an engine gives it."""

    tokens: Sequence[int]
    """What was drawn, the end token included."""
    logps: Sequence[float]
    """Log-probs (nats) of the distribution that each was drawn from."""
    stop: StopReason
    versions: Sequence[int] | None = None
    """Of the weights that drew each token; None: of those under which it was asked for."""


def to_candidates(
    groups: Sequence[Sequence[Completion]], greedy: Sequence[Completion] | None, version: int
) -> Candidates:
    """G groups of K completions as padded arrays.

    `greedy`: the greedy completion of each prompt, where asked for. `version`: under which all were asked for.
    """
    every = [each for group in groups for each in group]
    lengths_GK = _lengths(every).reshape(len(groups), -1)
    changed = any(other != version for each in every for other in each.versions or ())
    versions = (other for each in every for other in each.versions or [version] * len(each.tokens))
    return Candidates(
        tokens_GKT=pad(_tokens(every), lengths_GK),
        lengths_GK=lengths_GK,
        logps_GKT=pad(np.fromiter((logp for each in every for logp in each.logps), np.float32), lengths_GK),
        stop_reasons_GK=np.array([each.stop for each in every], dtype=np.int8).reshape(lengths_GK.shape),
        greedy_GT=None if greedy is None else pad(_tokens(greedy), _lengths(greedy)),
        greedy_lengths_G=None if greedy is None else _lengths(greedy),
        versions_GKT=pad(np.fromiter(versions, np.int64), lengths_GK) if changed else None,
    )


def _tokens(completions: Sequence[Completion]) -> NDArray[np.int32]:
    return np.fromiter((token for each in completions for token in each.tokens), np.int32)


def _lengths(completions: Sequence[Completion]) -> NDArray[np.int32]:
    return np.array([len(each.tokens) for each in completions], dtype=np.int32)
