"""A disk that is really full: the older checkpoint stays valid, training goes on, and only the end asks for room."""

import json
import os
import re
import subprocess

import pytest

from tpo_dist.cli.execute import execute
from tpo_dist.cli.view import View
from tpo_dist.errors import RunFailed
from tpo_dist.learner.checkpoint import list_checkpoints, load_checkpoint, read_state, save_checkpoint
from tpo_dist.policies.weights import export_weights
from tpo_dist.programs import local
from tpo_dist.programs.parts import make_learner
from tpo_dist.programs.run import create_run, resume_run


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
        subprocess.run(["umount", str(disk)], check=True)


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
