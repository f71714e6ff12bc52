"""Who is silent for too long, and for how long it was the driver that did not listen: no cluster is needed."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray

from tests.processes import wait_for
from tpo_dist.blocks import StreamStats
from tpo_dist.runtime import nodes, sight
from tpo_dist.runtime.faults import Faults
from tpo_dist.runtime.fleet import Member
from tpo_dist.runtime.messages import Whereabouts, began, boot_id
from tpo_dist.runtime.sight import Seen, StreamSight
from tpo_dist.runtime.worker_watch import WorkerWatch
from tpo_dist.supervision import Kill, Warn

NOTHING = dict.fromkeys(
    ("version", "finished", "queued", "in_flight", "ready", "taken", "trained", "failed", "reissued", "dropped"), 0
)


class Clock:
    """A clock that a test sets; the stream answers what has been asked of it while it is not `hanging`."""

    def __init__(self):
        self.now, self.hanging, self.life = 1000.0, False, "first"
        self.where = whereabouts(os.getpid())
        self.look = SimpleNamespace(remote=lambda: ["look"])
        self.stream = SimpleNamespace(look=self.look, where=SimpleNamespace(remote=lambda: ["where"]))

    def monotonic(self):
        return self.now

    def wait(self, references, timeout):
        return ([] if self.hanging else references), []

    def get(self, reference):
        stats = StreamStats(**NOTHING, failed_groups={})
        return self.where if reference == ["where"] else (stats, {}, {}, ["rollout-0"], {"rollout-0": 3}, self.life)


def whereabouts(pid):
    return Whereabouts("stream", pid, "node", os.uname().nodename, boot_id(), -1, began(pid))


@pytest.fixture
def clock(monkeypatch):
    """Time, Ray, and what is done to processes, as notes."""
    clock = Clock()
    clock.done = []
    monkeypatch.setattr(sight, "time", clock)
    monkeypatch.setattr(ray, "wait", clock.wait)
    monkeypatch.setattr(ray, "get", clock.get)
    monkeypatch.setattr(nodes, "kill", lambda where: clock.done.append(("kill", where.pid)))
    monkeypatch.setattr(nodes, "log_stacks", lambda where, why: clock.done.append(("stacks", where.pid)))
    return clock


def looking(clock):
    """A sight that knows its stream, with its faults."""
    told = []
    seen = StreamSight(clock.stream, Faults(told.append), lambda text: None)
    for _ in range(6):
        clock.now += 0.5
        seen.look(7)
    assert seen._where is clock.where
    return seen, told


def silent_for(seen, clock, seconds, step=0.5):
    for _ in range(int(seconds / step)):
        clock.now += step
        seen.look(7)


def test_a_stream_that_hangs_shows_its_stacks_and_is_killed_once(clock):
    seen, told = looking(clock)
    clock.hanging, me = True, os.getpid()
    silent_for(seen, clock, 23)
    assert clock.done == []
    silent_for(seen, clock, 4)
    assert clock.done == [("stacks", me)]
    silent_for(seen, clock, 60)
    assert clock.done == [("stacks", me), ("kill", me)]
    assert seen._faults.counts == {"stream hung": 1}
    clock.hanging, clock.life = False, "second"
    silent_for(seen, clock, 3)
    (fault,) = told
    assert (fault["what"], fault["step"]) == ("hung", 7)
    assert fault["reason"].startswith("no answer for 3")
    assert fault["recovered_seconds"] is not None
    assert seen._faults.counts == {"stream hung": 1}


def test_a_driver_that_slept_does_not_blame_the_stream(clock):
    """As after Ctrl-Z and fg: the answer is on its way when it looks again."""
    seen, told = looking(clock)
    clock.hanging = True
    silent_for(seen, clock, 3000, step=1000)
    assert clock.done == told == []
    assert seen._faults.counts == {}


def test_a_dead_stream_is_not_killed_again_and_counts_once(clock):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    clock.where = whereabouts(process.pid)
    seen, told = looking(clock)
    clock.hanging = True
    process.kill()
    process.wait()
    process.stdin.close()
    silent_for(seen, clock, 60)
    assert clock.done == []
    assert seen._faults.counts == {"stream died": 1}
    clock.hanging, clock.life = False, "second"
    silent_for(seen, clock, 3)
    assert [fault["what"] for fault in told] == ["died"]


def test_a_number_that_another_process_has_now_is_not_the_process(monkeypatch):
    gone = Whereabouts("stream", os.getpid(), "node", os.uname().nodename, boot_id(), -1, "12")
    assert nodes.is_there(whereabouts(os.getpid()))
    assert not nodes.is_there(gone)
    killed = []
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    nodes.kill(gone)
    assert killed == []
    nodes.kill(whereabouts(os.getpid()))
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_a_process_that_waits_to_be_collected_is_gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    wait_for(lambda: began(process.pid) == "", "it to end")
    process.wait()


def at(seconds, leases=(), asking=()):
    stats = StreamStats(**NOTHING, failed_groups={}, leases=leases)
    return Seen(stats, {}, {}, asking, {}, seconds - 0.1)


def judged(watch, members, seconds, **seen):
    """Names of those warned of and killed at that second."""
    verdicts = list(watch.verdicts(members, at(seconds, **seen), seconds))
    return [(member.name, type(verdict)) for member, verdict in verdicts]


def test_a_worker_that_goes_quiet_before_its_first_block_is_noticed():
    """It has the first weights, and asks for no block."""
    watch, worker = WorkerWatch(10.0, 0.0), Member(0, "rollout-0", state="working", since=0.5)
    assert judged(watch, [worker], 1.0, asking=["rollout-0"]) == []
    assert judged(watch, [worker], 100.0) == []  # this may be the moment between two questions
    assert judged(watch, [worker], 107.0) == []
    assert judged(watch, [worker], 108.5) == [("rollout-0", Warn)]
    assert judged(watch, [worker], 109.5) == []
    assert judged(watch, [worker], 110.0) == [("rollout-0", Kill)]


@pytest.mark.parametrize("back", [{"asking": ["rollout-0"]}, {"leases": (("rollout-0", 3, 0.5),)}])
def test_a_worker_that_was_quiet_for_a_moment_begins_anew(back):
    watch, worker = WorkerWatch(10.0, 0.0), Member(0, "rollout-0", state="working", since=0.5)
    assert judged(watch, [worker], 100.0) == []
    assert judged(watch, [worker], 107.0, **back) == []
    assert judged(watch, [worker], 112.0) == []
    assert judged(watch, [worker], 121.0) == [("rollout-0", Warn)]


def test_only_a_worker_that_was_at_work_when_the_stream_was_asked_can_be_quiet():
    watch = WorkerWatch(10.0, 0.0)
    states = ("starting", "idle", "retiring", "restarting")
    others = [Member(slot, f"rollout-{slot}", state=state, since=0.0) for slot, state in enumerate(states)]
    late = Member(4, "rollout-4", state="working", since=99.95)
    for seconds in (100.0, 1000.0):
        assert judged(watch, others, seconds) == []
    assert judged(watch, [late], 100.0) == []
    assert "rollout-4" not in watch._quiet


def test_a_worker_at_work_has_as_long_as_a_block_may_take():
    watch, workers = WorkerWatch(10.0, 0.0), [Member(slot, f"rollout-{slot}", state="working") for slot in range(2)]
    leases = (("rollout-0", 5, 9.0), ("rollout-1", 6, 10.0))
    verdicts = dict(judged(watch, workers, 50.0, leases=leases))
    assert verdicts == {"rollout-0": Warn, "rollout-1": Kill}
    ((_, verdict),) = watch.verdicts(workers[1:], at(51.0, leases=leases), 51.0)
    assert verdict.reason.startswith("rollout-1 has been at work on block 6 for 10.0 s, longer than the 10 s it may")
