"""How many blocks a worker takes on at once, and what it hands in: one turn after another, on a clock of its own."""

from types import SimpleNamespace

import pytest

from tests.test_records import make_groups
from tpo_dist.blocks import Lease
from tpo_dist.records import Snapshot
from tpo_dist.rollout.worker import Rolled
from tpo_dist.runtime import rollout_actor
from tpo_dist.runtime.messages import pack, unpack
from tpo_dist.runtime.rollout_actor import RolloutShell

SNAPSHOT = Snapshot(version=0, arrays={}, digest="d0")


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def perf_counter(self):
        return self.now


class Worker:
    """Takes so many seconds for each block, the last number for all further ones."""

    def __init__(self, clock, seconds, load_seconds=0.0):
        self.clock, self.seconds, self.load_seconds = clock, list(seconds), load_seconds

    def load(self, snapshot):
        self.clock.now += self.load_seconds

    def roll(self, draw_ids):
        self.clock.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        return Rolled(groups=make_groups(count=len(draw_ids)))


class Stream:
    """Gives out what it is asked for, until so many turns are over; each takes a second, and its answer is at hand."""

    def __init__(self, clock, turns, version=lambda turn: 0):
        self.clock, self.turns, self.version = clock, turns, version
        self.heard, self.held, self.next = [], [], 0
        self.newest = SimpleNamespace(remote=lambda worker, seconds: [pack(SNAPSHOT)])
        self.turn = SimpleNamespace(remote=self.answer)

    def answer(self, packed, parcel):
        self.clock.now += 1.0
        turn = unpack(packed)
        self.heard.append(turn)
        done = [each.lease for each in turn.deliveries]
        assert done == self.held[: len(done)], "handed in once, in order"
        self.held = self.held[len(done) :]
        if len(self.heard) > self.turns:
            return []
        if not self.held:
            version = self.version(len(self.heard))
            first, self.next = self.next, self.next + turn.most
            self.held = [self.lease(block, version) for block in range(first, self.next)]
        return [pack(self.held), pack(Snapshot(version=self.held[0].version, arrays={}, digest="d0"))]

    def lease(self, block, version):
        return Lease(block=block, first_draw=block, draws=1, worker="w", attempt=1, version=version, digest="d0")


@pytest.fixture
def play(monkeypatch):
    """Let a worker of these times play against the stream; what the stream heard, turn by turn."""

    def run(seconds, turns, load_seconds=0.0, **stream):
        clock = Clock()
        monkeypatch.setattr(rollout_actor, "time", clock)
        monkeypatch.setattr(rollout_actor, "ask", lambda answer, seconds, what: answer)
        shell = RolloutShell("w", 1, lambda: Worker(clock, seconds, load_seconds))
        monkeypatch.setattr(rollout_actor, "whereabouts", lambda name: name)
        shell.ready()
        desk = Stream(clock, turns, **stream)
        assert shell.roll(desk, 60.0) == sum(len(turn.deliveries) for turn in desk.heard)
        return desk.heard

    return run


def sizes(heard):
    return [turn.most for turn in heard], [len(turn.deliveries) for turn in heard]


def test_a_worker_of_slow_blocks_takes_one_at_a_time(play):
    assert sizes(play([0.03], turns=3)) == ([1, 1, 1, 1], [0, 1, 1, 1])


def test_a_worker_of_quick_blocks_takes_on_as_many_as_fill_a_twentieth_of_a_second(play):
    assert sizes(play([0.0099], turns=5)) == ([1, 2, 4, 5, 5, 5], [0, 1, 2, 4, 5, 5])


def test_loading_weights_does_not_count(play):
    heard = play([0.0099], turns=4, load_seconds=3.0, version=lambda turn: turn)
    assert sizes(heard)[0] == [1, 2, 4, 5, 5]
    assert [turn.loaded[0] for turn in heard] == [0, 1, 2, 3, 4]


def test_blocks_that_take_longer_than_thought_are_handed_in_and_the_rest_comes_again(play):
    heard = play([0.001, 0.001, 0.001, 0.001, 0.2, 0.001], turns=6)
    assert sizes(heard) == ([1, 2, 4, 1, 2, 4, 8], [0, 1, 2, 2, 2, 2, 4])


def test_what_each_block_took_is_said_of_each(play):
    heard = play([0.01], turns=2)
    summaries = [each.summary for turn in heard for each in turn.deliveries]
    assert [each.wait_seconds for each in summaries] == pytest.approx([1.0, 1.0, 0.0])
    assert [each.roll_seconds for each in summaries] == pytest.approx([0.01] * 3)
