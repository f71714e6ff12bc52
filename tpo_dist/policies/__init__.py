"""Torch modules that sample candidates and score their tokens. Adding one is one file and one line here."""

from typing import Protocol

from tpo_dist.policies.contract import CandidateBatch, MatrixView, Policy
from tpo_dist.policies.transformer import TransformerOptions


class PolicyOptions(Protocol):
    """The options of a policy, which build it for the sizes of a task."""

    def build(self, vocab_size: int, context_length: int, seed: int) -> Policy:
        """A policy with freshly drawn weights, a pure function of its arguments."""
        ...

    def count(self, vocab_size: int, context_length: int) -> int:
        """How many parameters such a policy has, found without building it."""
        ...


POLICIES: dict[str, type[PolicyOptions]] = {
    "transformer": TransformerOptions,
}

__all__ = ["POLICIES", "CandidateBatch", "MatrixView", "Policy", "PolicyOptions"]
