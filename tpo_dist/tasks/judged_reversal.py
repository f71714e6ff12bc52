"""Token reversal whose scorer waits, as tools and remote judges do, and fails or hangs where it is told to.

For benchmarks of latency, and for trying what a run does when its scorer misbehaves.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpo_dist.errors import UsageError
from tpo_dist.randomness import draw_uniforms
from tpo_dist.records import Prompts
from tpo_dist.tasks.contract import Scores
from tpo_dist.tasks.token_reversal import Reward, TokenReversal, Variant

_FOREVER = 1e8  # seconds; three years


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedReversal:
    """`token_reversal`, judged elsewhere: the groups of one call are judged concurrently, so it waits for the slowest.

    Where a call fails, its groups are scored again in halves, and each of these calls waits anew.
    """

    variant: Variant = "reverse_copy"
    """What the answer is: flip makes v V-1-v, reverse turns the order round, copy does neither."""
    reward: Reward = "terminal"
    """bag_of_tokens: each right token counts. sequential: tokens count until the first error. terminal: 1 for the
    whole answer, else 0."""
    length: int = 10
    """H, tokens of a prompt and of its answer."""
    vocab: int = 2
    """V, the number of tokens."""
    seconds: float = 0.1
    """Mean wait for the judgement of a group; 0: none."""
    spread: float = 0.0
    """0: every wait is the mean. Else waits are lognormal, and this is the deviation of their logarithm."""
    wait_seed: int = 0
    """Waits are a function of it and the number of the draw."""
    fail_every: int = 0
    """Judging raises ConnectionError, at once, for every so many-th draw; 0: for none."""
    hang_every: int = 0
    """Judging never returns for every so many-th draw; 0: for none. With --local only Ctrl-C, twice, ends it."""

    def __post_init__(self) -> None:
        self._reversal()  # refuses its own options
        for name, number in (
            ("seconds", self.seconds),
            ("spread", self.spread),
            ("fail_every", self.fail_every),
            ("hang_every", self.hang_every),
        ):
            if not 0 <= number < math.inf:
                raise UsageError(f"{name} = {number}", "it cannot be below 0, or endless", "give 0 or more")

    def _reversal(self) -> TokenReversal:
        return TokenReversal(variant=self.variant, reward=self.reward, length=self.length, vocab=self.vocab)

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
        """Those of token_reversal."""
        return self._reversal().prompts(seed, ids)

    def answers(self, prompts: Prompts) -> NDArray[np.int32]:
        """The right answers [G, H]; nobody waits for them."""
        return self._reversal().answers(prompts)

    def score(self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]) -> Scores:
        """The scores of token_reversal, after the wait. Raises ConnectionError for draws that are to fail."""
        self._wait(prompts.ids)
        return self._reversal().score(prompts, tokens_GKT, lengths_GK)

    def score_alternatives(
        self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]
    ) -> Scores:
        """As `score`, for alternatives to each token of candidate 0. Raises UsageError for the terminal reward."""
        self.refuse_alternatives()
        self._wait(prompts.ids)
        return self._reversal().score_alternatives(prompts, tokens_GKT, lengths_GK)

    def refuse_alternatives(self) -> None:
        """Raise UsageError where single tokens have no reward of their own."""
        self._reversal().refuse_alternatives()

    def waits(self, draw_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds until each draw's group is judged [G], a pure function of options and draw."""
        if self.spread == 0:
            return np.full(len(draw_ids), self.seconds)
        uniforms_G2 = draw_uniforms(self.wait_seed, "wait", draw_ids, 2)
        normal_G = np.sqrt(-2 * np.log1p(-uniforms_G2[:, 0])) * np.cos(2 * np.pi * uniforms_G2[:, 1])  # Box-Muller
        waits: NDArray[np.float64] = self.seconds * np.exp(self.spread * normal_G - self.spread**2 / 2)
        return waits

    def _wait(self, draw_ids: NDArray[np.int64]) -> None:
        failing, hanging = _every(self.fail_every, draw_ids), _every(self.hang_every, draw_ids)
        if len(failing):
            raise ConnectionError(f"the judge refuses draw {failing[0]}, as fail_every = {self.fail_every} asks")
        seconds = float(self.waits(draw_ids).max(initial=0.0))
        time.sleep(_FOREVER if len(hanging) else seconds)


def _every(count: int, draw_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of these draws, every so many-th of the run: with 4 those numbered 3, 7, 11 ..."""
    return draw_ids[draw_ids % count == count - 1] if count else draw_ids[:0]
