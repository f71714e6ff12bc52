"""Evaluation: what held-out questions come to, by hand and by counting."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from tests.rollout.test_text_task import Reciting, padded, tokenized
from tests.tiny import tiny_model
from tpo_dist.config import EvaluationConfig
from tpo_dist.evaluation import evaluate, pass_at
from tpo_dist.metrics import values
from tpo_dist.records import Snapshot, StopReason
from tpo_dist.rollout.contract import Candidates
from tpo_dist.tasks import Defect
from tpo_dist.tasks.text import HELD_OUT

SCORERS = Path(__file__).parents[1] / "tasks" / "scorers.py"


def test_pass_at_k_is_the_chance_that_one_of_k_drawn_is_right():
    for samples, solved in ((4, 0), (4, 1), (5, 2), (6, 6)):
        right = [True] * solved + [False] * (samples - solved)
        for k in range(1, samples + 1):
            draws = list(itertools.combinations(right, k))
            assert pass_at(k, samples, solved) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"what is {n}?", "answer": str(n)}) + "\n" for n in range(30)))
    return path


class Loading(Reciting):
    """Knows its version only once it has loaded a snapshot."""

    version, digest = None, ""

    def load(self, snapshot):
        self.version, self.digest = snapshot.version, snapshot.digest


def test_questions_are_counted_by_what_became_of_them(folder, rows):
    task = tokenized(folder, rows, held_out_rows=20)

    def say(draw):
        index = draw - HELD_OUT
        right = task.words.held_out(index).answer
        return {0: [right] * 4, 1: [right, "no", "no", "no"], 2: ["none", "x", "x", "x"]}.get(index, ["no"] * 4)

    sampler = Loading(task, say)
    snapshot = Snapshot(version=9, arrays={}, digest="e" * 32)
    found = evaluate(sampler, task, EvaluationConfig(questions=18, samples=4, temperature=1.0), snapshot)
    task.close()
    assert found.version == 9
    assert [each.index for each in found.questions] == list(range(18))
    assert isinstance(found.questions[2].grades, Defect)
    assert found.questions[1].solved == (True, False, False, False)
    assert found.questions[1].words["question"] == task.words.held_out(1).prompt
    numbers = values(found.metrics)
    assert numbers["eval/score"] == pytest.approx(5 / (17 * 4))
    assert numbers["eval/pass@1"] == pytest.approx(1.25 / 17)
    assert numbers["eval/pass@2"] == pytest.approx(1.5 / 17)
    assert numbers["eval/pass@4"] == pytest.approx(2 / 17)
    assert (numbers["eval/questions"], numbers["eval/failed"]) == (18, 1)
    assert numbers["eval/length_max"] == max(max(each.lengths) for each in found.questions)
    assert numbers["eval/cut_off"] == 0
    assert not [name for name in numbers if name.endswith("/text")]


def test_no_more_questions_than_there_are(folder, rows):
    task = tokenized(folder, rows, held_out_rows=3)
    found = evaluate(Reciting(task, lambda draw: ["no"]), task, EvaluationConfig(questions=64))
    task.close()
    assert len(found.questions) == 3
    assert found.version == Reciting.version
    assert "eval/pass@1" in found.metrics
    assert "eval/pass@2" not in found.metrics


def test_what_is_solved_is_the_task_s_own_word(folder, rows):
    """However little another reward leaves of the score."""
    task = tokenized(folder, rows, held_out_rows=2, rewards={"task": 1.0, "answer_tag": 3.0})
    sampler = Reciting(task, lambda draw: [task.words.held_out(draw - HELD_OUT).answer, "<answer>x</answer>"])
    found = evaluate(sampler, task, EvaluationConfig(questions=2, samples=2, temperature=1.0))
    task.close()
    assert found.questions[0].solved == (True, False)
    assert values(found.metrics)["eval/pass@1"] == 0.5
    assert values(found.metrics)["eval/score"] == pytest.approx(0.5)


def test_the_sources_of_a_mixture_are_told_apart(folder, rows, tmp_path):
    from tpo_dist.config import ScoringConfig, TextConfig
    from tpo_dist.policies.tokenizer import load_tokenizer
    from tpo_dist.rollout.scorer_pool import ScorerPool
    from tpo_dist.rollout.text_task import TokenizedTask
    from tpo_dist.tasks import build_text_task

    one = {"name": "text", "path": str(rows), "scorer": f"{SCORERS}:right", "held_out_rows": 4}
    options = {"tasks": {"a": one, "b": {**one, "answer_field": "prompt"}}}
    pool = ScorerPool("mixture", options, 0, ScoringConfig())
    task = TokenizedTask(build_text_task("mixture", options), load_tokenizer(str(folder)), TextConfig(), 0, pool)
    sampler = Reciting(task, lambda draw: [str(26 + (draw - HELD_OUT) // 2)])
    numbers = values(evaluate(sampler, task, EvaluationConfig(questions=6)).metrics)
    task.close()
    assert (numbers["eval/pass@1"], numbers["eval/pass@1/a"], numbers["eval/pass@1/b"]) == (0.5, 1.0, 0.0)
    assert (numbers["eval/questions/a"], numbers["eval/questions/b"]) == (3, 3)


def test_completions_that_reached_the_limit_are_counted(folder, rows):
    task = tokenized(folder, rows, held_out_rows=4)

    class Cut(Reciting):
        def sample(self, prompts, group_size):
            tokens, lengths = padded(self._task.tokenizer, [["abc", "d"]] * len(prompts.ids))
            stops = np.array([[StopReason.LENGTH, StopReason.STOP]] * len(lengths), dtype=np.int8)
            logps = np.zeros(tokens.shape, dtype=np.float32)
            return Candidates(tokens_GKT=tokens, lengths_GK=lengths, logps_GKT=logps, stop_reasons_GK=stops)

    numbers = values(evaluate(Cut(task, None), task, EvaluationConfig(questions=2, samples=2, temperature=1.0)).metrics)
    task.close()
    assert numbers["eval/cut_off"] == 0.5
    assert (numbers["eval/length"], numbers["eval/length_max"]) == (3.0, 4.0)
