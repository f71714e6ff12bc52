"""The paper's sequence tasks: copy or reverse a token sequence, flipped or not (arXiv 2604.06159, sections 3.4 to 3.6).

Shapes: G prompts, K candidates, H tokens of a prompt and of a candidate.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tpo_dist.errors import UsageError
from tpo_dist.randomness import draw_words
from tpo_dist.records import Prompts, pad
from tpo_dist.tasks.contract import Scores

Variant = Literal["copy", "flip", "reverse_copy", "reverse_flip"]
Reward = Literal["bag_of_tokens", "sequential", "terminal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenReversal:
    """A prompt of H uniform tokens; the answer is the prompt, flipped (v becomes V-1-v) or reversed or both."""

    variant: Variant = "reverse_copy"
    """What the answer is: flip makes v V-1-v, reverse turns the order round, copy does neither."""
    reward: Reward = "terminal"
    """bag_of_tokens: each right token counts. sequential: tokens count until the first error. terminal: 1 for the
    whole answer, else 0."""
    length: int = 10
    """H, tokens of a prompt and of its answer."""
    vocab: int = 2
    """V, the number of tokens."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UsageError(f"length = {self.length}", "a prompt has at least 1 token", "give 1 or more")
        if self.vocab < 2:
            raise UsageError(f"vocab = {self.vocab}", "one token leaves nothing to learn", "give 2 or more")
        if self.vocab > 2**31 - 1:
            raise UsageError(f"vocab = {self.vocab}", "token ids are 32-bit", f"give at most {2**31 - 1}")

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.vocab

    @property
    def prompt_length(self) -> int:
        """H."""
        return self.length

    @property
    def completion_length(self) -> int:
        """H."""
        return self.length

    def prompts(self, seed: int, ids: NDArray[np.int64]) -> Prompts:
        """H uniform tokens for each draw."""
        tokens = (draw_words(seed, "prompt", ids, self.length) % np.uint64(self.vocab)).astype(np.int32)
        return Prompts(ids=ids, tokens=tokens.reshape(-1), lengths=np.full(len(ids), self.length, dtype=np.int32))

    def answers(self, prompts: Prompts) -> NDArray[np.int32]:
        """The right answers [G, H]."""
        tokens = pad(prompts.tokens, prompts.lengths)
        if self.variant in ("reverse_copy", "reverse_flip"):
            tokens = tokens[:, ::-1]
        if self.variant in ("flip", "reverse_flip"):
            tokens = self.vocab - 1 - tokens
        return tokens

    def score(self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]) -> Scores:
        """Rewards by token, and their mean as the candidate's score."""
        right = self._right(prompts, tokens_GKT, lengths_GK)
        if self.reward == "sequential":
            right = np.logical_and.accumulate(right, axis=-1)
        elif self.reward == "terminal":
            right = np.broadcast_to(right.all(axis=-1, keepdims=True), right.shape)
        return _scores(right)

    def score_alternatives(
        self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]
    ) -> Scores:
        """Rewards of alternatives to each token of candidate 0. Raises UsageError for the terminal reward."""
        self.refuse_alternatives()
        right = self._right(prompts, tokens_GKT, lengths_GK)
        if self.reward == "sequential":  # an alternative counts where all that it continues is right
            before = np.logical_and.accumulate(right[:, :1, :-1], axis=-1)
            right[:, :, 1:] &= before
        return _scores(right)

    def refuse_alternatives(self) -> None:
        """Raise UsageError where single tokens have no reward of their own."""
        if self.reward == "terminal":
            raise UsageError(
                "task.reward = 'terminal'",
                "a single token has no reward of its own, and token-level groups need one",
                "choose bag_of_tokens or sequential, or whole sequences as candidates",
            )

    def _right(
        self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        if tokens_GKT.shape[-1] != self.length or not (lengths_GK == self.length).all():
            raise ValueError(f"candidates have {tokens_GKT.shape[-1]} tokens; answers to this task have {self.length}")
        return np.asarray(tokens_GKT == self.answers(prompts)[:, None, :])


def _scores(right_GKT: NDArray[np.bool_]) -> Scores:
    rewards = right_GKT.astype(np.float32)
    return Scores(scores_GK=rewards.mean(axis=-1, dtype=np.float32), token_rewards_GKT=rewards)
