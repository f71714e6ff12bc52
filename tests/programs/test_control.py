"""The files through which a run is watched and scaled, and the lock that says whether it runs."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from pydantic import ValidationError

from tpo_dist.errors import UsageError
from tpo_dist.programs import control
from tpo_dist.programs.control import (
    Fault,
    FaultLog,
    forget_wish,
    read_faults,
    read_status,
    read_wish,
    request_rollouts,
)
from tpo_dist.programs.folder import find_run, runs_in
from tpo_dist.programs.lock import LOCK, hold, holder, process_name
from tpo_dist.programs.observe import observe

STATUS = {
    "run": "runs/läuft",
    "status": "running",
    "step": 3,
    "steps": 10,
    "version": 3,
    "max_staleness": 1,
    "rollouts": {
        "wanted": 2,
        "alive": 1,
        "workers": [{"name": "rollout-0", "state": "working", "block": 12, "seconds": 1.5, "node": "nœud"}],
    },
    "stream": {"queued": 0, "in_flight": 1, "ready": 2, "trained": 12, "failed": 0},
    "learner": {"state": "waiting", "waits_for": "a block", "seconds": 0.25},
}
FAULT = Fault(at=5.0, role="worker", name="rollout-0", what="killed", reason="«signal» 9", detected_seconds=0.5)


def test_a_status_is_read_as_it_was_written(tmp_path):
    before = time.time()
    control.write_status(tmp_path, STATUS)
    status = read_status(tmp_path)
    assert (status.run, status.step, status.faults, status.wish_id) == ("runs/läuft", 3, {}, None)
    assert status.rollouts.workers[0].node == "nœud"
    assert (status.pid, status.host) == (os.getpid(), socket.gethostname())
    assert before <= status.updated <= time.time()
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_reader_never_sees_half_a_status(tmp_path):
    control.write_status(tmp_path, STATUS)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            control.write_status(tmp_path, STATUS)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(read_status(tmp_path).step == 3 for _ in range(300))
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize(
    "wrong", [{"stpe": 3}, {"step": -1}, {"status": "fine"}, {"learner": {"state": "waiting", "seconds": float("nan")}}]
)
def test_what_is_no_status_is_not_written(tmp_path, wrong):
    with pytest.raises(ValidationError):
        control.write_status(tmp_path, {**STATUS, **wrong})
    assert not list(tmp_path.iterdir())


def test_where_nobody_said_or_asked_anything_there_is_none(tmp_path):
    assert read_status(tmp_path) is None
    assert read_wish(tmp_path) is None
    assert read_faults(tmp_path) == []


DAMAGES = {
    b"": "is empty",
    b'{"run": "x", "st': "is torn, or no JSON",
    b"\xff\xfe": "is torn, or no JSON",
    b"[" * 100_000: "is torn, or no JSON",
    b"[1, 2]": "is of another kind or version (the whole: ",
    b'{"id": "x"}': "is of another kind or version (",
    b'{"rollouts": 0, "id": "a", "at": 1, "asked_by": ""}': "is of another kind or version (",
}


@pytest.mark.parametrize(("text", "words"), DAMAGES.items(), ids=range(len(DAMAGES)))
@pytest.mark.parametrize(("name", "read"), [("status.json", read_status), ("fleet.json", read_wish)])
def test_torn_and_foreign_files_are_a_user_s_matter(tmp_path, text, words, name, read):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(UsageError, match=name) as caught:
        read(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wish_is_read_as_it_was_asked_and_the_newest_counts(tmp_path):
    first = request_rollouts(tmp_path, 4)
    assert read_wish(tmp_path) == first
    second = request_rollouts(tmp_path, "auto")
    assert read_wish(tmp_path) == second
    assert first.id != second.id
    assert (first.rollouts, second.rollouts) == (4, "auto")
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.json"]
    forget_wish(tmp_path)
    forget_wish(tmp_path)
    assert read_wish(tmp_path) is None


def test_many_may_ask_at_the_same_time(tmp_path):
    wishes = []
    askers = [
        threading.Thread(
            target=lambda number=number: wishes.extend(request_rollouts(tmp_path, number) for _ in range(50))
        )
        for number in range(1, 5)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len({wish.id for wish in wishes}) == 200
    assert read_wish(tmp_path) in wishes
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.json"]


def test_a_folder_that_cannot_be_written_is_a_user_s_matter(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        request_rollouts(tmp_path / "none", 4)


def test_faults_are_kept_in_their_order(tmp_path):
    log = FaultLog(tmp_path)
    log.append(FAULT)
    log.append(FAULT.model_copy(update={"name": "rollout-1", "recovered_seconds": 2.0}))
    first, second = read_faults(tmp_path)
    assert first == FAULT
    assert (second.name, second.recovered_seconds) == ("rollout-1", 2.0)
    assert set(json.loads((tmp_path / "faults.jsonl").read_text().splitlines()[0])) == {
        "at", "role", "name", "what", "reason", "detected_seconds", "recovered_seconds", "step",
    }  # fmt: skip


def test_a_torn_line_of_a_killed_driver_is_left_out_and_then_cut_off(tmp_path):
    FaultLog(tmp_path).append(FAULT)
    with (tmp_path / "faults.jsonl").open("a") as file:
        file.write('{"at": 7')
    assert read_faults(tmp_path) == [FAULT]
    FaultLog(tmp_path).append(FAULT)
    assert read_faults(tmp_path) == [FAULT, FAULT]


def test_a_foreign_line_among_the_faults_is_named(tmp_path):
    (tmp_path / "faults.jsonl").write_text(f"{FAULT.model_dump_json()}\nnonsense\n")
    with pytest.raises(UsageError, match="faults.jsonl, line 2"):
        read_faults(tmp_path)


def test_a_full_disk_leaves_no_half_line(tmp_path):
    FaultLog(tmp_path).append(FAULT)
    script = f"""
import resource, signal, pathlib
from tpo_dist.programs.control import FaultLog, Fault
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = pathlib.Path({str(tmp_path)!r})
log, size = FaultLog(folder), (folder / "faults.jsonl").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, size + 40))
try:
    log.append(Fault(at=1.0, role="worker", name="w", what="killed", reason="x" * 100))
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip().isdigit(), done.stderr
    assert (tmp_path / "faults.jsonl").read_text() == FAULT.model_dump_json() + "\n"


def test_the_lock_tells_who_holds_it(tmp_path):
    assert holder(tmp_path) is None
    with hold(tmp_path):
        assert holder(tmp_path) == process_name(os.getpid(), socket.gethostname())
    assert holder(tmp_path) is None


def test_a_killed_holder_holds_nothing(tmp_path):
    (tmp_path / LOCK).write_text("process 1 on elsewhere\n")
    assert holder(tmp_path) is None


def test_looking_at_the_lock_takes_it_from_nobody(tmp_path):
    """While others look again and again, whoever wants the lock gets it, and never loses it."""
    (tmp_path / LOCK).touch()
    stop = threading.Event()

    def look():
        while not stop.is_set():
            holder(tmp_path)
            time.sleep(0.005)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(30):
            with hold(tmp_path):
                assert holder(tmp_path) is not None
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_who_looks_for_an_instant_does_not_stop_a_start(tmp_path):
    (tmp_path / LOCK).touch()
    with (tmp_path / LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with hold(tmp_path):
            pass


def test_two_that_look_do_not_take_each_other_for_the_holder(tmp_path):
    (tmp_path / LOCK).touch()
    with (tmp_path / LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert holder(tmp_path) is None


def test_a_second_holder_is_still_refused(tmp_path):
    with (
        hold(tmp_path),
        pytest.raises(UsageError, match=f"process {os.getpid()} on .* holds this lock"),
        hold(tmp_path),
    ):
        pass


def test_the_status_of_an_earlier_process_is_not_that_of_the_run(tmp_path):
    control.write_status(tmp_path, {**STATUS, "pid": 1})
    with hold(tmp_path):
        assert observe(tmp_path).status is None
        control.write_status(tmp_path, STATUS)
        look = observe(tmp_path)
        assert look.status is not None
        assert (look.word, look.silent, look.step, look.steps) == ("running", False, 3, 10)
        control.write_status(tmp_path, {**STATUS, "updated": time.time() - 11.0})
        assert observe(tmp_path).word == "silent"
    assert observe(tmp_path).word == "not started"


def test_the_step_of_a_killed_run_is_that_of_its_last_whole_row(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"status": "running", "step": 0, "steps": 10}))
    (tmp_path / "metrics.jsonl").write_text('{"step": 4}\n{"step": 5}\n{"step": 6, "err')
    look = observe(tmp_path)
    assert (look.word, look.step, look.steps) == ("killed", 5, 10)
    assert look.ending == "killed at step 5 of 10"


@pytest.mark.parametrize("text", ["", "[1]", '{"step": "three"}', '{"status": '])
def test_a_damaged_summary_is_named(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UsageError, match="summary.json"):
        observe(tmp_path)


def test_runs_are_found_by_folder_and_by_name_newest_last(tmp_path):
    for name, age in (("b-läuft", 30), ("a", 20), ("c", 40)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
        os.utime(tmp_path / name / "config.json", (time.time() - age,) * 2)
    assert [folder.name for folder in runs_in(str(tmp_path))] == ["c", "b-läuft", "a"]
    assert find_run("b-läuft", str(tmp_path)) == find_run(str(tmp_path / "b-läuft"), "nowhere") == tmp_path / "b-läuft"
    with pytest.raises(UsageError, match="RUN d: there is no such run. Fix: the newest here is a."):
        find_run("d", str(tmp_path), "RUN")
