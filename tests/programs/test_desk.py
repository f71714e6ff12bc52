"""What the driver's desk notes of the process before it."""

import json

import pytest

from tests.programs.test_control import STATUS
from tpo_dist.programs import control
from tpo_dist.programs.desk import FolderDesk
from tpo_dist.programs.recorder import KILLED
from tpo_dist.programs.run import create_run


@pytest.mark.parametrize("said", ["running", "starting", "stopping", "completed", "interrupted", "failed"])
def test_a_driver_that_died_without_a_word_is_a_fault(small_config, said):
    run = create_run(small_config())
    control.write_status(run.folder, {**STATUS, "status": said, "updated": 1000.0, "pid": 77, "host": "there"})
    FolderDesk(run, 4, lambda _: None)
    faults = control.read_faults(run.folder)
    if said in ("completed", "interrupted", "failed"):
        assert faults == []
        return
    (fault,) = faults
    assert (fault.role, fault.what, fault.step) == ("driver", "died", 0)
    assert fault.reason == "process 77 on there died without a word; the run goes on in another"
    assert fault.at - fault.detected_seconds == pytest.approx(1000.0, abs=0.01)


@pytest.mark.parametrize(
    ("summary", "died"),
    [
        ({"status": "interrupted", "reason": None}, False),
        ({"status": "failed", "reason": "its disk was full"}, False),
        ({"status": "running", "reason": None}, True),
        ({"status": "failed", "reason": KILLED}, True),
    ],
)
def test_a_driver_that_said_how_it_ended_did_not_die_whatever_its_last_status_was(small_config, summary, died):
    run = create_run(small_config())
    control.write_status(run.folder, {**STATUS, "status": "stopping"})
    (run.folder / "summary.json").write_text(json.dumps({"step": 3, **summary}))
    FolderDesk(run, 4, lambda _: None)
    assert len(control.read_faults(run.folder)) == died


def test_a_first_driver_and_a_torn_status_are_no_faults(small_config):
    run = create_run(small_config())
    FolderDesk(run, 4, lambda _: None)
    (run.folder / "status.json").write_text("{")
    FolderDesk(run, 4, lambda _: None)
    assert control.read_faults(run.folder) == []
