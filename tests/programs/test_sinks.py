"""Sinks: each shows the rows of a real run, a resumed run goes on in the same place, and none can stop training."""

import importlib.util
import json
import logging
import os
import signal

import pytest

from tpo_dist.errors import UsageError
from tpo_dist.metrics import Mean
from tpo_dist.programs import local
from tpo_dist.programs.ready import refuse_unready
from tpo_dist.programs.recorder import Recorder
from tpo_dist.programs.run import StepReport, create_run, resume_run


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{missing} not installed")


def train(run, steps=None):
    """The rows that were recorded, and the summary."""
    recorder = Recorder(run)
    for report in local.train(run):
        recorder.record(report)
        if report.step == steps:
            break
    return recorder.rows, recorder.finish("completed" if steps is None else "interrupted")


def train_in_two_parts(config):
    """Four steps, resumed after three with a checkpoint at two: step 3 is done twice. The folder and all rows."""
    run = create_run(config)
    _, summary = train(run, steps=3)
    assert summary["sink_failures"] == {}, logs(run)
    rows, summary = train(resume_run(str(run.folder), (), "runs"))
    assert summary["sink_failures"] == {}, logs(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    return run.folder, rows


def logs(run):
    return [path.read_text() for path in (run.folder / "sinks").glob("*.log")]


SHORT = ("steps=4", "checkpoint.every_steps=2", "task.length=3", "log.project=test-of-sinks")


def wandb_points(content):
    """Step and error of each row in a file of W&B: records cut to blocks of 32 KB, as in the logs of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, parts = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts, at = parts + content[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, parts = Record.FromString(parts), b""
            if record.HasField("history"):
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                yield json.loads(items["step"]), json.loads(items["error"])


@needs("wandb")
def test_wandb_offline(small_config, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    folder, rows = train_in_two_parts(small_config(*SHORT, "log.sinks=[wandb]"))
    parts = sorted((folder / "sinks" / "wandb").glob("offline-run-*/run-*.wandb"))
    name = json.loads((folder / "sinks" / "wandb.json").read_text())["id"]
    assert [path.name for path in parts] == [f"run-{name}.wandb"] * 2  # `wandb sync` makes one run of both
    seen = [point for path in parts for point in wandb_points(path.read_bytes())]
    errors = {row["step"]: row["error"] for row in rows}
    assert [step for step, _ in seen] == [1, 2, 3, 3, 4]
    assert dict(seen) == pytest.approx(errors)


@needs("mlflow", "sqlalchemy", "alembic")
@pytest.mark.filterwarnings("ignore")  # of MLflow's own
def test_mlflow_in_a_file(small_config, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder, rows = train_in_two_parts(small_config(*SHORT, "log.sinks=[mlflow]"))
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("test-of-sinks")
    (run,) = client.search_runs([experiment.experiment_id])  # one, though two processes wrote it
    assert (run.info.run_name, run.info.status) == (folder.name, "FINISHED")
    assert run.data.params["task.length"] == "3"
    history = client.get_metric_history(run.info.run_id, "error")
    assert sorted(point.step for point in history) == [1, 2, 3, 3, 4]
    assert {point.step: point.value for point in history} == pytest.approx({row["step"]: row["error"] for row in rows})


@needs("trackio")
def test_trackio_in_a_folder(small_config, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    folder, rows = train_in_two_parts(small_config(*SHORT, "log.sinks=[trackio]"))
    import sqlite3

    (path,) = (tmp_path / "trackio").glob("test-of-sinks*.db")
    with sqlite3.connect(path) as store:
        points = store.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert {name for name, _, _ in points} == {folder.name}
    assert [step for _, step, _ in points] == [1, 2, 3, 3, 4]
    seen = {step: json.loads(text)["error"] for _, step, text in points}
    assert seen == pytest.approx({row["step"]: row["error"] for row in rows})


def report(step):
    return StepReport(step, {"error": Mean(0.5), "reward": Mean(0.5)}, 0.1, None)


@needs("trackio")
def test_a_sink_that_dies_is_warned_of_once_and_counted(small_config, caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    recorder = Recorder(create_run(small_config("log.sinks=[tensorboard,trackio]")))
    recorder.record(report(1))
    process = recorder._sinks._open["trackio"]._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    with caplog.at_level(logging.WARNING):
        for step in (2, 3, 4):
            recorder.record(report(step))
        summary = recorder.finish("completed")
    assert summary["status"] == "completed"
    assert summary["sink_failures"] == {"trackio": 4}  # three steps, and its end
    assert [row["step"] for row in recorder.rows] == [1, 2, 3, 4]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("the sink trackio fails, and training goes on without it: its process has ended")


@needs("trackio")
def test_a_sink_that_cannot_begin_says_why(small_config, caplog, monkeypatch):
    monkeypatch.setenv("TRACKIO_SERVER_URL", "nowhere")
    with caplog.at_level(logging.WARNING):
        rows, summary = train(create_run(small_config("steps=2", "log.sinks=[trackio]")))
    assert (summary["status"], len(rows)) == ("completed", 2)
    assert summary["sink_failures"]["trackio"] > 0
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "the sink trackio fails, and training goes on without it: ValueError: `server_url` must be" in warning


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("[tensorbord]", "log.sinks: 'tensorbord': there is no such sink. Fix: did you mean 'tensorboard'?"),
        ("[mlflow,mlflow]", "log.sinks: 'mlflow': is named twice. Fix: name it once."),
    ],
)
def test_what_is_no_sink_is_refused(setting, said, small_config):
    with pytest.raises(UsageError) as caught:
        small_config(f"log.sinks={setting}")
    assert str(caught.value) == said


def test_a_missing_package_is_said_before_anything_starts(small_config, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "trackio" else there(name, *rest)
    )
    with pytest.raises(UsageError, match=r"trackio is not installed. Fix: pip install 'tpo-dist\[trackio\]'"):
        refuse_unready(small_config("log.sinks=[trackio]"), here=True)


@needs("wandb")
def test_a_missing_key_is_said_before_anything_starts(small_config, monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UsageError, match="there is no key for api.wandb.ai"):
        refuse_unready(small_config("log.sinks=[wandb]"), here=True)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    refuse_unready(small_config("log.sinks=[wandb]"), here=True)
