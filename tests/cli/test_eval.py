"""`tpo-dist eval` as a user runs it: a run's weights and a model's, and what cannot be evaluated."""

import json

import pytest

from tests.cli.run_cli import call
from tests.conftest import SMALL
from tests.tiny import tiny_model

JOB = """
name: t
steps: 2
policy: {name: causal_lm, path: model, lora_rank: 2}
sampler: {name: transformers}
task: {name: text, path: rows.jsonl, scorer: "scorer.py:score", held_out_rows: 5}
objective: {name: tpo, group_distribution: ratio}
rollout: {groups_per_step: 4, group_size: 4, workers: 1}
learner: {optimizer: {name: adamw, lr: 1e-2}}
stream: {max_staleness: 0}
checkpoint: {every_steps: 1}
text: {max_prompt_tokens: 100, max_completion_tokens: 8}
log: {sinks: [], plot: false}
evaluation: {every_steps: 2, questions: 5}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, a job, and a run of it."""
    pytest.importorskip("peft")
    place = tmp_path_factory.mktemp("place")
    tiny_model(place / "model", spread=0.2)
    rows = [{"prompt": f"what is {n}?", "answer": str(n)} for n in range(12)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "scorer.py").write_text("def score(prompt, completion, answer):\n    return len(completion) % 2\n")
    (place / "job.yaml").write_text(JOB)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        from tpo_dist.programs.job import load_job
        from tpo_dist.programs.local import train
        from tpo_dist.programs.run import create_run

        run = create_run(load_job(place / "job.yaml"))
        assert len(list(train(run))) == 2
    return place


@pytest.fixture
def evaluated(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    def run(*arguments):
        code, out, err = call(monkeypatch, capsys, "eval", *arguments)
        return code, out, err

    return run


def test_a_run_evaluates_its_first_weights_and_its_last(place):
    [folder] = (place / "runs").iterdir()
    rows = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2]
    assert {row["eval/questions"] for row in rows} == {5}


def test_a_run_s_newest_weights_answer(place, evaluated):
    [folder] = (place / "runs").iterdir()
    code, out, err = evaluated(folder.name, "--json", "evaluation.questions=5")
    assert code == 0, err
    told = json.loads(out)
    assert (told["version"], told["questions"], told["samples"], told["temperature"]) == (2, 5, 1, 0.0)
    assert {"eval/score", "eval/pass@1", "eval/length", "eval/cut_off", "eval/failed"} <= told["metrics"].keys()
    assert told["metrics"]["eval/failed"] == 0
    code, out, _ = evaluated(folder.name, "--json", "evaluation.questions=5", "--step", "1")
    assert (code, json.loads(out)["version"]) == (0, 1)


def test_answers_are_shown_and_written(place, evaluated, tmp_path):
    [folder] = (place / "runs").iterdir()
    keys = ("evaluation.questions=3", "evaluation.samples=2", "evaluation.temperature=1.0")
    code, out, err = evaluated(folder, *keys, "--show", "1", "--answers", tmp_path / "answers.jsonl")
    assert code == 0, err
    assert out.count("--- question") == 1
    assert out.count("--- completion") == 2
    assert "what is 7?" in out
    assert "pass@2" in out
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert [row["question"] for row in rows] == ["what is 7?", "what is 8?", "what is 9?"]
    for row in rows:
        assert row["scores"] == [len(text) % 2 for text in row["completions"]]


def test_greedy_answers_are_the_same_each_time(evaluated):
    told = [
        json.loads(evaluated("model", "--job", "job.yaml", "--json", "evaluation.questions=5")[1]) for _ in range(2)
    ]
    for each in told:
        del each["metrics"]["eval/seconds"]
    assert told[0] == told[1]
    assert told[0]["version"] == 0


BAD = {
    "no such run": (["nothing"], "there is no such run"),
    "a model without a job": (["model"], "with --job JOB.yaml"),
    "a model at a step": (["model", "--job", "job.yaml", "--step", "3"], "is a model, which has no steps"),
    "a run with a job": (["RUN", "--job", "job.yaml"], "a run has a job of its own"),
    "no such step": (["RUN", "--step", "7"], "the checkpoints of this run are of [1, 2]"),
    "too many questions": (["RUN", "evaluation.questions=6"], "the task has 5 held-out questions"),
    "no questions": (["model", "--job", "job.yaml", "task.held_out_rows=0"], "no held-out questions"),
    "a file that cannot be written": (["RUN", "evaluation.questions=1", "--answers", "model"], "cannot be written"),
    "an unknown key": (["RUN", "evaluation.question=1"], "did you mean 'questions'"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_evaluated_is_refused_in_one_line(place, evaluated, arguments, words):
    [folder] = (place / "runs").iterdir()
    code, _, err = evaluated(*(folder.name if argument == "RUN" else argument for argument in arguments))
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert words in lines[0]


def test_a_run_without_words_is_refused(tmp_path, monkeypatch, capsys):
    job = tmp_path / "job.yaml"
    job.write_text(f"name: t\ntask: {{name: token_reversal}}\nruns_dir: {tmp_path / 'runs'}\n")
    assert call(monkeypatch, capsys, "train", job, *SMALL, "steps=1", "--local", "--json")[0] == 0
    [folder] = (tmp_path / "runs").iterdir()
    code, _, err = call(monkeypatch, capsys, "eval", folder)
    assert code == 2
    assert "its task 'token_reversal' has no held-out questions" in err
