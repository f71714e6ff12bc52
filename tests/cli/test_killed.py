"""Everything killed at a random moment, then `--resume`: nothing trained twice, nothing forgotten, the same weights."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from math import inf

import pytest

from tests.cli import deadly
from tests.processes import pids_running, wait_for
from tests.programs.test_local import final_weights
from tpo_dist.audit import audit
from tpo_dist.learner.checkpoint import list_checkpoints
from tpo_dist.programs import local
from tpo_dist.programs.control import read_status
from tpo_dist.programs.folder import LEDGER, find_run
from tpo_dist.programs.job import configure
from tpo_dist.programs.run import Run, create_run

MOMENTS = int(os.environ.get("TPO_DIST_KILLS", "20"))
"""Random moments, some of them with Ray."""
RAY_MOMENTS = max(1, MOMENTS // 10)
"""In each mode."""
JOB = """
name: killed
steps: 24
task: {name: token_reversal, length: 4}
policy: {name: transformer, width: 16, layers: 1}
learner: {epochs: 2}
rollout: {workers: 2, groups_per_step: 12, block_size: 3, group_size: 8, cpus: 0.5}
checkpoint: {every_steps: 4}
log: {sinks: [], plot: false}
"""


def command(*arguments):
    return [sys.executable, "-m", "tpo_dist", *map(str, arguments)]


def start(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command("train", *arguments, f"runs_dir={folder}"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_folder(folder):
    """Of the only run there, once it has begun to train."""
    ledgers = list(folder.glob(f"*/{LEDGER}"))
    return ledgers[0].parent if ledgers else None


def kill_everything(process):
    """The driver and all that descends from it."""
    below = pids_running("", below=process.pid)
    for pid in (process.pid, *below):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(30)
    process.stderr.close()


def killed_and_resumed(tmp_path, moment, mode, *options):
    """A run that was killed after that many seconds of training, and once more, and then went on to its end."""
    (tmp_path / "job.yaml").write_text(JOB)
    folder = tmp_path / "runs"
    process = start(folder, tmp_path / "job.yaml", *mode, *options)
    found = wait_for(lambda: run_folder(folder) or process.poll() is not None, "the run to begin", 120)
    assert found is not True, process.stderr.read()
    time.sleep(moment)
    kill_everything(process)
    run = run_folder(folder)
    summary = run / "summary.json"
    while not summary.exists() or json.loads(summary.read_text())["status"] != "completed":
        done = subprocess.run(
            command("train", "--resume", run.name, f"runs_dir={folder}", *mode), capture_output=True, text=True
        )
        assert done.returncode == 0 or "has finished its 24 steps" in done.stderr, done.stderr
        if done.returncode:
            break
    return run


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The same training without a kill."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "job.yaml").write_text(JOB)
    from tpo_dist.programs.job import load_job

    run = create_run(load_job(folder / "job.yaml", (f"runs_dir={folder}", "stream.max_staleness=0")))
    for _ in local.train(run):
        pass
    return final_weights(run)


def assert_same(run, straight):
    steps, weights = final_weights(Run(configure(json.loads((run / "config.json").read_text())), run))
    assert steps == straight[0]
    assert all((weights[name] == array).all() for name, array in straight[1].items())
    assert audit(run / LEDGER).complete


def killed_at(tmp_path, staleness, *points):
    """A run of one process that killed itself at each of these points, and was resumed each time; its folder."""
    (tmp_path / "job.yaml").write_text(JOB)
    folder, log = tmp_path / "runs", tmp_path / "log"
    arguments = ["train", tmp_path / "job.yaml", f"stream.max_staleness={staleness}"]
    for point in (*points, None):
        process = deadly.run([*arguments, "--local", f"runs_dir={folder}"], log, point)
        process.join(120)
        found = list(folder.glob("*"))
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        arguments = ["train", "--resume", found[0].name] if found and (found[0] / LEDGER).exists() else arguments
    assert process.exitcode == 0, log.read_text()
    return found[-1]


SAVING = [
    ("tensors", 1, "before"),  # of the first checkpoint: its folder is there, and empty
    ("tensors", 3, "after"),  # of the second: it has a model and no more
    ("state", 4, "after"),
    ("flush", 7, "before"),
    ("rename", 2, "before"),
    ("rename", 3, "after"),  # one too many are there
    ("drop", 3, "before"),
]


@pytest.mark.parametrize("point", SAVING, ids=lambda point: " ".join(map(str, point)))
def test_a_run_killed_while_it_saves_comes_to_the_same(point, tmp_path, straight):
    run = killed_at(tmp_path, 0, point)
    assert_same(run, straight)
    assert len(list_checkpoints(run / "checkpoints")) == 2
    assert not list((run / "checkpoints").glob(".*"))


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_killed_before_its_first_checkpoint_comes_to_the_same(number, when, tmp_path, straight):
    run = killed_at(tmp_path, 0, ("update", number, when), ("update", 3, "before"))
    assert_same(run, straight)
    assert len(audit(run / LEDGER).sessions) == 3


WRITES = 24 * (4 * 2 + 3)  # of a run into its ledger, about


@pytest.mark.parametrize("seed", range(MOMENTS - 2 * RAY_MOMENTS))
def test_a_run_killed_at_a_random_moment_twice_comes_to_the_same(seed, tmp_path, straight):
    draw, staleness = random.Random(seed), seed % 2
    points = [("ledger", draw.randint(1, WRITES // part), draw.choice(("before", "after"))) for part in (1, 2)]
    run = killed_at(tmp_path, staleness, *points)
    account = audit(run / LEDGER)
    assert account.complete
    assert account.draws["trained"] == 24 * 12
    if staleness == 0:
        assert_same(run, straight)


@pytest.mark.ray
@pytest.mark.parametrize("moment", [random.Random(seed).uniform(0, 8) for seed in range(100, 100 + RAY_MOMENTS)])
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_on_ray_killed_with_all_its_processes_goes_on(staleness, moment, tmp_path, straight):
    run = killed_and_resumed(tmp_path, moment, [], f"stream.max_staleness={staleness}")
    account = audit(run / LEDGER)
    assert account.complete
    assert account.draws["trained"] == 24 * 12
    if staleness == 0:
        assert_same(run, straight)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_driver_killed_alone_leaves_a_cluster_in_which_the_run_goes_on_at_once(tmp_path, straight):
    """Its processes there may outlive it for a moment: what they still do does not count."""
    import ray

    (tmp_path / "job.yaml").write_text(JOB)
    folder, address = tmp_path / "runs", ray.get_runtime_context().gcs_address
    process = start(folder, tmp_path / "job.yaml", "--address", address, "stream.max_staleness=0")
    wait_for(lambda: list(folder.glob("*/checkpoints/step-*")), "a checkpoint", 120)
    os.kill(process.pid, signal.SIGKILL)
    run = run_folder(folder)
    done = start(folder, "--resume", run.name, "--address", address)
    _, errors = done.communicate(timeout=180)
    assert done.returncode == 0 or "has finished its 24 steps" in errors, errors
    process.communicate()
    assert_same(run, straight)


@pytest.mark.ray
def test_a_run_is_scaled_and_watched_from_another_terminal(tmp_path):
    """One worker, then four, then two, while it trains; its pace follows, and nothing is lost."""
    (tmp_path / "job.yaml").write_text(JOB)
    folder = tmp_path / "runs"
    options = ("task.name=judged_reversal", "task.length=4", "task.seconds=0.5", "rollout.workers=1", "steps=100000")
    process = start(folder, tmp_path / "job.yaml", *options, "stream.max_staleness=1", "rollout.cpus=0.25")
    try:
        run = wait_for(lambda: run_folder(folder), "the run to begin", 120)
        wait_for(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size, "a step", 120)
        pace = {}
        for count in (1, 4, 2):
            done = subprocess.run(
                command("scale", run, "--rollouts", count, "--wait", 120, "--json"), capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            low, high = {1: (0, inf), 4: (2 * pace.get(1, 0), inf), 2: (pace.get(1), pace.get(4))}[count]
            pace[count] = pace_between(run, low, high)
            status = subprocess.run(command("status", run, "--json"), capture_output=True, text=True)
            assert f'"wanted": {count}' in status.stdout
        more = subprocess.run(command("scale", run, "--rollouts", 9), capture_output=True, text=True)
        assert more.returncode == 2
        assert "--rollouts 9: 8 workers at most have something to do" in more.stderr
        done = subprocess.run(command("scale", run, "--rollouts", "auto"), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        wait_for(
            lambda: read_status(run).rollouts.alive > 2, "more workers, as the learner waits for most of the time", 120
        )
        assert read_status(run).rollouts.auto
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    finally:
        if process.poll() is None:
            kill_everything(process)
        process.stderr.close()
    account = audit(find_run(run.name, str(folder)) / LEDGER)
    assert account.clean
    assert account.draws["failed"] == 0


def pace_between(run, low, high, seconds=5.0):
    """Blocks per second, handed in over that time by the ledger, once it lies between the two; a minute at most."""
    from tpo_dist.ledger import Ledger

    def pace():
        time.sleep(seconds)
        with Ledger.read(run / LEDGER) as ledger:
            now = sum(1 for _ in ledger.rows("kind = 'ready' AND at > ?", (time.time() - seconds,))) / seconds
        return now if low < now < high else None

    return wait_for(pace, f"more than {low} and less than {high} blocks per second", 60)
