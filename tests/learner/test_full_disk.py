"""A disk that is really full: the older checkpoint stays valid, training goes on, and only the end asks for room."""

import json
import os
import re
import subprocess
from contextlib import suppress

import pytest

from tpo_dist.cli import execute as execution
from tpo_dist.cli.execute import execute
from tpo_dist.cli.view import View
from tpo_dist.errors import RunFailed
from tpo_dist.learner.checkpoint import list_checkpoints, load_checkpoint, read_state, save_checkpoint
from tpo_dist.metrics import Mean
from tpo_dist.policies.weights import export_weights
from tpo_dist.programs import local
from tpo_dist.programs.parts import make_learner
from tpo_dist.programs.recorder import Recorder
from tpo_dist.programs.run import StepReport, create_run, resume_run


@pytest.fixture
def small_disk():
    """Makes of a folder a file system of 1 MiB, room for one checkpoint of the small configuration but not for two."""
    disks = []

    def mount(disk):
        disk.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
        done = subprocess.run(command, capture_output=True, text=True) if os.geteuid() == 0 else None
        if done is None or done.returncode:
            pytest.skip("mounting a file system takes root and the permission to mount")
        disks.append(disk)
        return disk

    yield mount
    for disk in disks:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # the ledger of a run that failed may be open still


def test_saving_on_a_full_disk_leaves_the_older_checkpoint_alone(small_disk, small_config, tmp_path):
    disk = small_disk(tmp_path / "disk")
    learner = make_learner(small_config())
    older = save_checkpoint(disk, learner, keep=3)
    learner.version = 7
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(disk, learner, keep=3)
    assert [path.name for path in disk.iterdir()] == [older.name]  # nothing half-written takes the room
    assert read_state(older)["step"] == 0


def test_training_goes_on_without_checkpoints_and_ends_with_what_to_do(small_disk, small_config):
    """Six steps with a checkpoint after every second; the first finds room, and the last step's is missed."""
    config = small_config("steps=6", "checkpoint.every_steps=2", "checkpoint.keep=1")
    run, reports = create_run(config), []
    folder = small_disk(run.folder / "checkpoints")
    message = (
        rf"no checkpoint could be written to {folder} \(.*No space left on device.*\) after the last step, 6; "
        r"the newest there is step-00000002. Fix: make room on that disk.* and go on with --resume"
    )
    with pytest.raises(RunFailed, match=message):
        reports.extend(local.train(run))
    assert [(report.step, report.checkpoint is not None) for report in reports] == [
        (step, step == 2) for step in range(1, 6)
    ]
    assert [report.step for report in reports if report.checkpoint_problem is not None] == [4]
    assert re.search("No space left.*training goes on.*tried in 2 steps", reports[3].checkpoint_problem)
    assert [read_state(path)["step"] for path in list_checkpoints(folder)] == [2]

    subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)
    steps = [report.step for report in local.train(resume_run(str(run.folder), (), "runs"))]
    assert steps == [3, 4, 5, 6]
    straight = create_run(config.model_copy(update={"runs_dir": str(run.folder.parent / "straight")}))
    assert len(list(local.train(straight))) == 6
    assert weights_of(run, config) == weights_of(straight, config)


def test_the_command_says_it_once_and_fails_with_the_reason(small_disk, small_config, capfd):
    config = small_config("steps=9", "checkpoint.every_steps=2")
    run = create_run(config)
    small_disk(run.folder / "checkpoints")
    assert execute(run, local=True, as_json=True) == 1
    out, err = capfd.readouterr()
    summary = json.loads(out)
    assert (summary["status"], summary["step"]) == ("failed", 8)
    assert summary["checkpoint"].endswith("step-00000002")
    assert "after the last step, 9" in summary["reason"]
    assert err.count("training goes on") == 1
    assert f"error: {summary['reason']}" in err


def fill(disk):
    """Until nothing more goes in."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_disk_full_of_everything_ends_the_run_with_one_line(small_disk, small_config, tmp_path, capfd):
    """The ledger and the metrics have no room either, nor has the summary."""
    disk = small_disk(tmp_path / "disk")
    run = create_run(small_config("steps=9", "log.plot=true", f"runs_dir={disk}"))

    def program(run):
        for report in local.train(run):
            yield report
            if report.step == 3:
                fill(disk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "_program", lambda local: program)
        assert execute(run, local=True, as_json=True) == 1
    out, err = capfd.readouterr()
    summary = json.loads(out)
    assert (summary["status"], summary["step"]) == ("failed", 3)
    assert re.search(r"ledger.db cannot be written|metrics", summary["reason"])
    assert "Traceback" not in err
    (disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    resumed = resume_run(str(run.folder), (), "runs")
    assert [report.step for report in local.train(resumed)][-1] == 9


def test_metrics_that_find_no_room_end_the_run_with_what_to_do(small_disk, small_config, tmp_path):
    disk = small_disk(tmp_path / "disk")
    run = create_run(small_config("steps=9", f"runs_dir={disk}"))
    recorder = Recorder(run)
    recorder.record(StepReport(1, {"error": Mean(0.5)}, 0.1, None))
    fill(disk)

    def go_on():
        for step in range(2, 999):
            recorder.record(StepReport(step, {"error": Mean(0.5)}, 0.1, None))

    with pytest.raises(RunFailed, match=rf"{run.folder} cannot be written \(No space left on device\); make room"):
        go_on()
    summary = recorder.finish("failed", "the disk is full")
    assert (summary["status"], summary["error"]) == ("failed", 0.5)


def weights_of(run, config):
    learner = make_learner(config)
    load_checkpoint(list_checkpoints(run.folder / "checkpoints")[-1], learner)
    return {name: array.tobytes() for name, array in export_weights(learner.policy).items()}


def test_where_nothing_was_ever_saved_the_run_has_to_start_again(small_config):
    """A file stands where the folder of checkpoints should be: the same path as any other error of the disk."""
    run = create_run(small_config("steps=1"))
    (run.folder / "checkpoints").write_text("in the way")
    with pytest.raises(RunFailed, match="there is none. Fix: make room .* start the run again"):
        list(local.train(run))


def test_a_problem_is_shown_once(small_config, capfd):
    """However often it comes; what the last save has to say is the reason of the end."""
    run = create_run(small_config())
    with View(run, quiet=True) as view:
        for text in ("the disk is full", "the disk is full", "the disk is gone"):
            view.warn(text)
    assert capfd.readouterr().err.splitlines() == ["the disk is full", "the disk is gone"]
