"""Decisions of the supervisor that need no cluster: whose process is gone, who may be let go, what ends the run."""

import os
import time

import pytest
import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.learner.team import RankLost
from tpo_dist.programs import distributed
from tpo_dist.programs.run import Run
from tpo_dist.runtime import learner_actor
from tpo_dist.runtime.answers import failed
from tpo_dist.runtime.faults import Faults
from tpo_dist.runtime.fleet import Fleet, Member
from tpo_dist.runtime.learner_actor import LearnerShell
from tpo_dist.runtime.sizing import Sizing
from tpo_dist.runtime.supervisor import Supervisor
from tpo_dist.waiting import DeadlineExceeded


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


def test_the_death_of_a_rank_is_the_learner_s_and_keeps_its_reason(monkeypatch):
    """Its own process lives, and raises an error."""
    lost = RankLost("rank 1 of the learner was killed by SIGKILL during update")
    assert hear(as_task_error(lost), monkeypatch) == [str(lost)]
    with pytest.raises(RunFailed, match="the learner failed: RunFailed: nothing left"):
        hear(as_task_error(RunFailed("nothing left")), monkeypatch)


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


MISTAKE = UsageError("judge.key = None", "the judge asks for a key", "set it")


def as_task_error(error):
    return RayTaskError("roll", "", error, proctitle="", pid=1, ip="").as_instanceof_cause()


@pytest.mark.parametrize("state", ["starting", "working", "retiring"])
def test_a_mistake_that_a_worker_comes_upon_ends_the_run_and_is_no_death(state, monkeypatch):
    """Another worker in its place would come upon it too."""

    def get(reference):
        raise as_task_error(MISTAKE)

    monkeypatch.setattr(ray, "get", get)
    fleet = Fleet(None, 1.0)
    fleet.members[0] = Member(0, "rollout-0", state=state, ending="its call")
    with pytest.raises(UsageError, match="^judge.key = None: the judge asks for a key. Fix: set it.$"):
        list(fleet.settle(["its call"]))


def test_a_mistake_that_the_learner_comes_upon_is_told_in_its_own_words():
    assert str(failed("the learner", as_task_error(MISTAKE))) == str(MISTAKE)
    assert str(failed("the learner", as_task_error(ValueError("bad")))) == "the learner failed: ValueError: bad"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DeadlineExceeded("waited 5 s for version 3, which the learner owes"), "waited"),
        (RuntimeError("google.api_core.exceptions.DeadlineExceeded: 504"), "died"),
    ],
)
def test_only_a_wait_of_ours_that_ends_is_no_death(error, kind, monkeypatch):
    """What a worker runs may have deadlines of its own, and words for them."""

    def get(reference):
        raise as_task_error(error)

    monkeypatch.setattr(ray, "get", get)
    fleet = Fleet(None, 1.0)
    fleet.members[0] = Member(0, "rollout-0", state="working", ending="its call")
    assert [event.kind for event in fleet.settle(["its call"])] == [kind]


def test_a_process_that_cannot_start_again_says_why():
    raised = "Traceback (most recent call last):\n  File x\nUsageError: ledger.db: is gone. Fix: go on."
    gone = ActorDiedError(RayTaskError("__init__", raised, MISTAKE, proctitle="", pid=1, ip=""))
    words = "the stream failed: its process cannot start (UsageError: ledger.db: is gone. Fix: go on.)"
    assert str(failed("the stream", gone)) == words


def test_a_clock_that_is_set_back_meanwhile_makes_no_recovery_negative(monkeypatch):
    told = []
    faults = Faults(told.append)
    faults.begin("learner", "learner", "died", "killed", 3)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    faults.over("learner")
    assert 0 <= told[0]["recovered_seconds"] < 60


class Resized:
    """A fleet that lets go of one worker, whose predecessor has died."""

    members = {}  # noqa: RUF012

    def __len__(self):
        return 1

    def resize(self, count):
        return [], ["rollout-1.2"]


class Wishing:
    """A user who wants one worker."""

    def __init__(self):
        self.faults = []

    def wish(self):
        return 1

    def say(self, text):
        pass

    def fault(self, record):
        self.faults.append(record)


def test_the_fault_of_a_place_that_is_given_up_does_not_stay_open():
    supervisor, desk = Supervisor.__new__(Supervisor), Wishing()
    supervisor.desk, supervisor.fleet, supervisor.faults = desk, Resized(), Faults(desk.fault)
    supervisor.sizing, supervisor.closed = Sizing(2, False, 1, 2), False
    for place in ("rollout-0", "rollout-1"):
        supervisor.faults.begin(place, place, "died", "killed", 3)
    supervisor._obey()
    assert list(supervisor.faults.open) == ["rollout-0"]
    assert [fault["name"] for fault in desk.faults] == ["rollout-1"]


class Unsaved:
    """A checkpointer whose disk is full."""

    def after_step(self, learner, *, last):
        raise RunFailed("no checkpoint could be written")


class Trained:
    """A learner that stands at a step."""

    version = 3


def test_a_full_disk_does_not_hide_why_the_learner_ends(monkeypatch, caplog):
    def ask(reference, seconds, what):
        raise TimeoutError("waited 5 s for the groups of its next step")

    monkeypatch.setattr(learner_actor, "ask", ask)
    monkeypatch.setattr(LearnerShell, "_snapshot", lambda self: (3, "digest", []))
    shell = LearnerShell(1, Trained, Unsaved(), None)
    shell._learner, shell._saved_version = Trained(), 2

    class Stream:
        class take:  # noqa: N801
            remote = print

    with pytest.raises(TimeoutError, match="the groups of its next step"):
        shell._wait_for_groups(Stream, 5.0)
    assert "no checkpoint could be written" in caplog.text


def test_a_learner_that_does_not_see_the_run_s_folder_refuses_to_train(tmp_path):
    """It would save where the driver does not look, and begin at step 0 when another takes its place."""
    built = []
    shell = LearnerShell(1, lambda: built.append("learner"), None, None, tmp_path / "run" / "sign")
    with pytest.raises(UsageError) as caught:
        shell.ready()
    for words in (os.uname().nodename, str(tmp_path / "run"), "runs_dir that every node shares", "learner.node=driver"):
        assert words in str(caught.value)
    assert built == []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sign").touch()
    with pytest.raises(AttributeError):  # the learner that was built is none
        shell.ready()
    assert built == ["learner"]


@pytest.mark.parametrize("node", ["any", "driver"])
def test_a_learner_may_be_kept_beside_the_driver(node, small_config, monkeypatch, tmp_path):
    given = {}

    class Actors:
        def options(self, **options):
            given.update(options)
            return self

        def remote(self, *arguments):
            given["sign"] = arguments[-1]

    monkeypatch.setattr(distributed, "LearnerActor", Actors())
    monkeypatch.setattr(distributed, "on_this_node", lambda: "here")
    config = small_config(f"learner.node={node}", "cluster.placement=SPREAD")
    distributed._make_learner(Run(config, tmp_path), tmp_path / "sign", None)
    assert given["scheduling_strategy"] == ("here" if node == "driver" else "SPREAD")
    assert given["sign"] == tmp_path / "sign"
