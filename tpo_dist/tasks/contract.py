"""What a task is: where prompts come from and how candidates are scored.

Shapes: G groups (one prompt each), K candidates, T tokens of a candidate.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tpo_dist.records import Prompts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Scores:
    """Scores of a block of candidates."""

    scores_GK: NDArray[np.float32]
    """One number per candidate, higher is better."""
    token_rewards_GKT: NDArray[np.float32]
    """One number per token; their mean over a candidate's tokens is its score."""


class Task(Protocol):
    """A source of prompts and a scorer. Implementations are frozen dataclasses whose fields are the options.

    Draw `i` and its score are pure functions of (options, seed, i): whoever draws it gets the same prompt.
    """

    @property
    def vocab_size(self) -> int:
        """Token ids run from 0 to this, exclusive."""
        ...

    @property
    def prompt_length(self) -> int:
        """Tokens of the longest prompt."""
        ...

    @property
    def completion_length(self) -> int:
        """Tokens of the longest candidate."""
        ...

    def prompts(self, seed: int, ids: NDArray[np.int64]) -> Prompts:
        """The prompts of these draws."""
        ...

    def score(self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]) -> Scores:
        """Score candidates (padded tokens with their lengths). Scores lie in [0, 1], where 1 is solved."""
        ...


@runtime_checkable
class TokenScoring(Protocol):
    """A task that can also score single tokens as they are drawn; token-level groups need it."""

    def score_alternatives(
        self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]
    ) -> Scores:
        """Score K alternative tokens at each position, all of which continue the tokens of candidate 0."""
        ...

    def refuse_alternatives(self) -> None:
        """Raise UsageError where, with these options, single tokens have no score of their own."""
        ...


@runtime_checkable
class Answers(Protocol):
    """A task whose right answers are known; diagnostics that need an oracle ask for them."""

    def answers(self, prompts: Prompts) -> NDArray[np.int32]:
        """The right answers [G, T]."""
        ...
