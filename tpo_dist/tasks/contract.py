"""What a task is: where prompts come from and how candidates are scored.

Shapes: G groups (one prompt each), K candidates, T tokens of a candidate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tpo_dist.records import Prompts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Scores:
    """Scores of a block of candidates."""

    scores_GK: NDArray[np.float32]
    """One number per candidate, higher is better."""
    token_rewards_GKT: NDArray[np.float32] | None
    """One number per token, whose mean over a candidate's tokens is its score; None where tokens have none."""


@dataclass(frozen=True, slots=True)
class Defect:
    """Why a group has no scores."""

    cause: str
    """One of few short texts, to count by."""
    detail: str


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class GroupScores:
    """Scores of those groups of a block that could be scored."""

    scores_GK: NDArray[np.float32]
    """Anything where the group has a defect."""
    defects: Mapping[int, Defect]
    """The groups without scores, by position."""
    sources_G: NDArray[np.bytes_]
    """Which task of a mixture asked each, S64."""
    parts_G: Mapping[str, NDArray[np.float64]]
    """Means over the candidates of each reward that makes the score; NaN where a group's task has no such reward."""


@runtime_checkable
class GroupScoring(Protocol):
    """A task that says itself which groups it could not score, and shows them as a person reads them."""

    def score_groups(
        self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]
    ) -> GroupScores:
        """The scores of all groups that can be scored, and why the others cannot."""
        ...

    def describe(self, draw: int, tokens_KT: NDArray[np.int32], lengths_K: NDArray[np.int32]) -> Mapping[str, Any]:
        """A group in words, ready for JSON, for the quarantine."""
        ...


@runtime_checkable
class Legible(Protocol):
    """A task of tokens that says how a person reads them; the tokens of all others are shown as numbers."""

    def read_prompt(self, tokens: NDArray[np.int32]) -> str:
        """A prompt, as a text of one or more lines."""
        ...

    def read_candidate(self, tokens: NDArray[np.int32]) -> str:
        """A candidate, or a right answer."""
        ...


@runtime_checkable
class Answers(Protocol):
    """A task whose right answers are known; diagnostics that need an oracle ask for them."""

    def answers(self, prompts: Prompts) -> NDArray[np.int32]:
        """The right answers [G, T]."""
        ...
