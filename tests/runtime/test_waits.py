"""Every wait of a run ends: its message names what is waited for and who owes it, and a warning goes before."""

import asyncio
import logging
import os
import signal
import time

import pytest
import ray

from tests.programs.test_local import assert_equal_runs
from tests.runtime.test_distributed import local_run  # noqa: F401
from tpo_dist.audit import audit
from tpo_dist.blocks import BlockSummary
from tpo_dist.errors import RunFailed, Stopped, UsageError
from tpo_dist.programs.control import read_faults
from tpo_dist.programs.distributed import launch
from tpo_dist.programs.folder import LEDGER
from tpo_dist.programs.run import create_run
from tpo_dist.runtime.answers import await_all
from tpo_dist.runtime.faults import Faults
from tpo_dist.runtime.fleet import Fleet, Member
from tpo_dist.runtime.messages import Delivery, Turn, pack, unpack
from tpo_dist.runtime.placement import Need, check_room
from tpo_dist.runtime.stream_actor import StreamShell
from tpo_dist.stream import GroupStream
from tpo_dist.waiting import DeadlineExceeded

ON_RAY = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(autouse=True)
def _warnings(caplog):
    caplog.set_level(logging.WARNING, logger="tpo_dist")


def shell(folder):
    return StreamShell(lambda: GroupStream(blocks_per_step=1, block_size=4, steps=3), folder)


def ask(worker, *deliveries):
    return pack(Turn(worker, (-1, ""), deliveries, 1, 0.05))


def test_for_a_snapshot(tmp_path, caplog):
    with pytest.raises(DeadlineExceeded, match="^waited 0.05 s for a snapshot, which the learner owes$"):
        asyncio.run(shell(tmp_path).newest("rollout-0", 0.05))
    assert "waiting for 0.04 s of 0.05 s for a snapshot, which the learner owes" in caplog.text


def test_for_a_lease(tmp_path, caplog):
    async def scenario():
        stream = shell(tmp_path)
        await stream.advance(None, 0, "digest", ["snapshot"])
        answer = await stream.turn(ask("rollout-0"), [])
        (lease,) = unpack(answer[0])
        assert lease.block == 0
        done = Delivery(lease, BlockSummary(groups=4), b"groups")
        await stream.turn(ask("rollout-0", done), [])

    owed = "version 1, which the learner owes; block 1 of step 1 is sampled from it"
    with pytest.raises(DeadlineExceeded, match=f"^waited 0.05 s for {owed}$"):
        asyncio.run(scenario())
    assert f"waiting for 0.04 s of 0.05 s for {owed}" in caplog.text


def test_for_the_groups_of_a_step(tmp_path, caplog):
    async def scenario():
        stream = shell(tmp_path)
        await stream.advance(None, 0, "digest", ["snapshot"])
        await stream.turn(ask("rollout-0"), [])
        await stream.take(0, 0.05, 0, "digest", ["snapshot"])

    with pytest.raises(DeadlineExceeded, match="^waited 0.05 s for the groups of step 0: block 0, with rollout-0 for"):
        asyncio.run(scenario())
    assert "waiting for 0.04 s of 0.05 s for the groups of step 0: block 0, with rollout-0 for" in caplog.text


@ray.remote(num_cpus=3)
class Tenant:
    def here(self):
        return True

    def dawdle(self):
        time.sleep(1000)


class TestOnRay:
    pytestmark = ON_RAY

    def test_for_room_and_for_a_start(self, caplog, monkeypatch):
        check_room([Need(4, 0)], "PACK", 30.0, can_grow=True)  # that of earlier tests has come back
        tenant = Tenant.remote()
        assert ray.get(tenant.here.remote())
        with pytest.raises(UsageError, match="^placement of 2 CPU .*: after 0.5 s the cluster still has only 1 CPU"):
            check_room([Need(2, 0)], "PACK", 0.5, can_grow=True)
        assert "waiting for 0.4 s of 0.5 s for room: 2 CPU, and 1 CPU is free" in caplog.text
        starting = {tenant.dawdle.remote(): "rollout-7", tenant.here.remote(): "learner"}
        with pytest.raises(RunFailed, match=r"^waited 0.5 s for learner, rollout-7 to start$"):
            await_all(starting, 0.5)
        assert "waiting for 0.4 s of 0.5 s for learner, rollout-7 to start" in caplog.text
        with pytest.raises(Stopped):
            await_all(starting, 600.0, stopping=lambda: True)
        monkeypatch.setattr("tpo_dist.runtime.answers.SAY_SECONDS", 0.1)
        caplog.set_level("INFO", logger="tpo_dist")
        with pytest.raises(RunFailed):
            await_all(starting, 2.0)
        assert "0.1 s of 2 s: learner, rollout-7 still starting" in caplog.text
        assert caplog.text.count("still starting") >= 2
        ray.kill(tenant)

    def test_for_a_worker_that_is_stopped(self, small_config, local_run, caplog):  # noqa: F811
        """Its stacks are logged, it is killed, its block made again, and the result is the same."""
        run = create_run(small_config("rollout.workers=2", "deadlines.block_seconds=5"))
        with launch(run) as system:
            for report in system.train(20):
                if report.step == 8:
                    member = system.supervisor.fleet.members[0]
                    pid = member.where.pid
                    os.kill(pid, signal.SIGSTOP)
        assert_equal_runs(run, local_run[0])
        assert audit(run.folder / LEDGER).complete
        (fault,) = [fault for fault in read_faults(run.folder) if fault.what == "hung"]
        assert fault.name == "rollout-0"
        assert "longer than the 5 s it may (deadlines.block_seconds)" in fault.reason
        assert f"the stacks of process {pid} on " in caplog.text
        assert "rollout_actor.py" in caplog.text


def test_for_a_worker_that_hangs_while_it_starts(monkeypatch):
    killed = []
    monkeypatch.setattr(ray, "kill", killed.append)
    fleet = Fleet(lambda name: Silent(), 1.0)
    fleet.resize(1)
    first = fleet.members[0].actor
    assert fleet.replace_late(10.0) == []
    fleet.members[0].since -= 11
    assert fleet.replace_late(10.0) == ["rollout-0"]
    assert killed == [first]
    assert (fleet.members[0].name, fleet.members[0].state) == ("rollout-0.2", "starting")


def test_for_a_worker_that_does_not_leave():
    fleet = Fleet(None, 1.0)
    fleet.stream = Silent()
    fleet.members = {slot: Member(slot, f"rollout-{slot}", state="retiring", ending="a call") for slot in range(2)}
    fleet.members[2] = Member(2, "rollout-2", state="working", ending="a call", since=-1e9)
    fleet.members[1].since -= 11
    assert [member.name for member in fleet.remind(10.0)] == ["rollout-1"]
    assert fleet.stream.asked == ["rollout-0", "rollout-1"]


class Silent:
    """An actor, or a method of one, that never answers."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        return self

    def remote(self, *arguments):
        self.asked += arguments
        return self


def test_a_fault_that_is_never_mended_is_told_without_a_recovery():
    told = []
    faults = Faults(told.append)
    faults.begin("rollout-1", "rollout-1.2", "died", "killed", 7)
    faults.leave("rollout-1")
    faults.leave("rollout-2")
    faults.over("rollout-1")
    (record,) = told
    assert record["name"] == "rollout-1.2"
    assert "recovered_seconds" not in record
