"""Training in one process: it learns, stops when asked, and a resumed run equals an uninterrupted one."""

import json
import shutil

import numpy as np
import pytest

from tpo_dist.audit import audit
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.learner.checkpoint import list_checkpoints, load_checkpoint
from tpo_dist.metrics import Sum
from tpo_dist.policies.weights import export_weights
from tpo_dist.programs import local
from tpo_dist.programs.control import read_faults
from tpo_dist.programs.folder import LEDGER
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
            "steps=60", "task.length=3", "learner.schedule.name=linear", "log.sinks=[tensorboard]", "log.plot=true"
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
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("error")] == pytest.approx([row["error"] for row in rows])
    assert len(board.Scalars("staleness")) == 60
    assert board.Histograms("staleness/histogram")[0].histogram_value.num == 24  # one for each group
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


@pytest.mark.parametrize("end", ["a crash", "a stop"])
def test_a_run_resumed_between_two_publications_equals_an_uninterrupted_one(end, small_config):
    """Steps 5 and 6 are sampled from version 4, by the resumed run as by the other."""
    options = ("steps=10", "learner.publish_every=4", "checkpoint.every_steps=5")
    straight, broken = create_run(small_config(*options)), create_run(small_config(*options))
    whole = [report.metrics["error"] for report in local.train(straight)]
    for report in local.train(broken):
        if end == "a stop" and report.step == 5:
            broken.stop.set()
        if report.step == 7:
            break
    resumed = resume_run(str(broken.folder), (), "runs")
    assert resumed.first_step == (6 if end == "a stop" else 5)
    assert [report.metrics["error"] for report in local.train(resumed)] == whole[resumed.first_step :]
    assert_equal_runs(straight, resumed)


def rows_of(run):
    """What `metrics.jsonl` has, less what depends on the clock."""
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: number for name, number in row.items() if "seconds" not in name} for row in rows]


@pytest.mark.parametrize("resumed", [False, True])
def test_steps_that_were_saved_and_not_reported_have_their_rows(resumed, small_config):
    """As where a process dies after a checkpoint: the learner, and in the other case the driver."""
    straight, run = (create_run(small_config("steps=9", "checkpoint.every_steps=3")) for _ in range(2))
    whole = Recorder(straight)
    for report in local.train(straight):
        whole.record(report)
    whole.close()
    recorder = Recorder(run)
    for report in local.train(run):
        if report.step == 7 and resumed:
            break
        if report.step not in (5, 6):
            recorder.record(report)
    recorder.close()
    if resumed:
        run = resume_run(str(run.folder), (), "runs")
        again = Recorder(run)
        for report in local.train(run):
            again.record(report)
        again.finish("completed")
    assert rows_of(run) == rows_of(straight)
    assert read_faults(run.folder) == []


def test_the_last_step_has_its_row_though_nobody_reported_it(small_config):
    run = create_run(small_config("steps=2", "log.sinks=[tensorboard]"))
    recorder = Recorder(run)
    *_, last = local.train(run)
    assert last.step == 2
    summary = recorder.finish("completed")
    assert [row["step"] for row in recorder.rows] == [1, 2]
    assert (summary["step"], summary["error"]) == (2, pytest.approx(np.mean([row["error"] for row in recorder.rows])))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("error")] == [1, 2]


def test_steps_whose_metrics_are_gone_are_named(small_config, caplog):
    run = create_run(small_config("steps=9", "checkpoint.every_steps=3", "checkpoint.keep=1"))
    recorder = Recorder(run)
    for report in local.train(run):
        if report.step not in range(2, 7):
            recorder.record(report)
    recorder.finish("completed")
    assert [row["step"] for row in recorder.rows] == [1, 4, 5, 6, 7, 8, 9]  # 4 to 6 are in the checkpoint at step 6
    (fault,) = read_faults(run.folder)
    assert (fault.role, fault.what, fault.step) == ("learner", "metrics lost", 3)
    assert fault.reason == "steps 2 to 3 were trained, and the metrics went with the process that had them"
    assert fault.reason in caplog.text


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


JUDGED = ("task.name=judged_reversal", "task.seconds=0.0", "task.reward=bag_of_tokens")


def test_groups_that_cannot_be_scored_are_left_out_counted_and_kept(small_config, caplog):
    run = create_run(small_config("steps=3", *JUDGED, "task.fail_every=7"))
    reports = list(local.train(run))
    failed = [draw for draw in range(72) if draw % 7 == 6]
    assert [report.metrics["groups_failed"] for report in reports] == [Sum(3.0), Sum(3.0), Sum(4.0)]
    assert [report.metrics["zero_variance"].count for report in reports] == [21, 21, 20]
    files = sorted(path.name for path in (run.folder / "quarantine").glob("*.json"))
    assert files == [f"draw-{draw:010d}.json" for draw in failed]
    warnings = [record.getMessage() for record in caplog.records if "left out of training" in record.getMessage()]
    assert len(warnings) == 1
    assert "draw 6 failed (scorer raised ConnectionError)" in warnings[0]


def test_a_block_that_fails_whole_is_replaced_by_another(small_config):
    run = create_run(small_config("steps=1", "rollout.block_size=1", *JUDGED, "task.fail_every=2"))
    [report] = local.train(run)
    assert report.metrics["groups_failed"] == Sum(23.0)
    assert report.metrics["zero_variance"].count == 24


def test_a_scorer_that_always_fails_ends_the_run_with_the_reason(small_config):
    run = create_run(small_config("steps=1", *JUDGED, "task.fail_every=1"))
    with pytest.raises(
        RunFailed, match="100% of the latest groups failed, more than faults.failed_fraction; see .*quarantine"
    ):
        list(local.train(run))
    assert len(list((run.folder / "quarantine").glob("draw-*.json"))) == 240


def test_runs_get_folders_of_their_own(small_config):
    config = small_config()
    folders = {create_run(config).folder for _ in range(3)}
    assert len(folders) == 3


def test_a_run_that_died_before_its_first_checkpoint_begins_again(small_config):
    straight, broken = create_run(small_config()), create_run(small_config())
    for _ in local.train(straight):
        pass
    recorder = Recorder(broken)
    for report in local.train(broken):
        recorder.record(report)
        if report.step == 7:
            break  # as in a process that is killed, nothing is saved
    recorder.close()
    again = resume_run(str(broken.folder), (), "runs")
    assert (again.first_step, again.checkpoint) == (0, None)
    assert [report.step for report in local.train(again)] == list(range(1, 21))
    assert_equal_runs(again, straight)
    assert audit(again.folder / LEDGER).complete


def test_checkpoints_that_are_gone_are_not_taken_for_a_beginning(small_config):
    run = create_run(small_config("checkpoint.every_steps=5"))
    recorder = Recorder(run)
    for report in local.train(run):
        recorder.record(report)
    recorder.finish("completed")
    shutil.rmtree(run.folder / "checkpoints")
    with pytest.raises(UsageError, match="no checkpoint to go on from, though it has trained 20 steps"):
        resume_run(str(run.folder), (), "runs")


def test_resuming_says_what_is_wrong(small_config, tmp_path):
    run = create_run(small_config())
    with pytest.raises(UsageError, match=f"there is no such run. Fix: the newest here is {run.folder.name}"):
        resume_run("nothing", (), str(tmp_path / "runs"))
    with pytest.raises(UsageError, match="there are no runs"):
        resume_run("nothing", (), str(tmp_path / "empty"))
    for _ in local.train(run):
        pass
    with pytest.raises(UsageError, match=r"has finished its 20 steps. Fix: .*steps=40"):
        resume_run(str(run.folder), (), "runs")
    with pytest.raises(UsageError, match=r"this run is at step 20 already. Fix: .*steps=40"):
        resume_run(str(run.folder), ("steps=10",), "runs")
    longer = resume_run(run.folder.name, ("steps=22",), str(tmp_path / "runs"))
    recorder = Recorder(longer)
    assert json.loads((run.folder / "config.json").read_text())["steps"] == 20
    assert [recorder.record(report)["step"] for report in local.train(longer)] == [21, 22]
    recorder.close()
    assert json.loads((run.folder / "config.json").read_text())["steps"] == 22


REFUSED = {
    "task.length=5": r"task.length = 5: this run has 4, and what it learns would be another task",
    "policy.width=32": "policy.width = 32: this run has 64, and its checkpoint holds the weights of another policy",
    "objective.name=grpo": "objective.name = 'grpo': this run has 'tpo', and its metrics would be those of two methods",
    "learner.optimizer.name=adamw": "learner.optimizer.name = 'adamw': .* the state of another optimizer",
    "seed=3": "seed = 3: this run has 0, and its draws belong to the seed",
    "rollout.block_size=6": "rollout.block_size = 6: this run has 4, and its ledger counts blocks of that size",
}


@pytest.mark.parametrize(("override", "message"), REFUSED.items(), ids=REFUSED.keys())
def test_what_would_make_it_another_run_is_refused(override, message, small_config):
    run = create_run(small_config("steps=2"))
    for _ in local.train(run):
        pass
    with pytest.raises(UsageError, match=message):
        resume_run(str(run.folder), ("steps=4", override), "runs")


def test_other_changes_are_told_one_by_one(small_config):
    run = create_run(small_config("steps=2"))
    for _ in local.train(run):
        pass
    overrides = ("steps=4", "learner.optimizer.lr=3e-4", "rollout.group_size=4", "objective.eta=2.0", "seed=0")
    assert sorted(resume_run(str(run.folder), overrides, "runs").changes) == [
        "learner.optimizer.lr 0.001 -> 0.0003",
        "objective.eta 1.0 -> 2.0",
        "rollout.group_size 8 -> 4",
        "steps 2 -> 4",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("[1]", "holds a list, not keys with values"), ("{", "cannot be read"), ("[" * 100_000, "cannot be read")],
)
def test_a_config_json_that_is_none_is_refused(content, reason, small_config):
    run = create_run(small_config())
    (run.folder / "config.json").write_text(content)
    with pytest.raises(UsageError, match=reason):
        resume_run(str(run.folder), (), "runs")


@pytest.mark.parametrize("line", ["[1]", "7", '{"step": true}', '{"step": 2}', "{torn}"])
def test_a_line_of_metrics_that_is_no_row_is_refused(line, small_config):
    run = create_run(small_config())
    row = json.dumps({"step": 1, "error": 0.5, "step_seconds": 0.1})
    (run.folder / "metrics.jsonl").write_text(f"{row}\n{line}\n{row}\n")
    with pytest.raises(UsageError, match="metrics.jsonl, line 2: is not the row of a step"):
        Recorder(Run(run.config, run.folder, first_step=5))


def test_a_torn_last_line_of_metrics_is_dropped(small_config):
    run = create_run(small_config())
    path = run.folder / "metrics.jsonl"
    path.write_text('{"step": 1, "error": 0.5, "step_seconds": 0.1}\n{"step": 2, "er')
    recorder = Recorder(Run(run.config, run.folder))
    assert recorder.rows == []  # nothing before a checkpoint counts
    recorder.finish("failed", "test")
