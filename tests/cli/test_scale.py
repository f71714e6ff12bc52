"""`tpo-dist scale` against drivers that obey, refuse, fall silent and die."""

import json
import signal
import threading
import time

import pytest

from tests.cli.drivers import driver, make_run
from tests.cli.run_cli import call, spawn
from tests.processes import wait_for
from tpo_dist.cli.scale import _missing
from tpo_dist.programs.control import RolloutStatus, WorkerStatus, read_status, read_wish, request_rollouts

NAME = "läuft-20261123"


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "runs", NAME)


@pytest.fixture
def scale(folder, monkeypatch, capsys):
    def run(*arguments):
        return call(monkeypatch, capsys, "scale", NAME, "--runs-dir", folder.parent, "--rollouts", *arguments)

    return run


def test_more_and_fewer_and_auto(folder, scale):
    with driver(folder):
        code, out, err = scale(4)
        assert (code, err) == (0, "")
        assert out.splitlines()[0] == f"asked {NAME} for 4 rollout workers; it has 2"
        assert out.splitlines()[-1] == f"{NAME} is as asked: 4 rollout workers"
        workers = read_status(folder).rollouts.workers
        assert sorted(worker.name for worker in workers) == [f"rollout-{number}" for number in range(4)]
        assert all(worker.state == "working" for worker in workers)

        code, out, err = scale(1)
        assert code == 0, err
        assert out.splitlines()[-1] == f"{NAME} is as asked: 1 rollout worker"
        assert [worker.name for worker in read_status(folder).rollouts.workers] == ["rollout-0"]

        code, out, err = scale("auto")
        assert code == 0, err
        assert "follows the learner's idle share" in out
        assert read_status(folder).rollouts.auto


def test_it_says_whom_it_waits_for_and_waits_until_they_are_there(folder, scale):
    with driver(folder):
        _, out, _ = scale(4)
        assert "waiting for rollout-2 (starting, block 3), rollout-3 (starting, block 3)" in out
        _, out, _ = scale(2)
        assert "(retiring, block 3)" in out


@pytest.mark.parametrize(
    ("states", "rollouts", "missing"),
    [
        (["idle", "working"], 2, []),
        (["idle", "working"], "auto", []),
        (["starting", "working"], "auto", []),
        (["idle", "working"], 5, ["room for 3 more"]),
        (["idle", "working", "working"], 1, ["2 to retire"]),
        (["idle", "retiring"], 1, ["w1 (retiring)"]),
        (["idle", "retiring"], 2, ["w1 (retiring)", "room for 1 more"]),
        (["restarting", "starting"], 2, ["w0 (restarting)", "w1 (starting)"]),
    ],
)
def test_who_is_missing(states, rollouts, missing):
    workers = [WorkerStatus(name=f"w{number}", state=state, seconds=1.0) for number, state in enumerate(states)]
    assert _missing(RolloutStatus(wanted=1, alive=1, workers=workers), rollouts) == missing


def test_json_is_one_object_and_nothing_else(folder, scale):
    with driver(folder):
        code, out, err = scale(3, "--json")
    assert (code, err) == (0, "")
    outcome = json.loads(out)
    assert outcome.pop("seconds") > 0
    assert outcome == {
        "run": str(folder), "rollouts": 3, "acknowledged": True, "settled": True, "alive": 3, "waits_for": [],
        "reason": None,
    }  # fmt: skip


def test_without_waiting_it_only_asks(folder, scale):
    with driver(folder, "deaf"):
        code, out, _ = scale(5, "--wait", 0)
    assert (code, out.splitlines()) == (0, [f"asked {NAME} for 5 rollout workers; it has 2"])
    assert read_wish(folder).rollouts == 5


def test_workers_that_find_no_room_are_told_after_the_time(folder, scale):
    with driver(folder, "no-room"):
        code, out, err = scale(4, "--wait", 1, "--json")
    assert code == 1
    outcome = json.loads(out)
    assert (outcome["acknowledged"], outcome["settled"], outcome["alive"]) == (True, False, 3)
    assert outcome["waits_for"] == ["room for 1 more"]
    assert err == "error: after 1 s still waiting for room for 1 more; what was asked stands\n"


def test_a_driver_that_takes_no_note_is_named(folder, scale):
    with driver(folder, "deaf") as process:
        code, _, err = scale(4, "--wait", 0.5)
    assert code == 1
    assert err.startswith(f"error: after 0.5 s still waiting for process {process.pid} on ")
    assert "to take note of it" in err


def test_a_driver_that_is_silent_is_called_so(folder, scale):
    with driver(folder, "frozen", "deaf"):
        code, _, err = scale(4, "--wait", 0.5)
    assert code == 1
    assert ", silent for 60 s, to take note of it" in err


@pytest.mark.parametrize(
    ("behaviour", "words"), [("dies", "killed at step 0"), ("ends", "completed at step 1000 of 1000")]
)
def test_a_run_that_ends_meanwhile_ends_the_wait(folder, scale, behaviour, words):
    with driver(folder, behaviour):
        code, _, err = scale(4, "--wait", 60)
    assert code == 1
    assert err.startswith("error: the run ended meanwhile (")
    assert words in err


def test_a_refusal_is_a_mistake_with_its_reason(folder, scale):
    with driver(folder, "refuses"):
        code, _, err = scale(40)
    assert code == 2
    assert err == "error: --rollouts 40: 40 workers hold 40 blocks and a step has 16. Fix: ask for another number.\n"


def test_the_newest_wish_counts_and_the_other_says_so(folder, scale):
    with driver(folder, "deaf"):
        other = threading.Thread(
            target=lambda: wait_for(lambda: read_wish(folder), "a wish") and request_rollouts(folder, 7)
        )
        other.start()
        code, _, err = scale(4, "--wait", 60)
        other.join()
    assert code == 1
    assert "asked for 7 rollout workers since, which counts" in err


def test_a_run_that_another_process_went_on_with_is_to_be_asked_again(folder, scale):
    with driver(folder, "deaf") as first:

        def replace():
            wait_for(lambda: read_wish(folder), "a wish")
            first.send_signal(signal.SIGSTOP)  # the lock is let go of and taken in one moment, as seen from outside
            (folder / "run.lock").write_text("process 1 on elsewhere\n")

        other = threading.Thread(target=replace)
        other.start()
        code, _, err = scale(4, "--wait", 60)
        other.join()
    assert code == 1
    assert f"process {first.pid} on " in err
    assert " ended, and process 1 on elsewhere went on with the run; ask again" in err


def test_what_was_asked_of_an_earlier_process_is_not_asked_of_this_one(folder):
    request_rollouts(folder, 6)
    with driver(folder):
        wait_for(lambda: (read_status(folder) or 0) and len(read_status(folder).rollouts.workers) == 2, "a status")
        assert read_status(folder).wish_id is None
        assert read_wish(folder) is None


MISTAKES = {
    "0": "a run without rollout workers would wait forever",
    "-3": "a run without rollout workers would wait forever",
    "1.5": "is neither a whole number nor auto",
    "many": "is neither a whole number nor auto",
}


@pytest.mark.parametrize(("number", "words"), MISTAKES.items())
def test_numbers_that_no_run_can_have(folder, scale, number, words):
    code, out, err = scale(number)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: --rollouts {number}: {words}. Fix: ")
    assert read_wish(folder) is None


def test_a_run_that_nobody_trains_is_not_asked(folder, scale):
    (folder / "summary.json").write_text(json.dumps({"status": "completed", "step": 9, "steps": 9}))
    code, out, err = scale(4)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: RUN {NAME}: it does not run (completed at step 9 of 9). Fix: ")
    assert not (folder / "fleet.json").exists()
    assert not (folder / "run.lock").exists()


def test_a_run_that_trains_alone_is_not_asked(folder, scale):
    with driver(folder, "alone"):
        code, _, err = scale(4, "--wait", 0.3)
    assert code == 2
    assert "it is still starting, or trains alone (--local)" in err
    assert not (folder / "fleet.json").exists()


@pytest.mark.parametrize(("name", "text"), [("status.json", '{"run"'), ("status.json", "[]")])
def test_torn_and_foreign_files_are_one_line(folder, scale, name, text):
    with driver(folder, "deaf", "alone"):
        (folder / name).write_text(text)
        code, out, err = scale(4, "--wait", 1)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {folder / name}: is ")
    assert err.count("\n") == 1


def test_no_such_run(scale, monkeypatch, capsys, tmp_path):
    code, _, err = call(monkeypatch, capsys, "scale", "nix", "--rollouts", 2, "--runs-dir", tmp_path / "runs")
    assert code == 2
    assert err == f"error: RUN nix: there is no such run. Fix: the newest here is {NAME}.\n"


def test_ctrl_c_ends_the_wait_and_not_the_wish(folder):
    with driver(folder, "deaf"):
        process = spawn("scale", folder, "--rollouts", 4)
        wait_for(lambda: read_wish(folder), "the wish")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "error: interrupted; what was asked stands\n"
    assert read_wish(folder).rollouts == 4
