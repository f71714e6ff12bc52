"""What a run on real Ray survives: in synchronous mode with the weights of a run without faults, bit for bit."""

import asyncio
import json
import os
import re
import signal
import subprocess
from functools import partial

import pytest

from tests.programs.test_local import assert_equal_runs
from tests.runtime import broken
from tests.runtime.test_distributed import local_run  # noqa: F401
from tpo_dist.audit import audit
from tpo_dist.cli.execute import execute
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.learner.checkpoint import list_checkpoints, read_state
from tpo_dist.ledger import Ledger
from tpo_dist.programs import distributed, local
from tpo_dist.programs.control import read_faults, read_status
from tpo_dist.programs.distributed import launch
from tpo_dist.programs.folder import LEDGER
from tpo_dist.programs.replay import Replay
from tpo_dist.programs.run import Run, create_run
from tpo_dist.runtime import sight
from tpo_dist.runtime.placement import Need
from tpo_dist.runtime.rollout_actor import RolloutActor
from tpo_dist.runtime.stream_actor import StreamShell
from tpo_dist.runtime.transfer import StreamLine
from tpo_dist.schedule import schedule
from tpo_dist.stream import GroupStream
from tpo_dist.waiting import DeadlineExceeded

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

RESTLESS = ("rollout.workers=2", "checkpoint.every_steps=5", "deadlines.block_seconds=8", "rollout.cpus=0.5")


def strike(system, what):
    """Break something of a run; the places where that shows."""
    supervisor = system.supervisor
    members = list(supervisor.fleet.members.values())
    if what in ("stream", "hanging stream"):
        os.kill(supervisor.stream_where().pid, signal.SIGKILL if what == "stream" else signal.SIGSTOP)
        return ["stream"]
    if what == "learner":
        os.kill(supervisor.learner.where.pid, signal.SIGKILL)
        return ["learner"]
    how = signal.SIGSTOP if what == "hanging worker" else signal.SIGKILL
    chosen = [m for m in members if m.where][: None if what == "all workers" else 1]
    for member in chosen:
        os.kill(member.where.pid, how)
    return [f"rollout-{member.slot}" for member in chosen]


def train(run, strikes):
    """Train to the end, breaking things after these steps; the steps reported, and the places struck."""
    left, steps, places = dict(strikes), [], []
    with launch(run) as system:
        for report in system.train(run.config.steps):
            steps.append(report.step)
            if report.step in left:
                places += strike(system, left.pop(report.step))
    assert not left
    return steps, places


def test_synchronous_training_comes_to_the_same_weights_whatever_dies(small_config, local_run):  # noqa: F811
    run = create_run(small_config(*RESTLESS))
    steps, places = train(run, {4: "worker", 8: "stream", 12: "learner", 16: "all workers"})
    assert steps == [*range(1, 13), *range(11, 21)]
    assert_equal_runs(run, local_run[0])
    account = audit(run.folder / LEDGER)
    assert account.complete
    assert account.draws["trained"] == 20 * 24
    assert len(account.rollbacks) == 1
    faults = read_faults(run.folder)
    assert {fault.name.partition(".")[0] for fault in faults} <= set(places)
    assert {fault.what for fault in faults} == {"died"}
    mended = [fault for fault in faults if fault.role in ("stream", "learner")]
    assert sorted(fault.role for fault in mended) == ["learner", "stream"]
    assert all(fault.recovered_seconds is not None for fault in mended)  # the last workers may still be on their way


def test_a_stream_that_hangs_shows_its_stacks_is_killed_and_comes_back(
    small_config,
    local_run,  # noqa: F811
    monkeypatch,
    caplog,
):
    monkeypatch.setattr(sight, "SILENT_SECONDS", 5.0)
    run = create_run(small_config(*RESTLESS))
    train(run, {8: "hanging stream"})
    assert_equal_runs(run, local_run[0])
    assert audit(run.folder / LEDGER).complete
    fault = read_faults(run.folder)[0]
    assert (fault.role, fault.what) == ("stream", "hung")
    assert fault.recovered_seconds is not None
    assert re.search(
        r"the stream has not answered for \d+ s, and is killed after 5 s: the stacks of process", caplog.text
    )
    assert "asyncio" in caplog.text.lower()  # the thread that waits


def test_asynchronous_training_accounts_for_every_draw_whatever_dies_and_is_repeated_at_a_desk(small_config):
    """By the schedule in its ledger, in this process, to the same parameters bit for bit."""
    options = (*RESTLESS, "steps=45", "stream.max_staleness=2", "learner.correction.name=tis")
    run = create_run(small_config(*options))
    steps, _ = train(run, {6: "worker", 13: "stream", 22: "learner", 30: "hanging worker", 37: "all workers"})
    assert sorted(set(steps)) == list(range(1, 46))
    account = audit(run.folder / LEDGER)
    assert account.complete
    assert account.draws["trained"] == 45 * 24
    status = read_status(run.folder)
    assert status.faults["learner died"] == 1
    assert status.faults["stream died"] == 1
    with Ledger.read(run.folder / LEDGER) as ledger:
        plan = schedule(ledger)
    assert max(step - each.version for step, blocks in enumerate(plan.steps) for each in blocks) > 0
    again = Replay(run.folder)
    for _ in again.train():
        pass
    assert again.compared == 45
    assert again.checkpoint.name == "step-00000045"


def with_workers(monkeypatch, tmp_path, kind):
    """Runs get workers of this kind."""
    tmp_path.joinpath("marks").mkdir(exist_ok=True)

    def make(config, name):
        options = Need(config.rollout.cpus, 0).options(1, "PACK")
        worker = partial(kind, config, str(tmp_path / "marks"), name)
        return RolloutActor.options(**options).remote(name, 1, worker)

    monkeypatch.setattr(distributed, "_make_worker", make)


def test_workers_that_fail_by_themselves_are_replaced(small_config, local_run, monkeypatch, tmp_path):  # noqa: F811
    with_workers(monkeypatch, tmp_path, broken.Plagued)
    run = create_run(small_config(*RESTLESS, "rollout.verify_weights=block", "faults.attempts=100"))
    train(run, {})
    assert_equal_runs(run, local_run[0])
    assert audit(run.folder / LEDGER).complete
    ways = {"corrupted", "died while loading", "died idle", "out of memory"}
    assert {path.name for path in (tmp_path / "marks").iterdir()} == ways
    faults = read_faults(run.folder)
    assert {fault.role for fault in faults} == {"rollout"}
    assert sorted(fault.what for fault in faults) == ["died", "died", "died", "refused"]
    assert "digest" in next(fault.reason for fault in faults if fault.what == "refused")


def test_no_worker_is_replaced_for_weights_that_went_with_the_learner(small_config, local_run, monkeypatch, tmp_path):  # noqa: F811
    """Its block is made again."""
    with_workers(monkeypatch, tmp_path, broken.Behindhand)
    run = create_run(small_config(*RESTLESS))
    train(run, {13: "learner"})
    assert_equal_runs(run, local_run[0])
    assert audit(run.folder / LEDGER).complete
    assert list((tmp_path / "marks").glob("rollout-*"))
    assert [(fault.name, fault.what) for fault in read_faults(run.folder)] == [("learner", "died")]


def test_a_worker_that_stands_still_before_its_first_block_is_replaced(small_config, monkeypatch, tmp_path):
    """There is no lease by whose deadline it could be noticed, and nobody else to do the work."""
    with_workers(monkeypatch, tmp_path, broken.StoppedAtLoad)
    run = create_run(small_config("steps=3", "deadlines.block_seconds=6"))
    train(run, {})
    assert audit(run.folder / LEDGER).complete
    fault = read_faults(run.folder)[0]
    assert (fault.name, fault.what) == ("rollout-0", "hung")
    assert re.match(r"rollout-0 has been loading its weights for .* s, longer than the 6 s it may", fault.reason)


def test_a_slow_worker_is_left_alone(small_config, local_run, monkeypatch, tmp_path):  # noqa: F811
    with_workers(monkeypatch, tmp_path, broken.Slow)
    run = create_run(small_config(*RESTLESS))
    train(run, {})
    assert_equal_runs(run, local_run[0])
    assert read_faults(run.folder) == []


def test_workers_that_always_die_end_the_run_when_the_budget_is_used_up(small_config, monkeypatch, tmp_path):
    with_workers(monkeypatch, tmp_path, broken.Unable)
    limits = ("faults.worker_restarts=2", "faults.backoff_seconds=0.1", "faults.attempts=100")
    run = create_run(small_config("rollout.workers=1", *limits))
    with pytest.raises(RunFailed, match=r"rollout-0.3 failed: its process died.*2 restarts in 600 s are allowed"):
        train(run, {})


JUDGED = ("task.name=judged_reversal", "task.length=4", "task.seconds=0.0")


def test_a_scorer_that_hangs_costs_its_block_after_some_attempts_and_no_other(small_config):
    options = ("task.hang_every=200", "deadlines.block_seconds=1.5", "faults.attempts=2", "faults.backoff_seconds=0.1")
    run = create_run(small_config(*JUDGED, "steps=12", "rollout.workers=2", *options))
    train(run, {})
    account = audit(run.folder / LEDGER)
    assert account.complete
    assert account.failures == {"worker lost": 4}
    assert account.draws["trained"] == 12 * 24
    assert account.draws["failed"] == 4  # the block of draw 199


def test_a_poisoned_group_is_kept_with_its_cause_and_counted(small_config):
    run = create_run(small_config(*JUDGED, "steps=6", "rollout.workers=2", "task.fail_every=50"))
    train(run, {})
    account = audit(run.folder / LEDGER)
    assert account.complete
    assert account.failures == {"scorer raised ConnectionError": 2}
    kept = [json.loads(path.read_text()) for path in sorted((run.folder / "quarantine").glob("draw-*.json"))]
    assert [each["draw"] for each in kept] == [49, 99]
    assert kept[0]["cause"] == "scorer raised ConnectionError"


def test_a_scorer_that_always_fails_ends_the_run(small_config):
    run = create_run(small_config(*JUDGED, "rollout.workers=2", "task.fail_every=1"))
    with pytest.raises(RunFailed, match=r"100% of the latest groups failed.*scorer raised ConnectionError"):
        train(run, {})


def test_a_mistake_that_a_scorer_comes_upon_ends_the_run_at_once(small_config, monkeypatch, tmp_path):
    with_workers(monkeypatch, tmp_path, broken.Mistaken)
    run = create_run(small_config(*RESTLESS))
    with pytest.raises(UsageError, match="^task.key = None: the judge asks for a key. Fix: set it.$"):
        execute(run, local=False, as_json=True)
    assert read_faults(run.folder) == []
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["status"], summary["step"]) == ("failed", 4)
    assert summary["checkpoint"].endswith("step-00000004")
    assert audit(run.folder / LEDGER).clean


def test_a_learner_that_saved_between_two_publications_goes_on_from_there_and_no_row_is_missing(
    small_config, monkeypatch
):
    """What was sampled from version 4 before its death still is after it."""
    options = (*RESTLESS, "learner.publish_every=4")
    straight = create_run(small_config(*options))
    errors = [report.metrics["error"].value for report in local.train(straight)]
    config = small_config(*options)
    saving = property(lambda run: broken.DyingAtSaving(run.folder / "checkpoints", every_steps=5, keep=2))
    monkeypatch.setattr(Run, "checkpointer", saving)
    run = create_run(config)
    assert execute(run, local=False, as_json=True) == 0
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert [row["error"] for row in rows] == errors
    assert "learner_idle_share" in rows[9]
    assert_equal_runs(run, straight)
    assert audit(run.folder / LEDGER).complete
    assert [(fault.role, fault.what) for fault in read_faults(run.folder)] == 2 * [("learner", "died")]


def test_a_learner_that_comes_back_where_the_run_s_folder_is_not_does_not_begin_at_step_0(small_config):
    """As on another node without a shared disk: there is no such folder, or it is not the driver's."""
    run = create_run(small_config(*RESTLESS, "steps=1000"))
    steps = []
    reason = f"does not see the run's folder {run.folder} as the driver has it"

    def train():
        with launch(run) as system:
            for report in system.train(1000):
                steps.append(report.step)
                if report.step == 8:
                    [sign] = run.folder.glob(".driver-*")
                    sign.unlink()
                    strike(system, "learner")

    with pytest.raises(UsageError, match=reason):
        train()
    assert steps == sorted(steps)
    assert [fault.name for fault in read_faults(run.folder)] == ["learner"]
    assert audit(run.folder / LEDGER).clean


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(small_config, local_run):  # noqa: F811
    run = create_run(small_config("checkpoint.every_steps=5", "checkpoint.keep=1", "rollout.workers=2"))
    disk = run.folder / "checkpoints"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a file system takes root and the permission to mount")
    try:
        problems = []
        with launch(run) as system:
            for report in system.train(20):
                if report.checkpoint_problem is not None:
                    problems.append(report.step)
                if report.step == 12:
                    assert [int(read_state(path)["step"]) for path in list_checkpoints(disk)] == [5]
                    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert problems == [10]
        assert_equal_runs(run, local_run[0])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_more_groups_than_the_object_store_holds_are_spilled(tmp_path):
    """Forty blocks of 20 MB may be under way, and the store of the tests' cluster holds 256 MB."""
    line = StreamLine(tmp_path / "run", 20 * 2**20, 1, 20, 3, 2)
    try:
        line.stand(60.0)
        assert len(list(line.turn(3))) == 3
    finally:
        line.close()


def test_a_wait_for_a_snapshot_says_who_owes_it(tmp_path):
    async def scenario():
        shell = StreamShell(lambda: GroupStream(blocks_per_step=1, block_size=1, steps=1), tmp_path)
        with pytest.raises(DeadlineExceeded, match="waited 0.05 s for a snapshot, which the learner owes"):
            await shell.newest("rollout-0", 0.05)

    asyncio.run(scenario())


def test_workers_stay_when_the_learner_dies_and_those_that_come_meanwhile_wait_for_it(small_config):
    """The newest snapshot is gone with the learner; a worker that joins before there is another waits for that."""
    run = create_run(small_config(*RESTLESS, "rollout.workers=3", "rollout.cpus=0.25", "stream.max_staleness=1"))
    with launch(run) as system:
        fleet, pids = system.supervisor.fleet, {}
        for report in system.train(20):
            if report.step == 8 and not pids:  # that step is made again
                pids = {name: fleet.members[slot].where.pid for slot, name in enumerate(("first", "second", "third"))}
                strike(system, "learner")
                strike(system, "worker")
        stayed = [fleet.members[slot].where.pid for slot in (1, 2)]
    assert stayed == [pids["second"], pids["third"]]
    assert audit(run.folder / LEDGER).complete
    assert sorted(fault.name for fault in read_faults(run.folder)) == ["learner", "rollout-0"]
