"""Torch modules that sample candidates and score their tokens. Adding one is one file and one line here."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tpo_dist.policies.causal_lm import CausalLM, CausalLMOptions
from tpo_dist.policies.contract import CandidateBatch, MatrixView, Policy, SamplingPolicy
from tpo_dist.policies.mlp import MLPOptions
from tpo_dist.policies.tabular import TabularOptions
from tpo_dist.policies.transformer import TransformerOptions


class PolicyOptions(Protocol):
    """The options of a policy, which build it for the sizes of a task."""

    def build(self, vocab_size: int, context_length: int, seed: int) -> Policy:
        """A policy with freshly drawn weights, a pure function of its arguments."""
        ...

    def count(self, vocab_size: int, context_length: int) -> int:
        """How many parameters such a policy has, found without building it."""
        ...


@runtime_checkable
class ContextPolicyOptions(Protocol):
    """The options of a policy over numbered contexts (`tasks/contexts.py`)."""

    def build_for_contexts(
        self, arms: int, context_count: int, features: NDArray[np.float32] | None, seed: int
    ) -> Policy:
        """The same; the features [contexts, D] are no weights and are not learned."""
        ...


@runtime_checkable
class TextPolicyOptions(Protocol):
    """The options of a policy with weights, a vocabulary and a tokenizer of its own: a language model."""

    @property
    def path(self) -> str:
        """Where the model and its tokenizer are."""
        ...

    def check(self) -> None:
        """Raise UsageError where the model cannot be what the options say; nothing is loaded."""
        ...

    def load(self, temperature: float, seed: int) -> CausalLM:
        """The policy with the model's own weights; the seed is only for what training adds to them."""
        ...


POLICIES: dict[str, type[PolicyOptions] | type[ContextPolicyOptions] | type[TextPolicyOptions]] = {
    "transformer": TransformerOptions,
    "tabular": TabularOptions,
    "mlp": MLPOptions,
    "causal_lm": CausalLMOptions,
}

__all__ = [
    "POLICIES",
    "CandidateBatch",
    "ContextPolicyOptions",
    "MatrixView",
    "Policy",
    "PolicyOptions",
    "SamplingPolicy",
    "TextPolicyOptions",
]
