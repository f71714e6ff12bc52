"""What a user can get wrong: one line with the reason and the fix, a non-zero exit code, no traceback, nothing left."""

import json
import os
import socket
import time

import pytest

from tests.cli import deadly
from tests.cli.run_cli import call, spawn
from tests.conftest import SMALL

JOB = "name: t\nsteps: 3\ntask: {name: token_reversal, length: 3}\n"

# What the job file holds (or None for no file), arguments after it, what the line must say.
CASES = {
    "unknown key": (JOB + "lerner: {}\n", [], ["lerner", "there is no such key", "did you mean 'learner'"]),
    "unknown inner key": (JOB, ["learner.optimizer.learning_rate=1"], ["learner.optimizer.learning_rate", "valid names are name, lr"]),
    "many blocks at a time where one is": (JOB, ["rollout.concurrency=4"], ["rollout.concurrency = 4", "finishes a block before it begins another"]),
    "a key of another section": (JOB, ["lr=1"], ["lr: there is no such key", "did you mean 'learner.optimizer.lr'?"]),
    "unknown section": (JOB, ["rolout.workers=2"], ["rolout", "no such section", "'rollout'"]),
    "unknown task": (JOB, ["task.name=token_reverse"], ["task.name = 'token_reverse'", "'token_reversal'"]),
    "unknown objective": (JOB, ["objective.name=gpro"], ["objective.name = 'gpro'", "did you mean 'grpo'"]),
    "unknown policy": (JOB, ["policy.name=mamba"], ["policy.name = 'mamba'", "valid names are transformer"]),
    "unknown option": (JOB, ["task.lenght=4"], ["task.lenght", "did you mean 'length'"]),
    "option of another objective": (JOB, ["objective.clip=0.1"], ["objective.clip", "clip is an option of grpo, grpo_no_kl, grpo_masked, ppo", "those of this one are eta, group_distribution"]),
    "option of other objectives": (JOB, ["objective.eta=2.0", "objective.name=grpo"], ["objective.eta", "eta is an option of tpo, tpo_steady, tpo_no_anchor, dg", "those of this one are clip, beta"]),
    "option of a method that has none": (JOB, ["objective.name=reinforce", "objective.eta=2.0"], ["eta is an option of tpo", "this one takes none"]),
    "a name for a section": (JOB, ["objective=grpo"], ["objective = 'grpo'", "write objective.name=grpo"]),
    "a name for a section, with options": (JOB, ["objective.beta=0.1", "objective=grpo"], ["objective = 'grpo'", "write objective.name=grpo"]),
    "a name for a section in the file": (JOB + "policy: transformer\n", [], ["policy = 'transformer'", "{name: transformer}"]),
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
    "learning rate beyond float32": (JOB, ["learner.optimizer.lr=1e30"], ["learner.optimizer.lr = 1e+30", "less than or equal to"]),
    "option that is no number": (JOB, ["objective.name=grpo", "objective.beta=.nan"], ["objective.beta = nan", "give a finite number"]),
    "option without end": (JOB, ["objective.eta=.inf"], ["objective.eta = inf", "give a finite number"]),
    "number too large for a float": (JOB, ["objective.eta=1e999"], ["objective.eta = inf", "give a finite number"]),
    "deadline without end": (JOB, ["deadlines.groups_seconds=.inf"], ["deadlines.groups_seconds = inf", "give a finite number"]),
    "an override without anything behind it": (JOB, ["steps="], ["steps=: there is no value", "write steps=VALUE"]),
    "an anchor inside itself": (JOB + "policy: &p {name: transformer, width: *p}\n", [], ["refers to itself"]),
    "an anchor inside itself as override": (JOB, ["policy=&p {name: transformer, width: *p}"], ["refers to itself"]),
    "nesting without end": (JOB + "policy: " + "[" * 5000 + "\n", [], ["nested too deeply"]),
    "a width beyond all memory": (JOB, ["policy.width=100000000", "--local"], ["parameters alone take", "GiB of memory", "make the policy"]),
    "a vocabulary beyond all memory": (JOB, ["task.vocab=2147483647", "--local"], ["parameters alone take", "GiB"]),
    "a CPU that does not exist": (JOB, ["rollout.device=cpu:foo"], ["rollout.device = 'cpu:foo'", "give cpu or cuda"]),
    "a GPU that does not exist": (JOB, ["learner.device=cuda:99", "learner.gpus=1", "--local"], ["learner.device = 'cuda:99'", "CUDA devices here"]),
    "an address for one process": (JOB, ["--local", "--address", "auto"], ["--address auto", "without Ray", "drop one"]),
    "a job file with --resume": (JOB, ["--resume", "some-run"], ["job.yaml: a job file cannot go with --resume some-run"]),
    "a key as an option": (JOB, ["--seed", "3"], ["--seed: there is no such option", "write seed=3"]),
    "a key as an option with its value": (JOB, ["--steps=5"], ["--steps: there is no such option", "write steps=5"]),
    "an inner key as an option": (JOB, ["--learner.optimizer.lr=1"], ["write learner.optimizer.lr=1"]),
    "an unknown option": (JOB, ["--frobnicate"], ["--frobnicate: there is no such option", "see --help"]),
    "an option without its value": (JOB, ["--address"], ["'--address' requires an argument", "see --help"]),
    "K = 1 for a grouped method": (JOB, ["rollout.group_size=1"], ["rollout.group_size = 1", "'tpo' compares", "give 2 or more"]),
    "V = 0": (JOB, ["task.vocab=0"], ["task.vocab = 0", "give 2 or more"]),
    "H = 0": (JOB, ["task.length=0"], ["task.length = 0", "at least 1 token"]),
    "eta = 0": (JOB, ["objective.eta=0.0"], ["objective.eta = 0.0", "give a number above 0"]),
    "heads that do not divide": (JOB, ["policy.heads=5"], ["policy.heads = 5", "width = 64"]),
    "blocks that do not divide": (JOB, ["rollout.block_size=7"], ["rollout.block_size = 7", "choose a divisor"]),
    "more workers than blocks": (JOB, ["rollout.workers=9"], ["rollout.workers = 9", "at most 8 blocks"]),
    "warm-up longer than the run": (JOB, ["learner.schedule.warmup_steps=9"], ["learner.schedule.warmup_steps = 9", "steps = 3"]),
    "CPUs of a joined cluster": (JOB, ["cluster.num_cpus=2", "--address", "auto"], ["cluster.num_cpus = 2", "drop one of the two"]),
    "ranks of a small policy": (JOB, ["learner.ranks=2"], ["learner.ranks = 2", "policy 'transformer' is a small network", "leave it out"]),
    "log-probs of a policy that draws for itself": (JOB, ["learner.old_logprobs=recompute"], ["learner.old_logprobs = 'recompute'", "draws for itself"]),
    "a mismatch with itself": (JOB, ["learner.mismatch_groups=2"], ["learner.mismatch_groups = 2", "draws for itself"]),
    "micro-batches by two measures": (JOB, ["learner.micro_batch_tokens=9", "learner.micro_batch_candidates=9"], ["learner.micro_batch_tokens = 9", "drop one of the two"]),
    "a negative weight of the reference": (JOB, ["learner.reference_kl=-1.0"], ["learner.reference_kl = -1.0", "greater than or equal to 0"]),
    "a device without its GPU": (JOB, ["learner.device=cuda"], ["learner.device = 'cuda'", "set learner.gpus=1"]),
    "a device that does not exist": (JOB, ["rollout.device=tpu"], ["rollout.device = 'tpu'", "give cpu or cuda"]),
    "a name that is no folder name": (JOB, ["name=a/b"], ["name = 'a/b'", "pattern"]),
    "a sampler of language models for a network of ours": (JOB, ["sampler.name=transformers"], ["sampler.name = 'transformers'", "policy 'transformer' is a network of ours", "give sampler.name=policy"]),
    "a truncated distribution": (JOB, ["sampler.name=transformers", "sampler.top_p=0.9"], ["sampler.top_p = 0.9", "another distribution than the one that was sampled from", "leave top_p out"]),
    "an unknown sampler": (JOB, ["sampler.name=vlm"], ["sampler.name = 'vlm'", "there is no such sampler"]),
    "an option of another sampler": (JOB, ["sampler.max_sequences=8"], ["max_sequences is an option of transformers, vllm", "this one takes none"]),
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
    arguments = arguments if content is None and "--resume" in arguments else [job, *arguments]
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
    assert time.monotonic() - started < 120  # nothing was started


def run(tmp_path, *arguments, **environment):
    """Exit code and standard error of a process of its own: one that is joined to a cluster joins no other."""
    out, errors = tmp_path / "out", tmp_path / "errors"
    process = deadly.run(arguments, out, None, errors, **environment)
    process.join(120)
    assert "Traceback" not in out.read_text()
    return process.exitcode, errors.read_text()


def test_an_address_without_a_port_is_refused(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(JOB + f"runs_dir: {tmp_path / 'runs'}\n")
    code, said = run(tmp_path, "train", job, "--address", "somewhere")
    assert code == 2
    assert "error: cluster.address = 'somewhere': is not of the form HOST:PORT" in said
    assert said.count("\n") == 1


def test_an_address_where_nobody_listens_is_refused_within_seconds(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = tmp_path / "job.yaml"
    job.write_text(JOB + f"runs_dir: {tmp_path / 'runs'}\n")
    started = time.monotonic()
    code, said = run(tmp_path, "train", job, "--address", f"127.0.0.1:{port}")
    assert time.monotonic() - started < 30
    assert code == 2
    assert said.count("\n") == 1
    assert f"cluster.address = '127.0.0.1:{port}': nothing answers there" in said
    assert not list((tmp_path / "runs").iterdir())


def test_a_cluster_without_room_is_refused_and_leaves_nothing(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(JOB + f"runs_dir: {tmp_path / 'runs'}\n")
    code, said = run(tmp_path, "train", job, "cluster.num_cpus=1", "rollout.cpus=2", RAY_AUTH_MODE="disabled")
    assert code == 2
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "placement of 4.5 CPU" in line
    assert "this cluster has 1 CPU to give" in line
    assert "Traceback" not in said
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


def contents(folder):
    """Every file of a run but its lock, which says who held it last."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"}


def rewrite_config(folder, **policy):
    settings = json.loads((folder / "config.json").read_text())
    settings["policy"] |= policy
    (folder / "config.json").write_text(json.dumps(settings))


def finished(tmp_path, monkeypatch, capsys):
    """The folder of a run of three steps, with a metrics row behind its checkpoint, as a crash leaves it."""
    job = tmp_path / "job.yaml"
    job.write_text(JOB + f"runs_dir: {tmp_path / 'runs'}\n")
    assert call(monkeypatch, capsys, "train", job, *SMALL, "steps=3", "--local", "--json")[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 4, "error": 1.0, "step_seconds": 0.1}\n')
    return folder


ROW = '{"step": 1, "error": 1.0, "step_seconds": 0.1}'

FAILED_STARTS = {
    "a checkpoint of another model": (["--local"], "holds another model: parameter", lambda f: rewrite_config(f, width=32)),
    "a checkpoint of another model on Ray": ([], "holds another model: parameter", lambda f: rewrite_config(f, width=32)),
    "another optimizer": (["--local", "learner.optimizer.name=adamw"], "state of another optimizer", None),
    "a cluster that does not answer": (["--address", "127.0.0.1:9"], "nothing answers there", None),
    "no room": (["cluster.num_cpus=1", "rollout.cpus=3"], "placement of 3.5 CPU", None),
    "no such device": (["--local", "learner.device=cuda:99", "learner.gpus=1"], "CUDA devices here", None),
    "damaged metrics": (["--local"], "metrics.jsonl, line 2", lambda f: (f / "metrics.jsonl").write_text(f"{ROW}\n[1]\n{ROW}\n")),
}  # fmt: skip


@pytest.mark.parametrize(("options", "words", "prepare"), FAILED_STARTS.values(), ids=FAILED_STARTS.keys())
def test_a_resume_that_cannot_start_changes_nothing(options, words, prepare, tmp_path, monkeypatch, capsys):
    folder = finished(tmp_path, monkeypatch, capsys)
    if prepare is not None:
        prepare(folder)
    before = contents(folder)
    arguments = ("train", "--resume", folder, "steps=6", "deadlines.connect_seconds=3.0", *options)
    if options:
        code, said = run(tmp_path, *arguments, RAY_AUTH_MODE="disabled")
    else:  # actors of Ray, which do not like to descend from a forked driver
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", "disabled")
            process = spawn(*arguments)
        said = process.communicate(timeout=180)[1]
        code = process.returncode
    assert code == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert words in line
    assert "Traceback" not in said
    assert contents(folder) == before
    assert json.loads((folder / "summary.json").read_text())["status"] == "completed"


def test_a_summary_that_says_running_is_corrected_by_a_start_that_fails(tmp_path, monkeypatch, capsys):
    folder = finished(tmp_path, monkeypatch, capsys)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "status": "running"}))  # as SIGKILL leaves it
    rewrite_config(folder, width=32)
    assert call(monkeypatch, capsys, "train", "--resume", folder, "steps=6", "--local")[0] == 2
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"


def test_mistakes_of_the_framework_are_one_line_everywhere(monkeypatch, capsys):
    for arguments, words in (
        (["trian"], "No such command 'trian'"),
        (["--nonsense"], "--nonsense: there is no such option"),
        (["bench", "step", "--repeats", "x"], "valid integer"),
        (["bench", "step", "--repeats", "0"], "--repeats"),
    ):
        code, out, err = call(monkeypatch, capsys, *arguments)
        assert code == 2
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        assert words in err
        assert " Fix: " in err


def test_no_job_at_all(monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "train")
    assert code == 2
    assert "no job file was given" in err
