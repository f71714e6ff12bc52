"""The record of groups: what it says, where it is cut off, and that it never outgrows its bound."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import tiny_model
from tpo_dist.learner.sample import GroupSample
from tpo_dist.policies.tokenizer import load_tokenizer
from tpo_dist.programs import legible, local
from tpo_dist.programs.group_log import GROUPS, GroupLog
from tpo_dist.programs.job import configure
from tpo_dist.programs.legible import Reader
from tpo_dist.programs.recorder import Recorder
from tpo_dist.programs.run import StepReport, create_run, resume_run
from tpo_dist.report.groups import parse


def sample(draw=0, **changes):
    fields = {
        "draw": draw,
        "version": 3,
        "staleness": 1,
        "source": None,
        "position": None,
        "prompt": np.array([0, 1, 1, 0], np.int32),
        "tokens_KT": np.array([[0, 1, 1, 0], [1, 1, 1, 1]], np.int32),
        "lengths_K": np.array([4, 4], np.int32),
        "scores_K": np.array([1, 0], np.float32),
        "stops_K": np.array([2, 2], np.int8),
        "logps_old_K": np.array([-2, -3], np.float32),
        "logps_after_K": np.array([-1, -4], np.float32),
        "p_old_K": np.array([0.75, 0.25], np.float32),
        "p_after_K": np.array([0.875, 0.125], np.float32),
        "target_K": np.array([0.9, 0.1], np.float32),
        "advantages_K": None,
        "zero_variance": False,
    }
    return GroupSample(**{**fields, **changes})


def rows(folder):
    lines = (folder / GROUPS).read_text().splitlines()
    return json.loads(lines[0]), [json.loads(line) for line in lines[1:]]


def trained(run):
    recorder = Recorder(run)
    for report in local.train(run):
        recorder.record(report)
    recorder.finish("completed")


def test_a_run_keeps_groups_and_a_resumed_one_keeps_the_same(small_config):
    overrides = "steps=10", "log.groups=2", "log.groups_every=3", "checkpoint.every_steps=4"
    whole, broken = create_run(small_config(*overrides)), create_run(small_config(*overrides))
    trained(whole)
    recorder = Recorder(broken)
    for report in local.train(broken):
        recorder.record(report)
        if report.step == 7:  # killed: step 4 has the newest checkpoint, steps 5 to 7 come again
            break
    recorder.close()
    with (broken.folder / GROUPS).open("a") as file:
        file.write('{"step": 7, "draw": 99, "so')
    trained(resume_run(str(broken.folder), [], ""))
    head, found = rows(whole.folder)
    assert head == {"format": 1, "every": 1}
    assert [row["step"] for row in found] == [1, 1, 4, 4, 7, 7, 10, 10]
    assert rows(broken.folder) == (head, found)
    first = found[0]
    assert first["prompt"].split() == first["answer"].split()[::-1]
    right = [text == first["answer"] for text in first["texts"]]
    assert right == [score == 1 for score in first["scores"]]
    assert first["source"] == "token_reversal"
    moved = sum(abs(q - p) for q, p in zip(first["q"], first["p_old"], strict=True))
    assert first["distance"] == pytest.approx(moved, abs=1e-5)


def test_what_comes_after_a_checkpoint_goes_when_the_learner_goes_back(small_config):
    run = create_run(small_config())
    recorder = Recorder(run)
    for step, draw in ((1, 0), (2, 1), (3, 2), (2, 7)):
        recorder.record(StepReport(step, {}, 0.1, None, None, (sample(draw),)))
    recorder.close()
    assert [(row["step"], row["draw"]) for row in rows(run.folder)[1]] == [(1, 0), (2, 7)]


def test_it_is_thinned_out_before_it_outgrows_its_bound(small_config, tmp_path):
    log = GroupLog(tmp_path, Reader(small_config()), 20_000)
    for step in range(1, 301):
        log.write(step, (sample(step),))
        assert (tmp_path / GROUPS).stat().st_size <= 20_000
    log.close()
    head, found = rows(tmp_path)
    assert head["every"] > 4
    assert [row["step"] for row in found] == list(range(1, 301, head["every"]))
    again = GroupLog(tmp_path, Reader(small_config()), 20_000)
    again.go_back(200)
    again.write(201, (sample(201),))
    again.write(202, (sample(202),))
    again.close()
    kept = [row["step"] for row in rows(tmp_path)[1]]
    assert kept == [step for step in range(1, 203) if (step - 1) % head["every"] == 0]


def test_a_disk_that_is_full_costs_the_groups_and_not_the_run(small_config, tmp_path, caplog):
    (tmp_path / GROUPS).mkdir()
    log = GroupLog(tmp_path, Reader(small_config()), 10**6)
    with caplog.at_level(logging.WARNING):
        log.write(1, (sample(),))
        log.write(2, (sample(),))
    log.close()
    assert len(caplog.records) == 1
    assert "the run goes on without" in caplog.text


def test_tasks_of_contexts_read_as_words():
    one = {"tokens_KT": np.array([[2], [1]], np.int32), "lengths_K": np.array([1, 1], np.int32)}
    group = sample(prompt=np.array([7], np.int32), **one)
    row = Reader(configure({}, ("task.name=tabular_bandit", "policy.name=tabular"))).row(1, group)
    assert (row["prompt"], row["texts"]) == ("context 7", ["arm 2", "arm 1"])
    assert row["answer"].startswith("arm ")
    row = Reader(configure({}, ("task.name=digit_bandit", "policy.name=mlp"))).row(1, group)
    title, *drawn = row["prompt"].splitlines()
    assert title == "image 7"
    assert [len(line) for line in drawn] == [16] * 8
    assert row["texts"] == ["2", "1"]


def test_tasks_in_words_read_as_their_words(tmp_path):
    model = tiny_model(tmp_path / "model")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "what is 2 + 2?", "answer": "4"}) + "\n")
    scorer = f"{Path(__file__).parents[1] / 'tasks' / 'scorers.py'}:troubled"
    task = ("task.name=text", f"task.path={path}", f"task.scorer={scorer}")
    config = configure({}, (*task, "policy.name=causal_lm", f"policy.path={model}", "sampler.name=transformers"))
    ids = [load_tokenizer(str(model)).tokenizer(text).input_ids for text in ("<b>four</b>", "5")]
    tokens = np.zeros((2, max(map(len, ids))), np.int32)
    for row, each in enumerate(ids):
        tokens[row, : len(each)] = each
    lengths = np.array([len(each) for each in ids], np.int32)
    row = Reader(config).row(1, sample(tokens_KT=tokens, lengths_K=lengths, source="text", stops_K=np.array([1, 0])))
    assert (row["prompt"], row["answer"], row["source"]) == ("what is 2 + 2?", "4", "text")
    assert (row["texts"], row["stops"]) == (["<b>four</b>", "5"], ["stop", "length"])
    assert parse(json.dumps(row).encode()) is not None


def test_a_task_that_cannot_say_what_a_group_reads_costs_its_words_alone(small_config, monkeypatch, caplog):
    def lost(config):
        raise OSError("the data is gone")

    monkeypatch.setattr(legible, "make_task", lost)
    reader = Reader(small_config())
    found = [reader.row(step, sample(logps_after_K=np.array([np.nan, -1], np.float32))) for step in (1, 2)]
    assert found[0]["texts"] == ["0 1 1 0", "1 1 1 1"]
    assert found[0]["logps_after"] == [None, -1.0]
    assert len(caplog.records) == 1


def test_a_long_text_keeps_its_start_and_its_end(small_config):
    long = np.tile(np.array([0, 1], np.int32), 30_000)
    row = Reader(small_config()).row(1, sample(tokens_KT=np.stack([long, long]), lengths_K=np.array([60_000] * 2)))
    assert len(row["texts"][0]) < legible.LONGEST + 100
    assert "characters left out" in row["texts"][0]
