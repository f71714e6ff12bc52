"""`tpo-dist status` of runs that train, hang, were killed and are over."""

import json
import signal
import subprocess
import sys

import pytest

from tests.cli.drivers import driver, make_run
from tests.cli.run_cli import ROOT, call, spawn
from tests.processes import wait_for

NAME = "läuft-[red]20261123"  # a name that a terminal library could take for markup


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "runs", NAME)


@pytest.fixture
def status(folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        return call(monkeypatch, capsys, "status", *arguments, "--runs-dir", folder.parent)

    return run


def summarise(folder, **fields):
    (folder / "summary.json").write_text(json.dumps({"step": 0, "steps": 9, "reason": None, **fields}))


def test_a_run_that_trains(folder, status):
    with driver(folder) as process:
        code, out, err = status(NAME)
    assert (code, err) == (0, "")
    for words in (
        f"{NAME}  running",
        f"step 7 of 1000, version 7, max_staleness 1; process {process.pid} on ",
        "rollouts  2 alive of 2 wanted",
        "blocks   2 in flight, 1 ready, 28 trained, 0 failed",
        "pace     12.5 groups per second",
        "learner  waiting for 2 blocks of step 7 (0.5 s); idle 12% of its time",
        "faults   worker killed: 2",
    ):
        assert words in out
    (row,) = [line.split() for line in out.splitlines() if "rollout-1" in line]
    assert row == ["rollout-1", "100", "working", "3", "1.0", "s", "7", "0", "0", "nœud"]
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_json_is_one_object_and_nothing_else(folder, status):
    with driver(folder) as process:
        code, out, err = status(NAME, "--json")
    assert (code, err) == (0, "")
    seen = json.loads(out)
    assert (seen["run"], seen["word"], seen["running"], seen["step"]) == (str(folder), "running", True, 7)
    assert seen["holder"].startswith(f"process {process.pid} on ")
    assert seen["status"]["rollouts"]["workers"][0]["node"] == "nœud"
    assert seen["summary"]["status"] == "running"
    assert 0 <= seen["age_seconds"] < 10


def test_a_run_that_is_silent_though_it_is_there(folder, status):
    with driver(folder, "frozen") as process:
        code, out, _ = status(NAME)
    assert code == 0
    assert f"{NAME}  silent" in out
    assert f"process {process.pid} on " in out
    assert "has said nothing for 60 s: what follows is that old" in out


def test_a_run_that_says_nothing_of_workers(folder, status):
    with driver(folder, "alone"):
        code, out, _ = status(NAME)
    assert code == 0
    assert "says nothing of workers: it is still starting, or trains alone (--local)" in out


def test_a_run_that_is_over(folder, status):
    summarise(folder, status="completed", step=9, error=0.125)
    code, out, _ = status(NAME)
    assert code == 0
    assert out.splitlines() == [
        f"{NAME}  completed",
        "does not run: completed at step 9 of 9",
        "error 0.1250 (mean of the last 20 steps)",
    ]


def test_a_run_that_failed_says_why_and_how_to_go_on(folder, status):
    summarise(folder, status="failed", step=5, reason="rollout-0: out of memory")
    (folder / "checkpoints" / "step-00000005").mkdir(parents=True)
    _, out, _ = status(NAME)
    assert "does not run: failed at step 5 of 9: rollout-0: out of memory" in out
    assert f"go on with it: tpo-dist train --resume {folder}" in out.replace("\n", "")


def test_a_run_that_was_killed(folder, status):
    with driver(folder) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        (folder / "metrics.jsonl").write_text('{"step": 41}\n')
        code, out, _ = status(NAME)
        seen = json.loads(status(NAME, "--json")[1])
    assert code == 0
    assert f"{NAME}  killed" in out
    assert "does not run: its process was killed at step 41 of 1000, or died without a word" in out
    assert "start its job again, for it has no checkpoint" in out
    assert (seen["running"], seen["holder"], seen["status"], seen["word"]) == (False, None, None, "killed")


def test_a_run_that_never_began(status):
    _, out, _ = status(NAME)
    assert f"{NAME}  not started" in out
    assert "does not run: nothing was trained" in out


def test_every_run_the_last_started_one_at_the_end(folder, status, tmp_path):
    summarise(folder, status="completed", step=9)
    running, torn = make_run(tmp_path / "runs", "a-running"), make_run(tmp_path / "runs", "a-torn")
    (torn / "summary.json").write_text("{")
    with driver(running):
        code, out, err = status()
        rows = json.loads(status("--json")[1])
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()[:4]] == [
        ["run", "status", "step"],
        [NAME, "completed", "9", "of", "9"],
        ["a-running", "running", "7", "of", "1000"],
        ["a-torn", "unreadable"],
    ]
    assert out.splitlines()[4].startswith(f"{torn / 'summary.json'}: cannot be read")
    assert [(row["name"], row["word"], row["running"], row["step"]) for row in rows] == [
        (NAME, "completed", False, 9),
        ("a-running", "running", True, 7),
        ("a-torn", "unreadable", None, None),
    ]


def test_no_runs_at_all(monkeypatch, capsys, tmp_path):
    code, out, _ = call(monkeypatch, capsys, "status", "--runs-dir", tmp_path / "none")
    assert (code, out) == (0, f"there are no runs in {tmp_path / 'none'}\n")
    assert call(monkeypatch, capsys, "status", "--json", "--runs-dir", tmp_path / "none")[1] == "[]\n"


def test_watching_goes_on_until_the_run_ends(folder):
    with driver(folder) as driving:
        process = spawn("status", folder, "--watch")
        first = process.stdout.readline()
        driving.kill()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert first == "running  step 7 of 1000  rollouts 2 of 2  12.5 groups/s  learner waiting  2 faults\n"
    assert f"{NAME}  killed" in out


def test_who_stops_watching_stops_nothing_else(folder):
    with driver(folder) as driving:
        process = spawn("status", folder, "--watch")
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert driving.poll() is None
    assert (process.returncode, err) == (130, "not watched any more; the run goes on\n")


MISTAKES = {
    ("nix",): f"RUN nix: there is no such run. Fix: the newest here is {NAME}.",
    ("--watch",): "--watch: it shows one run for as long as it trains. Fix: name a RUN.",
    (NAME, "--watch", "--json"): "--watch: --json prints one value and ends. Fix: drop one of the two.",
}


@pytest.mark.parametrize(("arguments", "line"), MISTAKES.items())
def test_mistakes_are_one_line(status, arguments, line):
    assert status(*arguments) == (2, "", f"error: {line}\n")


def test_a_torn_status_is_one_line(folder, status):
    with driver(folder, "alone"):
        (folder / "status.json").write_text('{"run": ')
        code, out, err = status(NAME)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {folder / 'status.json'}: is torn, or no JSON. Fix: ")
    assert err.count("\n") == 1


def test_it_starts_without_torch_and_ray(folder):
    """Which take seconds to import, and a person waits."""
    script = "import sys; sys.modules['torch'] = sys.modules['ray'] = None; from tpo_dist.cli.main import main; main()"
    for arguments in (["status", str(folder)], ["scale", str(folder), "--rollouts", "2"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        assert NAME in done.stdout + done.stderr


def test_the_driver_comes_up(folder):
    """What the other tests rely on."""
    with driver(folder) as process:
        wait_for(lambda: (folder / "status.json").exists(), "its status")
        assert process.poll() is None
