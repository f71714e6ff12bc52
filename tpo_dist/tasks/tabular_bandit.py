"""A bandit of independent contexts with one right arm each (arXiv 2604.06159, section 3.2, with sampled arms)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpo_dist.errors import UsageError
from tpo_dist.randomness import draw_words
from tpo_dist.records import Prompts
from tpo_dist.tasks.contexts import draw_contexts, score_arms
from tpo_dist.tasks.contract import Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class TabularBandit:
    """The prompt is the number of a context, the answer its right arm."""

    contexts: int = 100
    arms: int = 10
    answer_seed: int = 0
    """Decides which arm is right in each context."""

    def __post_init__(self) -> None:
        if not 1 <= self.contexts < 2**31:
            raise UsageError(f"contexts = {self.contexts}", "they are numbered by 32-bit tokens", "give 1 or more")
        if not 2 <= self.arms < 2**31:
            raise UsageError(f"arms = {self.arms}", "one arm leaves nothing to learn", "give 2 or more")

    @property
    def vocab_size(self) -> int:
        """Arms: what a candidate's token may be."""
        return self.arms

    @property
    def prompt_length(self) -> int:
        """1."""
        return 1

    @property
    def completion_length(self) -> int:
        """1."""
        return 1

    def context_count(self) -> int:
        """Contexts are numbered from 0 to this, exclusive."""
        return self.contexts

    def features(self) -> None:
        """None: a context is no more than its number."""

    def prompts(self, seed: int, ids: NDArray[np.int64]) -> Prompts:
        """One uniform context for each draw."""
        return draw_contexts(seed, ids, self.contexts)

    def answers(self, prompts: Prompts) -> NDArray[np.int32]:
        """The right arm of each prompt's context [G, 1]."""
        return self.right_arms()[prompts.tokens].astype(np.int32)[:, None]

    def right_arms(self) -> NDArray[np.int64]:
        """The right arm of every context [contexts], a pure function of the options."""
        words = draw_words(self.answer_seed, "prompt", np.arange(self.contexts), 1)[:, 0]
        return (words % np.uint64(self.arms)).astype(np.int64)

    def read_prompt(self, tokens: NDArray[np.int32]) -> str:
        """The context by its number."""
        return f"context {int(tokens[0])}"

    def read_candidate(self, tokens: NDArray[np.int32]) -> str:
        """The arm by its number."""
        return f"arm {int(tokens[0])}"

    def score(self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]) -> Scores:
        """1 for the right arm, else 0."""
        return score_arms(self.right_arms(), prompts, tokens_GKT, lengths_GK)
