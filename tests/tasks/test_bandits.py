"""Tasks of numbered contexts: which arm is right, and that it is the one of the context asked."""

import numpy as np
import pytest

from tpo_dist.errors import UsageError
from tpo_dist.records import Prompts
from tpo_dist.tasks import ContextTask, DigitBandit, TabularBandit, TokenReversal
from tpo_dist.tasks.digit_data import load_digits


def ask(contexts):
    tokens = np.array(contexts, dtype=np.int32)
    return Prompts(ids=np.arange(len(tokens)), tokens=tokens, lengths=np.ones(len(tokens), dtype=np.int32))


def all_arms(task, groups):
    tokens = np.broadcast_to(np.arange(task.vocab_size, dtype=np.int32)[None, :, None], (groups, task.vocab_size, 1))
    return tokens, np.ones(tokens.shape[:2], dtype=np.int32)


def test_exactly_the_right_arm_scores():
    task = TabularBandit(contexts=50, arms=7, answer_seed=3)
    contexts = [4, 49, 0, 4]
    scores = task.score(ask(contexts), *all_arms(task, 4))
    assert scores.scores_GK.argmax(axis=1).tolist() == task.right_arms()[contexts].tolist()
    assert scores.scores_GK.sum(axis=1).tolist() == [1, 1, 1, 1]
    assert scores.token_rewards_GKT[..., 0].tolist() == scores.scores_GK.tolist()


def test_answers_are_a_function_of_the_options_and_spread_over_the_arms():
    answers = TabularBandit(contexts=5000, arms=5).right_arms()
    np.testing.assert_array_equal(answers, TabularBandit(contexts=5000, arms=5).right_arms())
    assert not np.array_equal(answers, TabularBandit(contexts=5000, arms=5, answer_seed=1).right_arms())
    counts = np.bincount(answers, minlength=5)
    assert ((counts - 1000) ** 2 / 1000).sum() < 18.5  # chi-squared, 4 degrees of freedom, p = 0.001


def test_the_right_class_of_an_image_scores():
    task, digits = DigitBandit(), load_digits("sklearn")
    contexts = [0, 7, len(digits.train_labels_N) - 1]
    scores = task.score(ask(contexts), *all_arms(task, 3))
    assert scores.scores_GK.argmax(axis=1).tolist() == digits.train_labels_N[contexts].tolist()
    np.testing.assert_array_equal(task.features(), digits.train_images_ND)
    assert task.context_count() == len(task.features()) == 1297


@pytest.mark.parametrize("task", [TabularBandit(contexts=6), DigitBandit()], ids=["tabular", "digits"])
def test_contexts_are_uniform(task):
    tokens = task.prompts(0, np.arange(6000)).tokens % 6
    counts = np.bincount(tokens, minlength=6)
    expected = np.bincount(np.arange(task.context_count()) % 6, minlength=6) / task.context_count() * 6000
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # chi-squared, 5 degrees of freedom, p = 0.001


def test_only_these_are_context_tasks():
    assert isinstance(TabularBandit(), ContextTask)
    assert isinstance(DigitBandit(), ContextTask)
    assert not isinstance(TokenReversal(), ContextTask)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (TabularBandit, {"arms": 1}, "arms = 1"),
        (TabularBandit, {"contexts": 0}, "contexts = 0"),
        (TabularBandit, {"contexts": 2**31}, "32-bit"),
        (DigitBandit, {"source": "folder"}, "path does not say which"),
        (DigitBandit, {"path": "x"}, "takes no folder"),
    ],
)
def test_impossible_options_are_refused(kind, options, words):
    with pytest.raises(UsageError, match=words):
        kind(**options)


def test_candidates_of_another_length_are_refused():
    with pytest.raises(ValueError, match="answers to this task have 1"):
        TabularBandit().score(ask([0]), np.zeros((1, 1, 2), dtype=np.int32), np.full((1, 1), 2, np.int32))
