"""Failed groups on disk: readable, bounded, counted, and never the reason why a run ends."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from tpo_dist import quarantine
from tpo_dist.quarantine import GroupFailure, shorten, write_quarantine

RECORD = {
    "prompt": [1, 0],
    "candidates": [[1, 1], [0]],
    "greedy": None,
    "snapshot_version": 3,
    "snapshot_digest": "a" * 32,
}


def failure(draw, cause="scorer raised ValueError"):
    return GroupFailure(draw=draw, cause=cause, detail="Traceback\n  line\nValueError: 'ü'", record=RECORD)


def names(folder):
    return sorted(path.name for path in (folder / "quarantine").iterdir() if not path.name.startswith("."))


def test_a_failure_is_one_file_that_people_and_programs_read(tmp_path):
    path = write_quarantine(tmp_path, failure(12))
    assert path == tmp_path / "quarantine" / "draw-0000000012.json"
    assert json.loads(path.read_text()) == {
        "draw": 12,
        "cause": "scorer raised ValueError",
        "detail": ["Traceback", "  line", "ValueError: 'ü'"],
        **RECORD,
    }
    assert '    "  line",\n' in path.read_text()
    assert "    [1, 1],\n" in path.read_text()
    assert '  "prompt": [1, 0],\n' in path.read_text()


def test_only_the_first_warns(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        for draw in (5, 6, 7):
            write_quarantine(tmp_path, failure(draw))
    [record] = caplog.records
    assert "draw 5 failed (scorer raised ValueError)" in record.getMessage()
    assert "draw-0000000005.json" in record.getMessage()


def test_the_first_draws_are_kept_and_the_rest_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "KEPT", 3)
    kept = [write_quarantine(tmp_path, failure(draw)) for draw in (9, 8, 7, 6, 9, 5)]
    assert [path is not None for path in kept] == [True, True, True, False, True, False]
    write_quarantine(tmp_path, failure(4, "score is not finite"))
    assert names(tmp_path) == [*(f"draw-000000000{draw}.json" for draw in (7, 8, 9)), "more.json"]
    assert json.loads((tmp_path / "quarantine" / "more.json").read_text()) == {
        "failures": 3,
        "by_cause": {"scorer raised ValueError": 2, "score is not finite": 1},
    }


def test_who_writes_at_once_loses_no_count(tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "KEPT", 5)
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda draw: write_quarantine(tmp_path, failure(draw)), range(80)))
    assert sum(path is not None for path in kept) == 5
    assert json.loads((tmp_path / "quarantine" / "more.json").read_text())["failures"] == 75


@pytest.mark.parametrize("damage", ["a file in its place", "more.json is torn"])
def test_a_disk_that_does_not_take_it_costs_the_file_only(damage, tmp_path, monkeypatch, caplog):
    if damage == "a file in its place":
        (tmp_path / "quarantine").write_text("")
    else:
        monkeypatch.setattr(quarantine, "KEPT", 0)
        (tmp_path / "quarantine").mkdir()
        (tmp_path / "quarantine" / "more.json").write_text("{")
    assert write_quarantine(tmp_path, failure(1)) is None
    assert "the failed group of draw 1 (scorer raised ValueError) is not kept" in caplog.text


def test_long_texts_keep_their_start_and_their_end():
    text = "".join(f"{number:06d}" for number in range(2000))
    short = shorten(text)
    assert short.startswith(text[:2000])
    assert short.endswith(text[-2000:])
    assert "8000 characters left out" in short
    assert len(short) < 4100
    assert shorten(text[:4000]) == text[:4000]
