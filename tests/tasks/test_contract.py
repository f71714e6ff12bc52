"""What every task promises; a new task is tested by adding a line to CASES."""

import numpy as np
import pytest

from tpo_dist.records import pad
from tpo_dist.tasks import TASKS, ContextTask, DigitBandit, JudgedReversal, TabularBandit, TokenReversal

CASES = {
    f"token_reversal-{variant}-{reward}-{vocab}": TokenReversal(variant=variant, reward=reward, length=4, vocab=vocab)
    for variant in ("copy", "flip", "reverse_copy", "reverse_flip")
    for reward in ("bag_of_tokens", "sequential", "terminal")
    for vocab in (2, 3)
} | {
    "judged_reversal": JudgedReversal(reward="bag_of_tokens", length=4, vocab=3, seconds=0.001, spread=0.5),
    "tabular_bandit": TabularBandit(contexts=30, arms=4),
    "digit_bandit": DigitBandit(),
}


def test_every_task_has_a_case():
    assert {type(task) for task in CASES.values()} == set(TASKS.values())


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def task(request):
    return request.param


def random_candidates(task, groups, size, seed=0):
    rng = np.random.default_rng(seed)
    shape = (groups, size, task.completion_length)
    return rng.integers(0, task.vocab_size, shape).astype(np.int32), np.full(shape[:2], shape[2], dtype=np.int32)


def test_prompts_are_a_pure_function_of_seed_and_draw(task):
    block = task.prompts(5, np.arange(12))
    again = task.prompts(5, np.array([7, 2]))
    rows = pad(block.tokens, block.lengths)
    np.testing.assert_array_equal(pad(again.tokens, again.lengths), rows[[7, 2]])
    assert not np.array_equal(task.prompts(6, np.arange(12)).tokens, block.tokens)


def test_prompts_fit_what_the_task_says(task):
    prompts = task.prompts(0, np.arange(50))
    assert prompts.tokens.min() >= 0
    assert prompts.tokens.max() < (task.context_count() if isinstance(task, ContextTask) else task.vocab_size)
    assert prompts.lengths.max() <= task.prompt_length
    assert prompts.ids.tolist() == list(range(50))


def test_scores_are_finite_in_bounds_and_the_mean_of_token_rewards(task):
    prompts = task.prompts(0, np.arange(30))
    tokens, lengths = random_candidates(task, 30, 16)
    scores = task.score(prompts, tokens, lengths)
    assert scores.scores_GK.shape == (30, 16)
    assert scores.scores_GK.dtype == np.float32
    assert scores.token_rewards_GKT.shape == tokens.shape
    assert ((scores.scores_GK >= 0) & (scores.scores_GK <= 1)).all()
    np.testing.assert_allclose(scores.token_rewards_GKT.mean(-1), scores.scores_GK, rtol=1e-6)
    assert len(np.unique(scores.scores_GK)) > 1


def test_scoring_is_candidate_by_candidate(task):
    prompts = task.prompts(0, np.arange(6))
    tokens, lengths = random_candidates(task, 6, 5)
    together = task.score(prompts, tokens, lengths).scores_GK
    alone = [[task.score(prompts, tokens[:, [k]], lengths[:, [k]]).scores_GK[g, 0] for k in range(5)] for g in range(6)]
    np.testing.assert_array_equal(together, alone)
