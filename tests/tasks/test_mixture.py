"""Several tasks in one run: by weight, told apart, each scored by its own."""

import asyncio
import json
from pathlib import Path

import pytest

from tpo_dist.errors import UsageError
from tpo_dist.tasks import Mixture, build_text_task
from tpo_dist.tasks.rewards import Judge, part_names

SCORERS = Path(__file__).with_name("scorers.py")


def rows(path, count, answer):
    path.write_text("".join(json.dumps({"prompt": f"{path.stem} {n}", "answer": answer}) + "\n" for n in range(count)))
    return {"name": "text", "path": str(path), "scorer": f"{SCORERS}:right", "held_out_rows": 2}


@pytest.fixture
def tasks(tmp_path):
    return {"ones": {**rows(tmp_path / "a.jsonl", 10, "1"), "weight": 3.0}, "twos": rows(tmp_path / "b.jsonl", 20, "2")}


def test_tasks_are_asked_by_weight(tasks):
    mixture = Mixture(tasks=tasks)
    mixture.check()
    asked = [mixture.question(0, draw) for draw in range(2000)]
    share = sum(question.source == "ones" for question in asked) / len(asked)
    assert share == pytest.approx(0.75, abs=0.03)
    assert {question.prompt[0] for question in asked if question.source == "ones"} == {"a"}
    assert mixture.sources == ("ones", "twos")
    assert mixture.question(0, 77) == asked[77]
    assert any(mixture.question(1, draw) != asked[draw] for draw in range(10))
    assert mixture.question_count() == 8 + 18


def test_held_out_questions_are_of_all_tasks_in_turn(tasks):
    mixture = Mixture(tasks=tasks)
    assert [mixture.held_out(index).source for index in range(4)] == ["ones", "twos", "ones", "twos"]
    assert [mixture.held_out(index).prompt for index in range(4)] == ["a 8", "b 18", "a 9", "b 19"]
    assert mixture.held_out_count() == 4


def test_each_question_is_scored_by_its_own_task(tasks):
    tasks["twos"]["rewards"] = {"task": 1.0, "answer_tag": 1.0}
    mixture = Mixture(tasks=tasks)
    judge = Judge(mixture)
    found = {}
    for index in (0, 1):
        question = mixture.held_out(index)
        found[question.source] = asyncio.run(judge.grade(question, "1"))
    assert (found["ones"].score, dict(found["ones"].parts)) == (1.0, {})
    assert (found["twos"].score, dict(found["twos"].parts)) == (0.0, {"task": 0.0, "answer_tag": 0.0})
    assert part_names(mixture) == ("task", "answer_tag")


def test_any_task_that_waits_makes_the_mixture_wait(tasks):
    assert not Judge(Mixture(tasks=tasks)).concurrent
    tasks["twos"]["scorer"] = f"{SCORERS}:judge"
    mixture = Mixture(tasks=tasks)
    assert Judge(mixture).concurrent
    assert mixture.awaits()


def test_what_changes_in_one_task_changes_in_the_mixture(tasks):
    assert Mixture(tasks=tasks).turns() == (0,)
    for name, draws in (("a", 7), ("b", 5)):
        tasks[name] = {"name": "reasoning_gym", "dataset": "chain_sum", "curriculum": [{"draws": draws}, {}]}
    assert Mixture(tasks=tasks).turns() == (0, 5, 7)


def test_one_system_prompt_for_all(tasks):
    assert Mixture(tasks=tasks).system_prompt is None
    tasks["ones"]["system"] = tasks["twos"]["system"] = "be brief"
    assert Mixture(tasks=tasks).system_prompt == "be brief"
    tasks["ones"]["system"] = "be long"
    with pytest.raises(UsageError, match="give text.system_prompt"):
        assert Mixture(tasks=tasks).system_prompt


BAD = {
    "no tasks": ({}, "a mixture is of 1 to 64 tasks"),
    "a weight of nothing": ({"a": {"name": "gsm8k", "weight": 0}}, "task.tasks.a.weight = 0: a weight is a number"),
    "a weight in words": ({"a": {"name": "gsm8k", "weight": "1"}}, "task.tasks.a.weight = '1'"),
    "a mixture in it": ({"a": {"name": "mixture", "tasks": {}}}, "task.tasks.a.name = 'mixture'"),
    "no name": ({"a": {"path": "x"}}, "task.tasks.a.name = None"),
    "an unknown name": ({"a": {"name": "gsmk8"}}, "did you mean 'gsm8k'"),
    "a toy task": ({"a": {"name": "token_reversal"}}, "is not a task in words"),
    "an unknown option": ({"a": {"name": "gsm8k", "pth": "x"}}, "did you mean 'path'"),
    "an option's type": ({"a": {"name": "gsm8k", "path": 3}}, "task.tasks.a.path = 3"),
    "a name for no metric": ({"a/b": {"name": "gsm8k"}}, "give it another name"),
}


@pytest.mark.parametrize(("tasks", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_no_mixture_is_refused(tasks, words):
    with pytest.raises(UsageError) as error:
        build_text_task("mixture", {"tasks": tasks})
    assert words in str(error.value)


def test_what_a_task_refuses_later_the_mixture_does(tasks):
    tasks["twos"]["path"] = "nowhere.jsonl"
    with pytest.raises(UsageError, match="there is no such file"):
        Mixture(tasks=tasks).check()
