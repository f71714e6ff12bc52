"""What a job takes along to a cluster, the command that runs it there, and where its processes would go."""

import shlex
import subprocess

import pytest
from ruamel.yaml import YAML

from tests.cli.run_cli import ROOT
from tpo_dist.errors import UsageError
from tpo_dist.programs.job import compose, configure, load_job, read_job
from tpo_dist.programs.needs import plan_of
from tpo_dist.programs.submission import Luggage, pack
from tpo_dist.runtime.plan import NodeRoom, missing_of

JOB = "name: small\ntask: {name: token_reversal, length: 3}\nsteps: 3\n"


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "jobs" / "small.yaml"
    path.parent.mkdir()
    path.write_text(JOB)
    return path


@pytest.fixture
def made(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    return folder


def test_a_job_takes_itself_along_with_its_bases_and_nothing_else(made):
    pair = ROOT / "jobs" / "paper" / "qwen3_gsm8k_grpo.yaml"
    parcel = pack(pair, ["policy.path=/models/qwen3"], Luggage(), made)  # which this machine does not have
    assert [path.name for path in made.iterdir()] == ["qwen3_gsm8k_grpo.yaml"]
    assert read_job(made / "qwen3_gsm8k_grpo.yaml") == read_job(pair)
    assert "base" not in YAML(typ="safe").load((made / "qwen3_gsm8k_grpo.yaml").read_text())
    assert parcel.id.startswith("qwen3_gsm8k_grpo-")
    assert parcel.runtime_env["working_dir"] == str(made)


@pytest.fixture
def told(tmp_path):
    """What the shell of a job server makes of a command, told by a program in place of tpo-dist."""
    program = tmp_path / "tpo-dist"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o700)

    def run(command, **environment):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **environment}
        return subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_command_survives_the_shell_and_the_cluster_names_the_folder(job, made, told):
    overrides = ["task={name: token_reversal, length: 4}", "log.plot=false", "name=a-b"]
    parcel = pack(job, overrides, Luggage(), made)
    assert parcel.command.startswith("exec tpo-dist train ")
    heard = told(parcel.command, TPO_DIST_RUNS="/shared/my runs")
    wanted = ["train", "a-b.yaml", *overrides, "--address", "auto", "runs_dir=/shared/my runs"]
    assert heard.stdout.splitlines() == wanted
    none = told(parcel.command)
    assert none.returncode != 0
    assert "TPO_DIST_RUNS: not set on the head. Fix: " in none.stderr


def test_a_folder_for_runs_of_the_user_s_stays(job, made, told):
    parcel = pack(job, ["runs_dir=/mine"], Luggage(), made)
    assert shlex.split(parcel.command)[-1] == "auto"
    assert told(parcel.command).stdout.splitlines()[2] == "runs_dir=/mine"


def test_a_run_that_is_stopped_gets_the_time_of_a_step(job, made):
    parcel = pack(job, ["deadlines.update_seconds=50.0", "deadlines.start_seconds=7.5"], Luggage(), made)
    assert parcel.runtime_env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "58"


def test_a_wheel_travels_and_is_installed_first(job, made, tmp_path):
    wheel = tmp_path / "tpo_dist-1-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    parcel = pack(job, [], Luggage(wheel=wheel, packages=("einops",)), made)
    assert (made / wheel.name).read_bytes() == b"a wheel"
    assert parcel.runtime_env["pip"] == [f"${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{wheel.name}", "einops"]


def test_a_working_folder_travels_as_it_is(job, made, tmp_path):
    parcel = pack(job, [], Luggage(working_dir=tmp_path), made)
    assert parcel.runtime_env["working_dir"] == str(tmp_path)
    assert parcel.command.startswith("exec tpo-dist train jobs/small.yaml ")
    assert not list(made.iterdir())


def test_what_cannot_travel_is_refused(job, made, tmp_path, monkeypatch):
    def refusal(overrides=(), luggage=None, text=None):
        if text is not None:
            job.write_text(text)
        with pytest.raises(UsageError) as caught:
            pack(job, list(overrides), luggage or Luggage(), made)
        return str(caught.value)

    assert "runs_dir = 'here': is relative" in refusal(["runs_dir=here"])
    assert "steps = 0" in refusal(["steps=0"])
    assert "is no wheel" in refusal(luggage=Luggage(wheel=job))
    assert "is not in the working folder" in refusal(luggage=Luggage(working_dir=made))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    (tmp_path / "score.py").write_text("def score(prompt, completion, answer): return 0.0\n")
    rows = "task: {name: text, path: /data/rows.jsonl, scorer: score.py:score}\npolicy: {name: causal_lm, path: /m}\n"
    assert "task.scorer = 'score.py:score': is a file here, which the job does not take along" in refusal(text=rows)
    words = refusal(["task.scorer=answer_tag", "task.path=rows.jsonl"])
    assert "task.path = 'rows.jsonl': is a file here" in words
    assert "--working-dir ." in words


def node(kind, cpus, head=False, **more):
    amounts = {"CPU": cpus, **more}
    return NodeRoom(f"{kind}-{cpus}-{len(more)}-{head}", f"10.0.0.{int(cpus)}", kind, head, amounts, amounts)


RUN = ("rollout.workers=3", "rollout.cpus=1", "learner.cpus=2", "rollout.groups_per_step=8", "rollout.block_size=1")


def where(placed):
    return [(each.seat.who, each.node and each.node.address) for each in placed]


def test_roles_decide_which_node():
    roles = ("learner.resources.learner=0.001", "rollout.resources.rollout=0.001")
    nodes = [node("head", 0, head=True), node("rollout", 16, GPU=4, rollout=1), node("learner", 32, GPU=1, learner=1)]
    placed = plan_of(compose(read_job(ROOT / "jobs" / "paper" / "qwen3_gsm8k_tpo.yaml"), roles), nodes)
    assert where(placed) == [
        ("learner", "10.0.0.32"),
        ("rollout-0", "10.0.0.16"),
        ("rollout-1", "10.0.0.16"),
        ("evaluator", "10.0.0.16"),
    ]
    assert missing_of(placed) == {}


def test_pack_fills_a_node_and_spread_takes_the_emptiest(job):
    nodes = [node("node", 6), node("node", 5)]
    packed = plan_of(load_job(job, RUN), nodes)
    assert where(packed) == [("learner", "10.0.0.5"), *((f"rollout-{number}", "10.0.0.5") for number in range(3))]
    spread = plan_of(load_job(job, (*RUN, "cluster.placement=SPREAD")), nodes)
    assert [address for _, address in where(spread)] == ["10.0.0.6", "10.0.0.5", "10.0.0.6", "10.0.0.5"]


def test_what_is_missing_is_told_of_the_node_that_is_nearest_to_enough(job):
    short = plan_of(load_job(job, RUN), [node("node", 3.5)])
    assert where(short)[2:] == [("rollout-1", None), ("rollout-2", None)]
    assert [dict(each.missing) for each in short[2:]] == [{"CPU": 0.5}, {"CPU": 0.5}]
    assert missing_of(short) == {"CPU": 1.0}
    strangers = plan_of(load_job(job, (*RUN, "learner.resources.learner=1")), [node("node", 9, rollout=1)])
    assert dict(strangers[0].missing) == {"learner": 1.0}


def test_a_node_that_is_full_counts_before_one_of_another_role():
    roles = ("learner.resources.learner=0.001", "rollout.resources.rollout=0.001")
    nodes = [node("head", 9, head=True), node("rollout", 2, rollout=1), node("learner", 5, learner=1)]
    placed = plan_of(configure({}, (*RUN, *roles)), nodes)
    assert where(placed)[-1] == ("rollout-2", None)
    assert dict(placed[-1].missing) == {"CPU": 1.0}


def test_a_learner_beside_the_driver_needs_room_on_the_head(job):
    nodes = [node("head", 1, head=True), node("node", 8)]
    placed = plan_of(load_job(job, (*RUN, "learner.node=driver")), nodes)
    assert (placed[0].node, dict(placed[0].missing)) == (None, {"CPU": 1.0})
    assert dict(plan_of(load_job(job, RUN), [])[0].missing) == {"CPU": 2.0}


def test_an_amount_of_a_resource_is_above_0():
    with pytest.raises(UsageError, match=r"rollout.resources.*greater than 0"):
        configure({}, ["rollout.resources.rollout=0"])
