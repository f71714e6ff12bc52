"""A user's own questions: files of all kinds, their order, what is held out, and what is no question."""

import asyncio
import json
from pathlib import Path

import pytest

from tpo_dist.errors import UsageError
from tpo_dist.tasks import TextRows
from tpo_dist.tasks.rewards import Judge
from tpo_dist.tasks.rows import load_rows, shuffled

SCORER = f"{Path(__file__).with_name('scorers.py')}:right"
ROWS = [{"prompt": f"what is {n}?", "answer": str(n), "level": n % 3} for n in range(12)]


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def task(path, **options):
    return TextRows(path=str(path), scorer=SCORER, **options)


def test_every_row_is_asked_once_in_an_epoch_in_another_order_each(tmp_path):
    made = task(write(tmp_path / "rows.jsonl"))
    made.check()
    epochs = [[made.question(5, draw).prompt for draw in range(12 * e, 12 * e + 12)] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(row["prompt"] for row in ROWS)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert made.question(5, 7).prompt == epochs[0][7]
    assert [made.question(6, draw).prompt for draw in range(12)] != epochs[0]
    assert made.question_count() == 12


def test_the_order_is_pinned():
    """It belongs to the runs that people resume and replay."""
    assert [shuffled(0, draw, 6) for draw in range(12)] == PINNED


PINNED = [5, 4, 0, 3, 2, 1, 2, 5, 0, 3, 4, 1]


def test_rows_that_are_held_out_are_never_trained_on(tmp_path):
    made = task(write(tmp_path / "rows.jsonl"), held_out_rows=4)
    made.check()
    asked = {made.question(0, draw).prompt for draw in range(100)}
    held = [made.held_out(index).prompt for index in range(4)]
    assert asked == {row["prompt"] for row in ROWS[:8]}
    assert held == [row["prompt"] for row in ROWS[8:]]
    assert (made.question_count(), made.held_out_count()) == (8, 4)
    with pytest.raises(UsageError, match="this task has 4 held-out questions"):
        made.held_out(4)


def test_a_folder_has_a_file_for_each_split(tmp_path):
    write(tmp_path / "train.jsonl")
    write(tmp_path / "test.jsonl", ROWS[:2])
    made = task(tmp_path, held_out_split="test")
    made.check()
    assert made.held_out(1).prompt == "what is 1?"
    with pytest.raises(UsageError, match="none of dev.jsonl, dev.json"):
        task(tmp_path, split="dev").check()


@pytest.mark.parametrize("folder", ["plain", "with[brackets]"])
def test_files_of_all_kinds_hold_the_same_rows(folder, tmp_path):
    import polars

    tmp_path = tmp_path / folder
    tmp_path.mkdir()
    write(tmp_path / "rows.jsonl")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    polars.DataFrame(ROWS).write_parquet(tmp_path / "rows.parquet")
    for ending in ("jsonl", "json", "parquet"):
        rows = load_rows(str(tmp_path / f"rows.{ending}"), "train", ("prompt",))
        assert list(rows) == ROWS, ending
    polars.DataFrame(ROWS).write_csv(tmp_path / "rows.csv")
    assert load_rows(str(tmp_path / "rows.csv"), "train", ("prompt",), ("prompt",))[3] == {"prompt": "what is 3?"}


def test_a_hub_s_data_set_is_read_by_name(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    calls = []

    def load_dataset(*arguments, **options):
        calls.append((arguments, options))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    made = task("somebody/questions", subset="easy")
    made.check()
    assert made.question_count() == 12
    assert calls == [(("somebody/questions", "easy"), {"split": "train"})]


def test_the_scorer_gets_prompt_completion_and_answer(tmp_path):
    path = write(tmp_path / "rows.jsonl")
    made = task(path)
    assert asyncio.run(Judge(made).grade(made.question(0, 0), made.question(0, 0).answer)).score == 1.0
    assert asyncio.run(Judge(made).grade(made.question(0, 0), "no")).score == 0.0
    whole = task(path, answer_field=None)
    assert whole.question(0, 0).answer in ROWS


def test_a_prompt_may_be_messages(tmp_path):
    said = (("user", "hello"), ("assistant", "yes?"), ("user", "what is 2 + 2?"))
    messages = [{"role": role, "content": content} for role, content in said]
    made = task(write(tmp_path / "rows.jsonl", [{"prompt": messages, "answer": 1}]))
    made.check()
    assert made.question(0, 0).prompt == tuple(messages)


def test_a_scorer_s_file_is_named_by_its_whole_path(tmp_path, monkeypatch):
    write(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("async def score(prompt, completion, answer):\n    return 1.0\n")
    made = TextRows(path="rows.jsonl", scorer="mine.py:score", rewards={"task": 1.0, "mine.py:score": 1.0})
    assert made.path == str(tmp_path / "rows.jsonl")
    assert made.scorer == f"{tmp_path / 'mine.py'}:score"
    assert list(made.rewards) == ["task", made.scorer]
    assert made.awaits()


BAD_FILES = {
    "no rows": ("", "has no rows"),
    "a torn line": ('{"prompt": "a", "answer": 1}\n{"prompt": ', "line 2: is not JSON"),
    "a list": ("[1]\n", "line 1: does not hold objects"),
    "no answer": ('{"prompt": "a", "answr": 1}\n', "row 1 of train: has no field 'answer'. Fix: did you mean 'answr'"),
    "no prompt": ('{"prompt": "a", "answer": 1}\n{"answer": 1}\n', "row 2 of train: has no field 'prompt'"),
    "an empty answer": ('{"prompt": "a", "answer": null}\n', "has no field 'answer'"),
    "an empty prompt": ('{"prompt": "  ", "answer": 1}\n', "row 1, field 'prompt': is a str that asks nothing"),
    "a number": ('{"prompt": 7, "answer": 1}\n', "is a int that asks nothing"),
    "a message without content": ('{"prompt": [{"role": "user"}], "answer": 1}\n', "a message without content"),
    "an answer that is there": (
        '{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "answer": 1}\n',
        "row 1, field 'prompt': ends with what the assistant said",
    ),
    "an unknown role": ('{"prompt": [{"role": "boss", "content": "a"}], "answer": 1}\n', "a message of role 'boss'"),
    "nesting": ('{"prompt": ' + "[" * 100_000 + "\n", "line 1: is not JSON"),
}


@pytest.mark.parametrize(("text", "words"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_holds_no_questions_is_refused(text, words, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        task(path).check()
    assert words in str(error.value)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        task(tmp_path / "nothing.jsonl").check()
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UsageError, match="cannot be read"):
        task(tmp_path / "rows.parquet").check()
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UsageError, match="cannot be read"):
        task(tmp_path / "rows.jsonl").check()


def test_options_that_contradict_each_other_are_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl")
    with pytest.raises(UsageError, match="give one of the two"):
        task(path, held_out_rows=1, held_out_split="test")
    with pytest.raises(UsageError, match="rows.jsonl is one file, of which all rows would be trained on and held out"):
        task(path, held_out_split="test").check()  # it has no splits
    (tmp_path / "train.jsonl").write_text(path.read_text())
    with pytest.raises(UsageError, match=r"held_out_split = 'train': these rows are trained on"):
        task(tmp_path, held_out_split="train").check()
    with pytest.raises(UsageError, match="give 0 or more"):
        task(path, held_out_rows=-1)
    with pytest.raises(UsageError, match="none would be left to train on"):
        task(path, held_out_rows=12).check()
