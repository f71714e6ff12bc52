"""The Slurm script for real, under a scheduler of a few lines that starts its processes on this machine."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.cli.run_cli import ROOT
from tests.clusters.nodes import PROGRAMS, clean_environment, free_ports
from tests.processes import wait_for

pytestmark = pytest.mark.ray

STUB = Path(__file__).parent / "scheduler"
SCRIPT = ROOT / "clusters" / "slurm" / "train.sbatch"
SMALL = (
    "task.length=4",
    "rollout.groups_per_step=16",
    "rollout.block_size=4",
    "rollout.group_size=8",
    "rollout.workers=2",
    "log.sinks=[]",
    "log.plot=false",
)


@pytest.fixture
def slurm(tmp_path):
    """Start the script as sbatch would; what it started ends with the test."""
    (tmp_path / "hosts").write_text(f"{socket.gethostname()}\nnode-2\n")
    gcs, dashboard, client, agent, _, _, metrics, _ = block = free_ports(8)
    settings = {"PORT": gcs, "DASHBOARD_PORT": dashboard, "CLIENT_PORT": client, "OBJECT_STORE_MB": 128}
    settings |= {
        "AGENT_PORT": min(agent, 65000),
        "METRICS_PORT": min(metrics, 65000),
        "TEMP_DIR": f"/tmp/tpo{block[4]}",
    }
    environment = clean_environment(
        PATH=f"{STUB}:{PROGRAMS}:{os.environ['PATH']}",
        STUB_FOLDER=str(tmp_path),
        SLURM_SUBMIT_DIR=str(ROOT),
        SLURM_JOB_ID="4711",
        SLURM_JOB_NODELIST="all",
        SLURM_CPUS_PER_TASK="1",
        TPO_DIST_RUNS=str(tmp_path / "runs"),
        **{f"TPO_{name}": str(value) for name, value in settings.items()},
    )
    started = []

    def start(*arguments):
        log = (tmp_path / "job.out").open("a")
        command = [str(SCRIPT), str(ROOT / "jobs" / "token_reversal.yaml"), *arguments]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        log.close()
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    shutil.rmtree(environment["TPO_TEMP_DIR"], ignore_errors=True)


def test_a_job_whose_time_is_up_is_queued_again_and_goes_on_where_it_was(slurm, tmp_path):
    def told():
        return (tmp_path / "job.out").read_text()[-3000:]

    def filled(path):
        return path.stat().st_size > 0

    first = slurm(*SMALL, "steps=1000000")
    folder = wait_for(
        lambda: first.poll() is not None or next(filter(filled, (tmp_path / "runs").glob("*/metrics.jsonl")), None),
        "the first step under Slurm",
        300,
    )
    assert folder is not True and first.poll() is None, told()  # noqa: PT018 (the log tells which)
    folder = folder.parent
    assert folder.name.startswith("token_reversal-slurm4711-")
    token = tmp_path / "runs" / ".slurm-4711.token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    first.send_signal(signal.SIGUSR1)  # of #SBATCH --signal, to the script alone
    assert first.wait(180) == 130, told()
    assert (tmp_path / "requeued").read_text() == "4711\n"
    before = json.loads((folder / "summary.json").read_text())
    assert (before["status"], before["checkpoint"] is not None) == ("interrupted", True)
    assert not token.exists()
    roles = [line.split()[:2] for line in (tmp_path / "srun.log").read_text().splitlines()]
    assert roles == [[socket.gethostname(), "learner"], ["node-2", "rollout"]]

    (folder / "config.json").write_text(  # so that it has an end
        json.dumps({**json.loads((folder / "config.json").read_text()), "steps": before["step"] + 3})
    )
    second = slurm(*SMALL, "steps=1000000")
    assert second.wait(400) == 0, told()
    after = json.loads((folder / "summary.json").read_text())
    assert (after["status"], after["resumed_from_step"]) == ("completed", before["step"])
    assert [path.parent for path in (tmp_path / "runs").glob("*/config.json")] == [folder]
    assert (tmp_path / "requeued").read_text() == "4711\n"


def test_it_says_how_it_is_used():
    done = subprocess.run([SCRIPT], capture_output=True, text=True, env=clean_environment(), check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch clusters/slurm/train.sbatch JOB.yaml")


@pytest.mark.parametrize(("ends_with", "queued"), [(0, False), (1, False), (130, True)])
def test_only_a_run_that_was_interrupted_is_queued_again(ends_with, queued, tmp_path):
    """A run may come to its end just as the time is up: its processes are a few lines here, to end when they should."""
    (tmp_path / "hosts").write_text("node-1\nnode-2\n")
    programs = {
        "clusters/entry/head.sh": "exec sleep 60",
        "clusters/entry/worker.sh": "exec sleep 60",
        "clusters/entry/healthy.sh": "exit 0",
        "bin/tpo-dist": f"trap 'exit {ends_with}' TERM; touch '{tmp_path}/trains'; while true; do sleep 0.1; done",
    }
    for name, says in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{says}\n")
        path.chmod(0o755)
    environment = clean_environment(
        PATH=f"{STUB}:{tmp_path / 'bin'}:{os.environ['PATH']}", STUB_FOLDER=str(tmp_path),
        SLURM_SUBMIT_DIR=str(tmp_path), SLURM_JOB_ID="4711", SLURM_JOB_NODELIST="all", SLURM_CPUS_PER_TASK="3",
    )  # fmt: skip
    script = subprocess.Popen([SCRIPT, "job.yaml"], env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for((tmp_path / "trains").exists, "the run to begin", 60)
        script.send_signal(signal.SIGUSR1)
        assert script.wait(60) == ends_with
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGKILL)
        script.wait()
    assert (tmp_path / "requeued").exists() is queued
