"""`tpo-dist ledger` for people and for programs."""

import asyncio
import json

import pytest

from tests.cli.run_cli import call
from tests.test_ledger import CONFIG, make_stream, train
from tpo_dist.blocks import BlockSummary, Event, Failure
from tpo_dist.ledger import Ledger

BAD = BlockSummary(groups=3, failures=(Failure(draw=6, cause="scorer: KeyError", detail="'x'"),))


@pytest.fixture
def run(tmp_path):
    """A run's folder and its open ledger: two steps trained, one block in flight."""
    folder = tmp_path / "runs" / "t-1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with Ledger.open(folder / "ledger.db") as ledger:
        ledger.begin_session(CONFIG, 0)
        stream = make_stream(ledger)
        asyncio.run(train(stream, 0, 2, {1: BAD}))
        asyncio.run(stream.publish(2, "d2"))
        stream.try_lease("rollout-1")
        yield folder, ledger


def test_people_see_counts_and_what_is_waited_for(run, monkeypatch, capsys):
    folder, _ = run
    code, out, err = call(monkeypatch, capsys, "ledger", "t-1", "--runs-dir", folder.parent)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["trained", "15", "4"] in lines
    assert ["in", "flight", "4", "1"] in lines
    assert ["failed", "1", "0"] in lines
    assert "failures    scorer: KeyError: 1" in out
    assert "under way   block 4: in flight for" in out
    assert "s, with rollout-1" in out
    assert out.rstrip().endswith("clean: each draw is in exactly one state")


def test_programs_get_one_object(run, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "ledger", run[0], "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["clean"], found["complete"], found["steps"]) == (True, False, 2)
    assert found["draws"] == {"queued": 0, "in flight": 4, "ready": 0, "taken": 0, "trained": 15, "failed": 1}
    assert found["waiting"][0]["worker"] == "rollout-1"


def test_a_ledger_that_is_not_clean_ends_with_1_and_says_why(run, monkeypatch, capsys):
    run[1].write([Event("leased", 9, version=2, worker="a")])
    code, out, _ = call(monkeypatch, capsys, "ledger", run[0])
    assert code == 1
    assert "gaps        draws 20, 21, 22, 23, 24, 25, 26, 27, 28, 29 and 6 more" in out
    assert "problem     the ledger contradicts itself in row" in out
    assert out.rstrip().endswith("NOT CLEAN")
    code, out, _ = call(monkeypatch, capsys, "ledger", run[0], "--json")
    assert code == 1
    assert json.loads(out)["gaps"][0] == 20


def test_what_was_dropped_for_its_age_is_shown_by_length_and_reward(run, monkeypatch, capsys):
    for block, length, reward in ((4, 8.0, 0.0), (5, 15.5, 0.0), (6, 99.0, -0.5)):
        told = BlockSummary(groups=4, prompt_length=length, reward=reward).to_json()
        if block > 4:
            run[1].write([Event("leased", block, version=2, worker="a")])
        run[1].write([Event("ready", block, version=2, detail=told), Event("dropped", block, detail="too old")])
    code, out, _ = call(monkeypatch, capsys, "ledger", run[0])
    assert code == 0
    assert "dropped     by prompt length: 8 of 8-15, 4 of 64-127" in out
    assert "            by mean reward: 4 of -0.5, 8 of 0" in out
    code, out, _ = call(monkeypatch, capsys, "ledger", run[0], "--json")
    found = json.loads(out)
    assert found["dropped_by_length"] == {"8-15": 8, "64-127": 4}
    assert found["failures"]["dropped"] == 12


def test_one_draw_s_story(run, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "ledger", run[0], "--draw", 6)
    assert code == 0
    first, *lines, last = out.splitlines()
    assert first == "draw 6, in block 1, to which this happened:"
    assert last == "draw 6: failed, scorer: KeyError"
    assert [line.split()[2] for line in lines] == ["leased", "ready", "taken", "trained"]
    assert "worker a" in lines[0]
    assert "scorer: KeyError" in lines[1]
    code, out, _ = call(monkeypatch, capsys, "ledger", run[0], "--draw", 6, "--json")
    told = json.loads(out)
    assert (told["draw"], told["block"]) == (6, 1)
    assert (told["state"], told["cause"]) == ("failed", "scorer: KeyError")
    assert told["events"][1]["detail"]["failure"] == ["scorer: KeyError", "'x'"]
    assert told["events"][2]["step"] == 0


def test_a_draw_is_not_told_of_what_happened_to_others_of_its_block(run, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "ledger", run[0], "--draw", 5)
    assert code == 0
    assert "KeyError" not in out
    assert out.splitlines()[-1] == "draw 5: trained"
    code, out, _ = call(monkeypatch, capsys, "ledger", run[0], "--draw", 17, "--json")
    assert (json.loads(out)["state"], json.loads(out)["cause"]) == ("in flight", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "ledger nowhere: there is no such run. Fix: the newest here is t-1"),
        (("t-1", "--draw", "4000"), "--draw 4000: that draw was not given out"),
        (("t-2",), "t-2/ledger.db: there is no ledger"),
    ],
)
def test_mistakes_are_one_line(arguments, message, run, monkeypatch, capsys):
    if arguments == ("t-2",):
        (run[0].parent / "t-2").mkdir()
        (run[0].parent / "t-2" / "config.json").write_text("{}")
    code, out, err = call(monkeypatch, capsys, "ledger", *arguments, "--runs-dir", run[0].parent)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
