"""Rewards: what counts as a score, how several make one, and functions of users that cannot be used."""

import asyncio
import math
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tpo_dist.errors import UsageError
from tpo_dist.tasks.rewards import (
    Judge,
    NoScore,
    answer_tag,
    as_score,
    awaits,
    check_rewards,
    load_scorer,
    part_names,
    reward_names,
    think_answer_tags,
    whole_path,
)
from tpo_dist.tasks.text import OneSource, Question

SCORERS = Path(__file__).with_name("scorers.py")


@dataclass
class Plain(OneSource):
    rewards: dict[str, float] | None = None
    own: object = 1.0
    sources: tuple[str, ...] = ("plain",)

    def score(self, question, completion):
        return self.own


def grade(task, completion="", answer=""):
    return asyncio.run(Judge(task).grade(Question(prompt="?", answer=answer, source="plain"), completion))


@pytest.mark.parametrize(("value", "score"), [(1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), (np.array(0.25), 0.25)])
def test_numbers_of_all_kinds_are_scores(value, score):
    assert as_score(value) == score
    assert type(as_score(value)) is float


@pytest.mark.parametrize("value", [None, "1.0", [1.0], 1j, np.array([1.0]), {"score": 1}])
def test_anything_else_is_none(value):
    with pytest.raises(NoScore) as error:
        as_score(value)
    assert error.value.cause == f"scorer returned {type(value).__name__}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, 1e39, np.float32("nan")])
def test_a_score_is_finite(value):
    with pytest.raises(NoScore) as error:
        as_score(value)
    assert error.value.cause == "score is not finite"


def test_a_task_s_own_score_needs_no_weights():
    assert grade(Plain()).score == 1.0
    assert grade(Plain()).parts == {}


def test_a_score_of_several_rewards_is_their_weighted_mean():
    task = Plain({"task": 3.0, "answer_tag": 1.0, f"{SCORERS}:length": 4.0}, own=0.5)
    found = grade(task, "<answer>7</answer>")
    assert found.parts == {"task": 0.5, "answer_tag": 1.0, "length": 1.8}
    assert found.score == pytest.approx((3 * 0.5 + 1 * 1.0 + 4 * 1.8) / 8)
    assert part_names(task) == ("task", "answer_tag", "length")


def test_a_task_s_own_score_may_be_left_out():
    assert grade(Plain({f"{SCORERS}:right": 2.0}, own=None), "7", "7").score == 1.0


def test_rewards_that_wait_are_waited_for():
    task = Plain({"task": 1.0, f"{SCORERS}:judge": 1.0}, own=0.0)
    assert Judge(task).concurrent
    assert grade(task, "7", "7").score == 0.5
    assert not Judge(Plain({"task": 1.0, f"{SCORERS}:right": 1.0})).concurrent
    assert awaits(load_scorer(f"{SCORERS}:judge_object"))


def test_rewards_that_are_finite_one_by_one_make_no_score_that_is_not():
    task = Plain({"task": 1e300, "answer_tag": 1.0}, own=3e38)
    with pytest.raises(NoScore, match="inf"):
        grade(task)


def test_a_reward_that_is_none_makes_no_score():
    with pytest.raises(NoScore):
        grade(Plain({"task": 1.0, "answer_tag": 1.0}, own=math.nan))


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("thinking <answer>7</answer>", 1.0),
        ("<answer>7</answer>\n", 1.0),
        ("<answer></answer>", 0.0),
        ("<answer> \n </answer>", 0.0),
        ("<answer>7</answer> more", 0.0),
        ("<answer>7</answer><answer>8</answer>", 0.0),
        ("<answer>7", 0.0),
        ("", 0.0),
    ],
)
def test_the_form_of_an_answer(text, score):
    assert answer_tag(None, text, None) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a</think><answer>7</answer>", 1.0),
        (" <think>a</think>\n <answer>7</answer> ", 1.0),
        ("<think>a</think> so <answer>7</answer>", 0.0),
        ("a<think>a</think><answer>7</answer>", 0.0),
        ("<think>a</think><think>b</think><answer>7</answer>", 0.0),
        ("<think><answer>7</answer></think><answer>7</answer>", 0.0),
        ("<think><answer></think>7</answer>", 0.0),
        ("<think>a</think>", 0.0),
        ("<answer>7</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_the_form_of_a_thought_and_its_answer(text, score):
    assert think_answer_tags(None, text, None) == score


BROKEN = {
    "no such file": ("nowhere.py:score", "there is no file"),
    "no such function": (f"{SCORERS}:wright", "did you mean 'right'"),
    "no function": (f"{SCORERS}:here", "is a int, not a function"),
    "no function named": (f"{SCORERS}", "names a file, and no function in it"),
    "a class": (f"{SCORERS}:Judge", "is a class, not a function"),
    "other arguments": (f"{SCORERS}:two_arguments", "does not take prompt, completion and answer"),
    "no such module": ("no_such_module.scorers:score", "module no_such_module.scorers cannot be imported"),
    "no path": ("anser_tag", "did you mean 'answer_tag'"),
    "no name": (f"{SCORERS}:", "is neither a known reward nor a function's path"),
}


@pytest.mark.parametrize(("path", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_function_that_cannot_be_had_is_refused(path, words):
    with pytest.raises(UsageError, match=path.replace("\\", ".")) as error:
        load_scorer(path)
    assert words in str(error.value)


def test_a_file_that_cannot_be_imported_is_refused(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import math\nraise RuntimeError('not today')\n")
    with pytest.raises(UsageError, match="RuntimeError: not today"):
        load_scorer(f"{broken}:score")
    broken.write_text("import sys\nsys.exit(3)\n")  # what ends a script must not end the command
    with pytest.raises(UsageError, match="SystemExit: 3"):
        load_scorer(f"{broken}:score")
    broken.write_text("def score(:\n")
    with pytest.raises(UsageError, match="SyntaxError"):
        load_scorer(f"{broken}:other")


def test_a_file_that_is_imported_for_ever_is_given_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tpo_dist.tasks.rewards.IMPORT_SECONDS", 0.4)
    for name, hangs in (("waits", "import time\ntime.sleep(1000)"), ("spins", "while True:\n    pass")):
        stubborn = f"try:\n    {hangs.replace(chr(10), chr(10) + '    ')}\nexcept Exception:\n    pass\n"
        (tmp_path / f"{name}.py").write_text(f"{stubborn}def score(prompt, completion, answer):\n    return 1.0\n")
        with pytest.raises(UsageError, match=f"{name}.py was still being imported after 0.4 s"):
            load_scorer(f"{tmp_path / name}.py:score")
        assert f"waiting for 0.2 s of 0.4 s for {tmp_path / name}.py to be imported" in caplog.text
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_functions_of_files_and_modules_are_found(monkeypatch):
    assert load_scorer("tests.tasks.scorers:right")("", "7 ", "7")
    assert load_scorer("tests.tasks.scorers.right")("", "7 ", "7")
    monkeypatch.chdir(SCORERS.parent)
    assert whole_path("scorers.py:right") == f"{SCORERS}:right"
    assert whole_path("math:floor") == "math:floor"


@pytest.mark.parametrize("rewards", [{}, {"task": 0.0}, {"task": -1.0}, {"task": math.inf}])
def test_weights_that_make_no_mean_are_refused(rewards):
    with pytest.raises(UsageError, match="rewards"):
        check_rewards(rewards)


def test_two_rewards_of_one_name_are_refused():
    with pytest.raises(UsageError, match="'right' in the metrics"):
        reward_names(Plain({"a.py:right": 1.0, "b.py:right": 1.0}))
