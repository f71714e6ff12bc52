"""The rewards of the paper's sequence tasks, against a loop that reads like their definition."""

import itertools

import numpy as np
import pytest

from tpo_dist.errors import UsageError
from tpo_dist.records import Prompts
from tpo_dist.tasks import TokenReversal


def answer(prompt, variant, vocab):
    tokens = list(reversed(prompt)) if variant.startswith("reverse") else list(prompt)
    return [vocab - 1 - token for token in tokens] if variant.endswith("flip") else tokens


def rewards(candidate, wanted, kind):
    right = [a == b for a, b in zip(candidate, wanted, strict=True)]
    if kind == "terminal":
        return [float(all(right))] * len(right)
    if kind == "sequential":
        return [float(all(right[: t + 1])) for t in range(len(right))]
    return [float(r) for r in right]


@pytest.mark.parametrize("variant", ["copy", "flip", "reverse_copy", "reverse_flip"])
@pytest.mark.parametrize("kind", ["bag_of_tokens", "sequential", "terminal"])
def test_every_prompt_and_every_candidate(variant, kind):
    """All 27 prompts of 3 tokens over 3, each with all 27 candidates."""
    sequences = list(itertools.product(range(3), repeat=3))
    task = TokenReversal(variant=variant, reward=kind, length=3, vocab=3)
    prompts = Prompts(
        ids=np.arange(27),
        tokens=np.array(sequences, dtype=np.int32).reshape(-1),
        lengths=np.full(27, 3, dtype=np.int32),
    )
    candidates = np.broadcast_to(np.array(sequences, dtype=np.int32), (27, 27, 3))
    got = task.score(prompts, candidates, np.full((27, 27), 3, dtype=np.int32))
    for g, prompt in enumerate(sequences):
        wanted = answer(prompt, variant, 3)
        for k, candidate in enumerate(sequences):
            assert got.token_rewards_GKT[g, k].tolist() == rewards(candidate, wanted, kind)
    solved = got.scores_GK == 1
    assert (solved.sum(axis=1) == 1).all()


def test_prompt_tokens_are_uniform():
    tokens = TokenReversal(length=10, vocab=4).prompts(0, np.arange(5000)).tokens
    counts = np.bincount(tokens, minlength=4)
    expected = len(tokens) / 4
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-squared, 3 degrees of freedom, p = 0.001


@pytest.mark.parametrize("options", [{"vocab": 0}, {"vocab": 1}, {"vocab": -3}, {"length": 0}, {"vocab": 2**31}])
def test_impossible_sizes_are_refused(options):
    (name, value) = next(iter(options.items()))
    with pytest.raises(UsageError, match=f"{name} = {value}"):
        TokenReversal(**options)


def test_candidates_of_another_length_are_refused():
    task = TokenReversal(length=3)
    with pytest.raises(ValueError, match="answers to this task have 3"):
        task.score(task.prompts(0, np.arange(1)), np.zeros((1, 1, 2), dtype=np.int32), np.full((1, 1), 2, np.int32))
