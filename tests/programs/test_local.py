"""Training in one process: it learns, stops when asked, and a resumed run equals an uninterrupted one."""

import json

import numpy as np
import pytest

from tpo_dist.errors import UsageError
from tpo_dist.learner.checkpoint import list_checkpoints, load_checkpoint
from tpo_dist.policies.weights import export_weights
from tpo_dist.programs import local
from tpo_dist.programs.parts import make_learner
from tpo_dist.programs.recorder import Recorder
from tpo_dist.programs.run import Run, create_run, resume_run


def final_weights(run):
    learner = make_learner(run.config)
    load_checkpoint(list_checkpoints(run.folder / "checkpoints")[-1], learner)
    return learner.version, export_weights(learner.policy)


def assert_equal_runs(one, other):
    (steps, weights), (other_steps, other_weights) = final_weights(one), final_weights(other)
    assert steps == other_steps
    for name, array in weights.items():
        np.testing.assert_array_equal(array, other_weights[name], err_msg=name)


def test_it_learns_and_records(small_config):
    run = create_run(
        small_config(
            "steps=60", "task.length=3", "learner.schedule.name=linear", "log.tensorboard=true", "log.plot=true"
        )
    )
    recorder = Recorder(run)
    assert json.loads((run.folder / "summary.json").read_text())["status"] == "running"
    for report in local.train(run):
        recorder.record(report)
    summary = recorder.finish("completed")
    assert json.loads((run.folder / "summary.json").read_text()) == summary
    assert summary["error"] < 0.1
    assert summary["reward"] == pytest.approx(1 - summary["error"])
    assert (summary["status"], summary["step"], summary["steps"]) == ("completed", 60, 60)
    assert summary["steps_per_second"] > 0
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert np.mean([row["error"] for row in rows[-20:]]) == pytest.approx(summary["error"])
    assert (run.folder / "learning_curve.png").stat().st_size > 10_000
    assert list((run.folder / "tensorboard").iterdir())
    assert json.loads((run.folder / "config.json").read_text())["task"]["length"] == 3


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_run_equals_an_uninterrupted_one(optimizer, small_config):
    options = ("checkpoint.every_steps=3", f"learner.optimizer.name={optimizer}", "learner.schedule.name=linear")
    straight, broken = create_run(small_config(*options)), create_run(small_config(*options))
    whole = [report.metrics["error"] for report in local.train(straight)]
    recorder = Recorder(broken)
    for report in local.train(broken):
        recorder.record(report)
        if report.step == 8:  # two steps after the last checkpoint, as a crash would have it
            break
    recorder.finish("failed", "a crash")
    resumed = resume_run(str(broken.folder), (), "runs")
    assert resumed.first_step == 6
    again = Recorder(resumed)
    assert len(again.rows) == 6
    for report in local.train(resumed):
        again.record(report)
    assert_equal_runs(straight, resumed)
    assert [row["step"] for row in again.rows] == list(range(1, 21))
    assert [row["error"] for row in again.rows] == [metric.value for metric in whole]
    assert again.finish("completed")["resumed_from_step"] == 6


def test_a_stop_request_ends_after_the_step_with_a_checkpoint(small_config):
    run = create_run(small_config())
    for report in local.train(run):
        if report.step == 4:
            run.stop.set()
    assert report.step == 5
    assert final_weights(run)[0] == 5


def test_micro_batches_and_blocks_do_not_change_what_is_learned(small_config):
    """Same prompts and same uniforms; only rounding may differ, and early on it does not matter."""
    options = ("steps=4", "task.reward=bag_of_tokens", "learner.optimizer.name=adamw")
    curves = [
        [report.metrics["error"].value for report in local.train(create_run(small_config(*options, *more)))]
        for more in ((), ("learner.micro_batch_candidates=5",), ("rollout.block_size=12",))
    ]
    assert curves[1] == pytest.approx(curves[0], abs=0.01)
    assert curves[2] == pytest.approx(curves[0], abs=0.01)


def test_runs_get_folders_of_their_own(small_config):
    config = small_config()
    folders = {create_run(config).folder for _ in range(3)}
    assert len(folders) == 3


def test_resuming_says_what_is_wrong(small_config, tmp_path):
    run = create_run(small_config())
    with pytest.raises(UsageError, match="no checkpoint"):
        resume_run(str(run.folder), (), "runs")
    with pytest.raises(UsageError, match=f"there is no such run. Fix: the newest here is {run.folder.name}"):
        resume_run("nothing", (), str(tmp_path / "runs"))
    with pytest.raises(UsageError, match="there are no runs"):
        resume_run("nothing", (), str(tmp_path / "empty"))
    for _ in local.train(run):
        pass
    with pytest.raises(UsageError, match=r"has finished its 20 steps. Fix: .*steps=40"):
        resume_run(str(run.folder), (), "runs")
    longer = resume_run(run.folder.name, ("steps=22",), str(tmp_path / "runs"))
    assert [report.step for report in local.train(longer)] == [21, 22]
    assert json.loads((run.folder / "config.json").read_text())["steps"] == 22


def test_a_torn_last_line_of_metrics_is_dropped(small_config):
    run = create_run(small_config())
    path = run.folder / "metrics.jsonl"
    path.write_text('{"step": 1, "error": 0.5, "step_seconds": 0.1}\n{"step": 2, "er')
    recorder = Recorder(Run(run.config, run.folder))
    assert recorder.rows == []  # nothing before a checkpoint counts
    recorder.finish("failed", "test")
