"""Tasks of numbered contexts: a prompt is one token, the number of a context, and a candidate is one token, an arm."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tpo_dist.randomness import draw_words
from tpo_dist.records import Prompts, pad
from tpo_dist.tasks.contract import Scores


@runtime_checkable
class ContextTask(Protocol):
    """What such a task says besides what every task says; its `vocab_size` is the number of arms."""

    def context_count(self) -> int:
        """Contexts are numbered from 0 to this, exclusive."""
        ...

    def features(self) -> NDArray[np.float32] | None:
        """What can be seen of each context [contexts, D]; None where a context is no more than its number."""
        ...


def draw_contexts(seed: int, ids: NDArray[np.int64], count: int) -> Prompts:
    """One uniform context for each draw."""
    contexts = (draw_words(seed, "prompt", ids, 1)[:, 0] % np.uint64(count)).astype(np.int32)
    return Prompts(ids=ids, tokens=contexts, lengths=np.ones(len(ids), dtype=np.int32))


def score_arms(
    answers: NDArray[np.int64], prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]
) -> Scores:
    """1 for the right arm of the prompt's context, else 0; `answers` holds the right arm of every context."""
    if tokens_GKT.shape[-1] != 1 or not (lengths_GK == 1).all():
        raise ValueError(f"candidates have {tokens_GKT.shape[-1]} tokens; answers to this task have 1")
    contexts_G = pad(prompts.tokens, prompts.lengths)[:, 0]
    rewards = (tokens_GKT == answers[contexts_G][:, None, None]).astype(np.float32)
    return Scores(scores_GK=rewards[..., 0], token_rewards_GKT=rewards)
