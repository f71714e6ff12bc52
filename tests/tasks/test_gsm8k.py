"""GSM8K: what the scorer must not be talked into; and the real data, where TPO_DIST_GSM8K names its folder."""

import json
import os
from pathlib import Path

import pytest

from tpo_dist.errors import UsageError
from tpo_dist.tasks import GSM8K

REAL = Path(os.environ.get("TPO_DIST_GSM8K", "no-such-folder"))
ROW = {"question": "How many eggs?", "answer": "16 - 3 - 4 = <<16-3-4=9>>9\nShe makes 9 * 2 = 18.\n#### 1,018"}


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 5), ("test", 2)):
        rows = [{**ROW, "question": f"{split} {n}: {ROW['question']}"} for n in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_questions_end_with_the_instruction(folder):
    made = GSM8K(path=str(folder))
    made.check()
    question = made.question(0, 0)
    assert question.prompt.startswith("train ")
    assert question.prompt.endswith(f"How many eggs? {GSM8K.__dataclass_fields__['instruction'].default}")
    assert question.source == "gsm8k"
    assert made.held_out(1).prompt.startswith("test 1")
    assert GSM8K(path=str(folder), instruction="").question(0, 0).prompt.endswith("eggs?")


RIGHT, WRONG = 1.0, 0.0
ANSWERS = [  # completion, marker, flexible
    ("#### 1018", RIGHT, RIGHT),
    ("so #### $1,018.00", RIGHT, RIGHT),
    ("it is 1018", WRONG, RIGHT),
    (r"\boxed{1018} since 3", WRONG, RIGHT),
    ("#### 1018 or 1019", WRONG, WRONG),
    ("#### 1 2 3 1018", WRONG, RIGHT),  # the last number: still a single guess
    ("#### 1017 #### 1018", RIGHT, RIGHT),
    ("#### 1018 #### 1017", WRONG, WRONG),
    ("".join(f"#### {n}\n" for n in range(2000)), WRONG, WRONG),
    (" ".join(map(str, range(2000))), WRONG, WRONG),
    ("#### 1018e0", WRONG, WRONG),
    ("#### １０１８", WRONG, WRONG),
    ("####", WRONG, WRONG),
    ("", WRONG, WRONG),
    ("   \n\t ", WRONG, WRONG),
    ("\x00", WRONG, WRONG),
    ("\ud800 #### 1018", RIGHT, RIGHT),
    ("9" * 100_000, WRONG, WRONG),
]


@pytest.mark.parametrize(("completion", "marker", "flexible"), ANSWERS)
def test_one_answer_counts(completion, marker, flexible, folder):
    for accept, expected in (("marker", marker), ("flexible", flexible)):
        made = GSM8K(path=str(folder), accept=accept)
        assert made.score(made.question(0, 0), completion) == expected, accept


MATHEMATICS = [
    ("#### 1018", RIGHT),
    ("#### +1018", RIGHT),
    (r"#### \$1,018", RIGHT),
    ("#### 1018 dollars." + " It is so." * 50, RIGHT),
    ("so −1018", WRONG),
    (r"so \boxed{1018}", RIGHT),
    (r"$\frac{2036}{2}$", RIGHT),
    (r"\boxed{1017} or \boxed{1018}", WRONG),
    (r"\boxed{1017, 1018}", WRONG),
    ("1018 it may be, or 1019", WRONG),
    ("", WRONG),
    ("no number", WRONG),
]


@pytest.mark.parametrize(("completion", "expected"), MATHEMATICS)
def test_mathematics_that_comes_to_the_same(completion, expected, folder):
    pytest.importorskip("math_verify")
    made = GSM8K(path=str(folder), accept="math")
    assert made.score(made.question(0, 0), completion) == expected


def test_a_row_without_an_answer_is_refused(folder):
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"question": "?", "answer": "eighteen"}) + "\n")
    with pytest.raises(UsageError, match="row 6 of train: its answer has no number behind ####"):
        GSM8K(path=str(folder)).check()


def test_a_folder_without_the_data_is_refused(tmp_path):
    with pytest.raises(UsageError, match="this folder has none of train.jsonl"):
        GSM8K(path=str(tmp_path)).check()


@pytest.mark.skipif(not REAL.is_dir(), reason="TPO_DIST_GSM8K names no folder with the data")
def test_the_real_data():
    made = GSM8K(path=str(REAL))
    made.check()
    assert (made.question_count(), made.held_out_count()) == (7473, 1319)
    assert made.held_out(0).answer == 18
    assert len({made.question(0, draw).prompt for draw in range(7473)}) == 7473
    flexible = GSM8K(path=str(REAL), accept="flexible")
    for index in range(0, 1319, 13):  # the data's own solutions are right
        question, solution = made.held_out(index), _solution(index)
        assert made.score(question, solution) == flexible.score(question, solution) == 1.0


def _solution(index):
    return json.loads((REAL / "test.jsonl").read_text().splitlines()[index])["answer"]
