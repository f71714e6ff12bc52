"""A scorer that waits: how long, and when it fails or hangs instead."""

import time

import numpy as np
import pytest

from tpo_dist.errors import UsageError
from tpo_dist.tasks import JudgedReversal, TokenReversal


@pytest.fixture
def slept(monkeypatch):
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def judge(task, ids, method="score"):
    prompts = task.prompts(0, ids)
    tokens = np.random.default_rng(0).integers(0, task.vocab, (len(ids), 3, task.length)).astype(np.int32)
    return getattr(task, method)(prompts, tokens, np.full((len(ids), 3), task.length, dtype=np.int32))


def test_it_scores_as_token_reversal_does(slept):
    options = {"variant": "flip", "reward": "sequential", "length": 5, "vocab": 3}
    judged, plain = JudgedReversal(**options), TokenReversal(**options)
    prompts = judged.prompts(7, np.arange(9))
    np.testing.assert_array_equal(prompts.tokens, plain.prompts(7, np.arange(9)).tokens)
    np.testing.assert_array_equal(judged.answers(prompts), plain.answers(prompts))
    for method in ("score", "score_alternatives"):
        np.testing.assert_array_equal(
            judge(judged, np.arange(9), method).token_rewards_GKT, judge(plain, np.arange(9), method).token_rewards_GKT
        )
    assert slept == [0.1, 0.1]


def test_the_groups_of_a_call_are_waited_for_together(slept):
    task = JudgedReversal(seconds=2.0, spread=0.7)
    waits = task.waits(np.arange(12))
    judge(task, np.arange(12))
    judge(task, np.arange(3, 5))
    assert slept == [waits.max(), waits[3:5].max()]
    assert len(set(waits)) == 12


def test_waits_are_lognormal_with_the_mean_that_was_asked_for():
    waits = JudgedReversal(seconds=2.0, spread=0.5).waits(np.arange(20_000))
    assert waits.mean() == pytest.approx(2.0, rel=0.02)
    logarithms = np.log(waits)
    assert logarithms.std() == pytest.approx(0.5, rel=0.02)
    assert abs(((logarithms - logarithms.mean()) ** 3).mean()) < 0.01
    other = JudgedReversal(seconds=2.0, spread=0.5, wait_seed=1).waits(np.arange(20_000))
    assert abs(np.corrcoef(logarithms, np.log(other))[0, 1]) < 0.03


def test_every_so_many_th_draw_fails_or_hangs(slept):
    task = JudgedReversal(seconds=0.0, fail_every=4, hang_every=3)
    for draw in range(24):
        slept.clear()
        if draw % 4 == 3:
            with pytest.raises(ConnectionError, match=f"refuses draw {draw}, as fail_every = 4"):
                judge(task, np.array([draw]))
            assert slept == []
        else:
            judge(task, np.array([draw]))
            assert (slept[0] > 3600) == (draw % 3 == 2)
    with pytest.raises(ConnectionError, match="draw 7"):
        judge(task, np.arange(4, 9))
    with pytest.raises(ConnectionError):
        judge(JudgedReversal(fail_every=1), np.arange(1))


@pytest.mark.parametrize(
    "options",
    [{"seconds": -0.1}, {"spread": -1.0}, {"seconds": float("inf")}, {"fail_every": -1}, {"hang_every": -2}],
)
def test_waits_that_there_are_not_are_refused(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} = .*give 0 or more"):
        JudgedReversal(**options)


def test_what_token_reversal_refuses_is_refused():
    with pytest.raises(UsageError, match="length = 0"):
        JudgedReversal(length=0)
    with pytest.raises(UsageError, match="no reward of its own"):
        JudgedReversal(reward="terminal").refuse_alternatives()
