"""Decisions of the supervisor that need no cluster: whose process is gone, and who may be let go."""

import pytest
import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from tpo_dist.errors import RunFailed
from tpo_dist.runtime.fleet import Fleet, Member
from tpo_dist.runtime.supervisor import Supervisor


class SilentSeat:
    """A learner whose next report is this error."""

    def __init__(self, error):
        self.error = error

    def next_report(self):
        raise self.error


def hear(error, monkeypatch):
    """What the supervisor takes as the reason of the learner's death."""
    deaths = []
    monkeypatch.setattr(Supervisor, "_learner_died", lambda self, why: deaths.append(why))
    supervisor = Supervisor.__new__(Supervisor)
    supervisor.learner = SilentSeat(error)
    assert supervisor._hear() == (None, False)
    return deaths


def test_a_learner_killed_for_its_memory_is_started_again(monkeypatch):
    assert len(hear(OutOfMemoryError("killed by the raylet"), monkeypatch)) == 1
    assert len(hear(ActorDiedError(), monkeypatch)) == 1


def test_a_learner_that_lives_is_not_taken_for_dead_because_the_stream_is(monkeypatch):
    """Ray raises an error that is an instance of both classes."""
    error = RayTaskError("train", "", ActorDiedError(), proctitle="", pid=1, ip="").as_instanceof_cause()
    with pytest.raises(RunFailed, match="the stream failed"):
        hear(error, monkeypatch)


def test_a_worker_is_let_go_only_by_an_answer_from_after_its_last_block(monkeypatch):
    """An older one does not know that this block lives with it."""
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    fleet = Fleet(None, 1.0)
    member = fleet.members[0] = Member(0, "rollout-0", state="retiring")
    fleet.let_go({}, member.since - 0.1)
    assert 0 in fleet.members
    fleet.let_go({"rollout-0": [7]}, member.since + 0.1)
    assert 0 in fleet.members
    fleet.let_go({}, member.since + 0.1)
    assert not fleet.members
