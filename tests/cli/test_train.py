"""`tpo-dist train` as a user runs it: through Ray, interrupted, resumed, read by people and by machines."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.cli.run_cli import ROOT, call, spawn
from tests.conftest import SMALL
from tests.processes import wait_for
from tests.programs.test_local import final_weights
from tpo_dist import __version__
from tpo_dist.bench import ray_tax
from tpo_dist.errors import UsageError
from tpo_dist.programs.job import configure
from tpo_dist.programs.lock import hold
from tpo_dist.programs.run import Run

JOB = ROOT / "jobs" / "token_reversal.yaml"
SUMMARY_KEYS = {
    "run",
    "status",
    "reason",
    "step",
    "steps",
    "error",
    "reward",
    "seconds",
    "steps_per_second",
    "checkpoint",
    "resumed_from_step",
    "sink_failures",
    "groups_failed",
}


def weights(folder):
    return final_weights(Run(configure(json.loads((folder / "config.json").read_text())), folder))


def only_run(tmp_path):
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def test_json_is_one_object_and_nothing_else(tmp_path, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "train", JOB, *SMALL, f"runs_dir={tmp_path / 'runs'}", "--local", "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary.keys() == SUMMARY_KEYS
    assert summary["status"] == "completed"
    assert json.loads((only_run(tmp_path) / "summary.json").read_text()) == summary


def test_a_person_sees_it_learn(tmp_path, monkeypatch, capsys):
    code, out, _ = call(
        monkeypatch, capsys, "train", JOB, *SMALL, f"runs_dir={tmp_path / 'runs'}", "log.plot=true", "--local"
    )
    assert code == 0
    for words in ("tpo on token_reversal, 20 steps", "run folder:", "error 0.", "left", "completed at step 20 of 20"):
        assert words in out
    assert "learning_curve.png" in out


def test_groups_that_failed_are_told_of_at_the_end(tmp_path, monkeypatch, capfd):
    settings = ("task.name=judged_reversal", "task.length=2", "task.seconds=0", "task.fail_every=8", "steps=4")
    where = f"runs_dir={tmp_path / 'runs'}"
    code, out, _ = call(monkeypatch, capfd, "train", JOB, *SMALL, *settings, where, "--local")
    assert code == 0
    failed = json.loads((only_run(tmp_path) / "summary.json").read_text())["groups_failed"]
    assert failed > 0
    assert f"failed      {failed} groups, left out of training: tpo-dist ledger " in out
    _, out, _ = call(monkeypatch, capfd, "status", only_run(tmp_path))
    assert f"{failed} groups failed; tpo-dist ledger says why" in out


@pytest.mark.ray
def test_ctrl_c_saves_and_resume_goes_on_to_the_same_end(tmp_path):
    """Through Ray with two workers; the result equals that of a run that nobody interrupted, bit for bit."""
    options = [*SMALL, "rollout.workers=2", "steps=60", f"runs_dir={tmp_path / 'runs'}"]
    process = spawn("train", JOB, *options)
    metrics = wait_for(lambda: list((tmp_path / "runs").glob("*/metrics.jsonl")), "the run", 60)[0]
    wait_for(lambda: len(metrics.read_text().splitlines()) >= 3, "three steps", 120)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    folder = only_run(tmp_path)
    assert "stopping after this step" in err
    assert "go on with: tpo-dist train --resume" in err
    assert str(folder.name) in err
    assert "Traceback" not in out + err
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert 3 <= summary["step"] < 60
    stopped = weights(folder)[0]
    assert stopped >= summary["step"]

    process = spawn("train", "--resume", folder, "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    resumed = json.loads(out)
    assert (resumed["status"], resumed["step"], resumed["resumed_from_step"]) == ("completed", 60, stopped)

    straight = spawn("train", JOB, *options[:-1], f"runs_dir={tmp_path / 'straight'}", "--local", "--json")
    out, err = straight.communicate(timeout=120)
    assert straight.returncode == 0, err
    (other,) = (tmp_path / "straight").iterdir()
    for (name, one), two in zip(weights(folder)[1].items(), weights(other)[1].values(), strict=True):
        assert (one == two).all(), name
    assert resumed["error"] == json.loads(out)["error"]


@pytest.mark.parametrize(
    "options", [pytest.param(("--local",), id="one process"), pytest.param((), id="Ray", marks=pytest.mark.ray)]
)
def test_sigterm_ends_a_run_in_order(options, tmp_path):
    process = spawn("train", JOB, *SMALL, *options, "steps=100000", f"runs_dir={tmp_path / 'runs'}")
    metrics = wait_for(lambda: list((tmp_path / "runs").glob("*/metrics.jsonl")), "the run", 60)[0]
    wait_for(lambda: len(metrics.read_text().splitlines()) >= 3, "three steps", 120)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping after this step" in err
    assert "SIGTERM" not in out + err  # the head of a native stack trace
    assert "Traceback" not in out + err
    folder = only_run(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["checkpoint"] is not None
    assert weights(folder)[0] >= summary["step"] >= 3


def test_one_process_at_a_time_trains_a_run(tmp_path):
    options = [*SMALL, "checkpoint.every_steps=5", "steps=100000", f"runs_dir={tmp_path / 'runs'}", "--local"]
    process = spawn("train", JOB, *options)
    wait_for(lambda: list((tmp_path / "runs").glob("*/checkpoints/step-*05")), "the first checkpoint", 60)
    folder = only_run(tmp_path)
    second = spawn("train", "--resume", folder, "--local")
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert err.startswith(f"error: {folder / 'run.lock'}: process {process.pid} on ")
    assert err.count("\n") == 1
    os.kill(process.pid, signal.SIGKILL)  # the lock goes with its holder
    process.communicate()
    third = spawn("train", "--resume", folder, "--dry-run")
    assert third.communicate(timeout=60)[1].startswith("needs 1 CPU and 0 GPU")
    assert third.returncode == 0
    with hold(folder), pytest.raises(UsageError, match=f"process {os.getpid()} on .* holds this lock"), hold(folder):
        pass
    with hold(folder):
        pass


def test_resuming_tells_what_changed(tmp_path, monkeypatch, capsys):
    arguments = ("train", JOB, *SMALL, "steps=2", f"runs_dir={tmp_path / 'runs'}", "--local", "--json")
    assert call(monkeypatch, capsys, *arguments)[0] == 0
    resume = ("train", "--resume", only_run(tmp_path), "steps=3", "learner.optimizer.lr=3e-4", "--local", "--json")
    told = "changed: steps 2 -> 3\nchanged: learner.optimizer.lr 0.001 -> 0.0003\n"
    code, out, err = call(monkeypatch, capsys, *resume, "--dry-run")
    assert (code, err) == (0, told)
    assert json.loads(out)["steps"] == 3
    assert json.loads((only_run(tmp_path) / "config.json").read_text())["steps"] == 2
    code, out, err = call(monkeypatch, capsys, *resume)
    assert (code, err) == (0, told)
    assert json.loads(out)["step"] == 3
    assert json.loads((only_run(tmp_path) / "config.json").read_text())["steps"] == 3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("cluster.num_cpus=2",), "needs 1.5 CPU and 0 GPU; a cluster started here has 2 CPU and 0 GPU: enough"),
        (("cluster.num_cpus=1",), "has 1 CPU and 0 GPU: too little"),
        (("learner.gpus=99",), "needs 1.5 CPU and 99 GPU; a cluster started here has"),
        (("cluster.address=auto", "rollout.workers=4"), "needs 2.5 CPU and 0 GPU of the cluster at auto"),
    ],
)
def test_dry_run_says_what_it_takes(overrides, words, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    code, _, err = call(monkeypatch, capsys, "train", JOB, *overrides, "--dry-run")
    assert code == 0
    assert err.count("\n") == 1
    assert words in err


def test_a_run_killed_outright_is_resumed_from_its_last_checkpoint(tmp_path):
    options = [*SMALL, "steps=40", "checkpoint.every_steps=5", f"runs_dir={tmp_path / 'runs'}"]
    process = spawn("train", JOB, *options, "steps=100000", "--local")
    wait_for(lambda: list((tmp_path / "runs").glob("*/checkpoints/step-*10")), "the checkpoint of step 10", 60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    folder = only_run(tmp_path)
    assert json.loads((folder / "summary.json").read_text())["status"] == "running"
    newest = max(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))
    end = newest + 5
    process = spawn("train", "--resume", folder, f"steps={end}", "--local", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["resumed_from_step"] == newest
    rows = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, end + 1))


def test_a_failure_while_running_is_one_line_and_exit_code_1(tmp_path, monkeypatch, capsys):
    code, out, err = call(
        monkeypatch, capsys, "train", JOB, *SMALL, f"runs_dir={tmp_path / 'runs'}", "--local",
        "objective.name=ppo", "learner.optimizer.lr=1e18", "task.reward=bag_of_tokens", "checkpoint.every_steps=1",
    )  # fmt: skip
    assert code == 1
    assert "error: the gradient of step" in err
    assert "Traceback" not in out + err
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "learner.max_grad_norm" in summary["reason"]


def test_dry_run_prints_what_would_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("train", JOB, "learner.optimizer.lr=3e-4", "--dry-run")
    code, out, _ = call(monkeypatch, capsys, *arguments)
    assert code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(out)
    code, as_json, _ = call(monkeypatch, capsys, *arguments, "--json")
    settings = json.loads(as_json)
    assert settings["learner"]["optimizer"]["lr"] == 3e-4
    assert settings["learner"]["epochs"] == 4
    assert call(monkeypatch, capsys, "train", printed, "--dry-run", "--json")[1] == as_json
    assert not (tmp_path / "runs").exists()


def test_keys_are_listed(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "train", "--keys")
    assert code == 0
    assert "learner.optimizer.lr" in out
    entries = json.loads(call(monkeypatch, capsys, "train", "--keys", "--json")[1])
    assert {"key", "default", "meaning"} == entries[0].keys()
    meanings = {entry["key"]: entry["meaning"] for entry in entries}
    for key, words in (
        ("task.variant", "one of copy, flip, reverse_copy, reverse_flip. What the answer is"),
        ("task.reward", "one of bag_of_tokens, sequential, terminal. bag_of_tokens: each right token counts"),
        ("objective.group_distribution", "one of sequence, length_mean, ratio"),
        ("objective.group_distribution", "tpo_no_anchor"),
        ("objective.eta", "Temperature of the target; smaller trusts the scores more; dg: Temperature of the gate"),
        ("learner.schedule.name", "one of constant, linear, cosine. shape of the decay"),
        ("rollout.candidates", "one of sequence, token."),
        ("cluster.placement", "one of PACK, SPREAD"),
        ("policy.width", "transformer (default 64): Numbers that stand for a token"),
    ):
        assert words in meanings[key], key


def test_version_and_help(monkeypatch, capsys):
    assert call(monkeypatch, capsys, "--version")[1].strip() == __version__
    code, out, _ = call(monkeypatch, capsys, "train", "--help")
    assert code == 0
    for key in SUMMARY_KEYS:
        assert key in out, key


def test_help_does_not_wait_for_torch():
    check = "import sys; import tpo_dist.cli.main; assert 'torch' not in sys.modules and 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("step", {"seconds_per_step", "speedup_over_plain_torch", "dense_speedup_over_plain_torch", "parts"}),
    ],
)
def test_bench_prints_one_object(name, keys, monkeypatch, capsys):
    code, out, _ = call(
        monkeypatch, capsys, "bench", name, "--repeats", 1, "--json", "task.length=3", "rollout.groups_per_step=8"
    )
    assert code == 0
    result = json.loads(out)
    assert keys <= result.keys()
    assert result["seconds_per_step"] > 0
    _, text, _ = call(monkeypatch, capsys, "bench", name, "--help")
    assert all(key in text for key in result)


@pytest.mark.parametrize(("more", "lines"), [((), 4), (("--json",), 0)], ids=["for a person", "--json"])
def test_bench_says_how_far_it_is(more, lines, monkeypatch, capsys):
    code, out, err = call(
        monkeypatch, capsys, "bench", "step", "--repeats", 1, "task.length=3", "rollout.groups_per_step=8", *more
    )
    assert code == 0
    assert err.count("\n") == lines
    assert "dense" in out
    if lines:
        assert "terminal: warm-up: " in err
        assert "dense: repetition 1 of 1: " in err


def test_overhead_is_that_of_the_medians_beside_it():
    result = ray_tax._summary([([1.0, 2.0], [2.0, 2.0]), ([4.0, 4.0], [4.0, 12.0])], 2, 4)
    assert result["overhead"] == result["ray_seconds_per_step"] / result["local_seconds_per_step"] == 1.0
    assert result["paired_overhead"] == pytest.approx((2 / 1.5 + 8 / 4) / 2)
