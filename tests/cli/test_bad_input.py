"""What a user can get wrong: one line with the reason and the fix, a non-zero exit code, no traceback, nothing left."""

import os
import socket
import subprocess
import time

import pytest

from tests.cli.run_cli import PROGRAM, call
from tests.conftest import SMALL

JOB = "name: t\nsteps: 3\ntask: {name: token_reversal, length: 3}\n"

# What the job file holds (or None for no file), arguments after it, what the line must say.
CASES = {
    "unknown key": (JOB + "lerner: {}\n", [], ["lerner", "there is no such key", "did you mean 'learner'"]),
    "unknown inner key": (JOB, ["learner.optimizer.learning_rate=1"], ["learner.optimizer.learning_rate", "valid names are name, lr"]),
    "unknown section": (JOB, ["rolout.workers=2"], ["rolout", "no such section", "'rollout'"]),
    "unknown task": (JOB, ["task.name=token_reverse"], ["task.name = 'token_reverse'", "'token_reversal'"]),
    "unknown objective": (JOB, ["objective.name=gpro"], ["objective.name = 'gpro'", "did you mean 'grpo'"]),
    "unknown policy": (JOB, ["policy.name=mamba"], ["policy.name = 'mamba'", "valid names are transformer"]),
    "unknown option": (JOB, ["task.lenght=4"], ["task.lenght", "did you mean 'length'"]),
    "option of another objective": (JOB, ["objective.clip=0.1"], ["objective.clip", "valid names are eta"]),
    "text for a number": (JOB, ["steps=many"], ["steps = 'many'", "valid integer"]),
    "fraction for a count": (JOB, ["rollout.workers=1.5"], ["rollout.workers = 1.5", "integer"]),
    "truth value for a number": (JOB, ["task.length=true"], ["task.length = True", "valid integer"]),
    "list for a number": (JOB, ["steps=[1, 2]"], ["steps = [1, 2]", "valid integer"]),
    "section for a value": (JOB, ["steps.much=2"], ["steps", "holds a int, not keys with values"]),
    "value for a section": (JOB + "learner: 5\n", [], ["learner = 5", "valid dictionary"]),
    "value outside its choices": (JOB, ["task.variant=backwards"], ["task.variant = 'backwards'", "'reverse_copy'"]),
    "no steps": (JOB, ["steps=0"], ["steps = 0", "greater than or equal to 1"]),
    "negative learning rate": (JOB, ["learner.optimizer.lr=-0.1"], ["learner.optimizer.lr = -0.1", "greater than 0"]),
    "learning rate that is no number": (JOB, ["learner.optimizer.lr=.nan"], ["learner.optimizer.lr = nan"]),
    "K = 1 for a grouped method": (JOB, ["rollout.group_size=1"], ["rollout.group_size = 1", "'tpo' compares", "give 2 or more"]),
    "V = 0": (JOB, ["task.vocab=0"], ["task.vocab = 0", "give 2 or more"]),
    "H = 0": (JOB, ["task.length=0"], ["task.length = 0", "at least 1 token"]),
    "eta = 0": (JOB, ["objective.eta=0.0"], ["objective.eta = 0.0", "give a number above 0"]),
    "heads that do not divide": (JOB, ["policy.heads=5"], ["policy.heads = 5", "width = 64"]),
    "blocks that do not divide": (JOB, ["rollout.block_size=7"], ["rollout.block_size = 7", "choose a divisor"]),
    "more workers than blocks": (JOB, ["rollout.workers=5"], ["rollout.workers = 5", "a step has 4 blocks"]),
    "warm-up longer than the run": (JOB, ["learner.schedule.warmup_steps=9"], ["learner.schedule.warmup_steps = 9", "steps = 3"]),
    "CPUs of a joined cluster": (JOB, ["cluster.num_cpus=2", "--address", "auto"], ["cluster.num_cpus = 2", "drop one of the two"]),
    "a device without its GPU": (JOB, ["learner.device=cuda"], ["learner.device = 'cuda'", "set learner.gpus=1"]),
    "a device that does not exist": (JOB, ["rollout.device=tpu"], ["rollout.device = 'tpu'", "give cpu or cuda"]),
    "a name that is no folder name": (JOB, ["name=a/b"], ["name = 'a/b'", "pattern"]),
    "no file": (None, [], ["there is no such file", "give the path of a job file"]),
    "broken YAML": ("steps: [1, 2\nname: x\n", [], ["is not valid YAML", "line"]),
    "a key twice": ("steps: 1\nsteps: 2\n", [], ["is not valid YAML", "duplicate key"]),
    "not keys at all": ("- 1\n- 2\n", [], ["holds a list, not keys with values"]),
    "not text": (b"\xff\xfe\x00\x01", [], ["cannot be read as text"]),
    "an override without a value": (JOB, ["steps"], ["'steps': is not an override", "key=value"]),
    "an override without a key": (JOB, ["=3"], ["'=3': is not an override", "key=value"]),
    "a broken override": (JOB, ["task.length=[1"], ["is not valid YAML"]),
    "a run that is not there": (None, ["--resume", "nothing"], ["--resume nothing", "there is no such run"]),
    "runs_dir that is a file": (JOB, ["runs_dir=/dev/null/x", "--local"], ["runs_dir = '/dev/null/x'", "cannot be written"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_line_with_reason_and_fix(case, tmp_path, monkeypatch, capsys):
    content, arguments, wanted = case
    monkeypatch.chdir(tmp_path)
    job = tmp_path / "job.yaml"
    if isinstance(content, bytes):
        job.write_bytes(content)
    elif content is not None:
        job.write_text(content)
    arguments = arguments if "--resume" in arguments else [job, *arguments]
    started = time.monotonic()
    code, out, err = call(monkeypatch, capsys, "train", *arguments)
    assert code == 2
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert " Fix: " in lines[0]
    for words in wanted:
        assert words in lines[0]
    assert "Traceback" not in out + err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
    assert time.monotonic() - started < 10


def run(*arguments, **environment):
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, **environment},
    )


def test_an_address_without_a_port_is_refused(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(JOB + f"runs_dir: {tmp_path / 'runs'}\n")
    done = run("train", job, "--address", "somewhere")
    assert done.returncode == 2
    assert "error: cluster.address = 'somewhere': is not of the form HOST:PORT" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_address_where_nobody_listens_is_refused_within_seconds(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = tmp_path / "job.yaml"
    job.write_text(JOB + f"runs_dir: {tmp_path / 'runs'}\n")
    started = time.monotonic()
    done = run("train", job, "--address", f"127.0.0.1:{port}")
    assert time.monotonic() - started < 30
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"cluster.address = '127.0.0.1:{port}': nothing answers there" in done.stderr
    assert not list((tmp_path / "runs").iterdir())


def test_a_cluster_without_room_is_refused_and_leaves_nothing(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(JOB + f"runs_dir: {tmp_path / 'runs'}\n")
    done = run("train", job, "cluster.num_cpus=1", "rollout.cpus=2", RAY_AUTH_MODE="disabled")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "placement of 4.5 CPU" in line
    assert "this cluster has 1 CPU to give" in line
    assert "Traceback" not in done.stdout + done.stderr
    assert not list((tmp_path / "runs").iterdir())


def damaged_run(tmp_path, monkeypatch, capsys, damage):
    """Resume a finished run after damaging its newest checkpoint."""
    job = tmp_path / "job.yaml"
    job.write_text(JOB + f"runs_dir: {tmp_path / 'runs'}\n")
    assert call(monkeypatch, capsys, "train", job, *SMALL, "steps=3", "--local", "--json")[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    damage(folder)
    return call(monkeypatch, capsys, "train", "--resume", folder, "steps=6", "--local")


DAMAGES = {
    "corrupt checkpoint": (lambda f: corrupt(f / "checkpoints/step-00000003/model.safetensors"), "checksum"),
    "truncated checkpoint": (lambda f: os.truncate(f / "checkpoints/step-00000003/optimizer.safetensors", 9), "has 9 bytes"),
    "checkpoint without its state": (lambda f: (f / "checkpoints/step-00000003/state.json").unlink(), "lacks this file"),
    "no checkpoint": (lambda f: remove(f / "checkpoints"), "no checkpoint"),
    "broken config.json": (lambda f: (f / "config.json").write_text("{"), "config.json: cannot be read"),
}  # fmt: skip


def corrupt(path):
    path.write_bytes(path.read_bytes()[:-8] + b"\x01" * 8)


def remove(folder):
    import shutil

    shutil.rmtree(folder)


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_run_is_not_resumed(damage, words, tmp_path, monkeypatch, capsys):
    code, out, err = damaged_run(tmp_path, monkeypatch, capsys, damage)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert words in err
    assert "Traceback" not in out + err


def test_a_checkpoint_of_another_model_is_not_resumed(tmp_path, monkeypatch, capsys):
    job = tmp_path / "job.yaml"
    job.write_text(JOB + f"runs_dir: {tmp_path / 'runs'}\n")
    assert call(monkeypatch, capsys, "train", job, *SMALL, "steps=3", "--local", "--json")[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    code, _, err = call(monkeypatch, capsys, "train", "--resume", folder, "steps=6", "policy.width=32", "--local")
    assert code == 2
    assert "holds another model: parameter" in err


def test_no_job_at_all(monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "train")
    assert code == 2
    assert "no job file was given" in err
