"""A real head and two nodes by the entry scripts, with a token: what a user does with a cluster, from outside."""

import json
import re
import urllib.request

import pytest

from tests.cli.run_cli import ROOT
from tests.clusters.nodes import Cluster
from tests.processes import wait_for

pytestmark = pytest.mark.ray

JOB = ROOT / "jobs" / "token_reversal.yaml"
SMALL = (
    "task.length=4",
    "rollout.groups_per_step=16",
    "rollout.block_size=4",
    "rollout.group_size=8",
    "rollout.workers=1",
    "learner.resources.learner=0.001",
    "rollout.resources.rollout=0.001",
    "log.sinks=[]",
    "log.plot=false",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.driver_metrics = cluster.start("head", TPO_CPUS="1")
        cluster.start("worker", TPO_CPUS="1", TPO_ROLE="learner")
        cluster.rollout_metrics = cluster.start("worker", TPO_CPUS="2", TPO_ROLE="rollout")
        yield cluster
    finally:
        cluster.end()


def submit(cluster, *arguments, **environment):
    return cluster.call("submit", *arguments, "--address", cluster.address, **environment)


def run_of(cluster, name):
    """The folder of the only run of that name, once there is one."""
    found = list((cluster.folder / "runs").glob(f"{name}-*/config.json"))
    return found[0].parent if found else None


def test_a_dry_run_says_what_would_go_where_and_what_is_missing(cluster):
    code, out, err = submit(cluster, JOB, *SMALL, "rollout.block_size=2", "rollout.workers=5", "--dry-run", "--json")
    assert code == 1, err
    plan = json.loads(out)
    kinds = {row["who"]: row["kind"] for row in plan["placed"]}
    assert kinds["learner"] == "learner"
    assert [kinds[f"rollout-{number}"] for number in range(5)] == ["rollout"] * 4 + [None]  # two CPUs, half of one each
    assert plan["missing"] == {"CPU": 0.5}
    assert not (cluster.folder / "runs").exists()


def test_a_job_is_followed_to_its_end(cluster):
    code, out, err = submit(cluster, JOB, *SMALL, "name=followed", "steps=12", "--metadata", "team=tests", "--follow")
    assert code == 0, out + err
    assert "completed at step 12 of 12" in out
    summary = json.loads((run_of(cluster, "followed") / "summary.json").read_text())
    assert (summary["status"], summary["step"]) == ("completed", 12)
    code, out, _ = submit(cluster, "--list", "--json")
    [job] = json.loads(out)
    assert (job["status"], job["exit_code"], job["metadata"]["team"]) == ("SUCCEEDED", 0, "tests")
    assert job["command"].startswith("exec tpo-dist train followed.yaml ")
    assert cluster.token not in out


def test_a_job_that_fails_passes_its_exit_code_on(cluster):
    code, out, _ = submit(cluster, JOB, "runs_dir=/dev/null/nowhere", "--follow")
    assert code == 2
    assert "runs_dir = '/dev/null/nowhere': cannot be written" in out


def test_a_run_is_scaled_watched_and_stopped_from_outside(cluster):
    code, out, err = submit(cluster, JOB, *SMALL, "name=stopped", "steps=1000000", "--id", "second", "--json")
    assert code == 0, err
    assert json.loads(out)["id"] == "second"
    folder = wait_for(lambda: run_of(cluster, "stopped"), "the run to begin", 180)
    wait_for(lambda: (folder / "metrics.jsonl").exists() and (folder / "status.json").exists(), "a step", 180)

    code, out, err = cluster.call("scale", folder, "--rollouts", 3, "--wait", 120, "--json")
    assert code == 0, err
    assert json.loads(out)["alive"] == 3
    code, out, err = cluster.call("status", folder, "--json")
    seen = json.loads(out)
    assert (seen["word"], seen["running"], seen["status"]["rollouts"]["alive"]) == ("running", True, 3)

    wait_for(lambda: "ray_tpo_dist_workers_alive" in numbers(cluster.driver_metrics), "metrics of the driver", 90)
    assert any(name.startswith("ray_node_") for name in numbers(cluster.rollout_metrics))

    code, out, err = submit(cluster, "--stop", "second", "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == "STOPPED"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert (folder / "checkpoints").is_dir()
    assert summary["checkpoint"] is not None
    leaked = [path for path in folder.rglob("*") if path.is_file() and cluster.token.encode() in path.read_bytes()]
    assert not leaked


def numbers(port):
    """The names of the metrics that a node tells."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return set(re.findall(r"^([a-z_]+)[{ ]", answer.read().decode(), re.MULTILINE))


REFUSALS = {
    "without the token": ({"RAY_AUTH_TOKEN": "", "HOME": "/nonexistent"}, "asks for a token, and none was shown"),
    "with another token": ({"RAY_AUTH_TOKEN": "x" * 32}, "the token in RAY_AUTH_TOKEN is not that of the cluster"),
}


def test_nobody_gets_in_without_the_token(cluster):
    callers = {case: cluster.spawn("submit", JOB, "--address", cluster.address, **environment)
               for case, (environment, _) in REFUSALS.items()}  # fmt: skip
    for case, (_, words) in REFUSALS.items():
        out, err = callers[case].communicate(timeout=180)
        assert callers[case].returncode == 2, case
        assert err.startswith(f"error: --address {cluster.address}: ")
        assert words in err
        assert " Fix: set " in err
        assert out == ""


@pytest.mark.parametrize("errand", [("--stop", "nobody"), ("--status", "nobody", "--follow")], ids=["stop", "follow"])
def test_a_job_that_is_not_there(cluster, errand):
    code, _, err = submit(cluster, *errand)
    assert code == 2
    assert err == f"error: job nobody: {cluster.address} does not know it. Fix: see tpo-dist submit --list.\n"
