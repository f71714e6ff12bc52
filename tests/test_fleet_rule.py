"""The rule behind `rollout.workers: auto`, alone and in a simulated run."""

import heapq
import random
from itertools import pairwise

import pytest

from tpo_dist.fleet_rule import LATER_SECONDS, LATER_STEPS, SOON_SECONDS, SOON_STEPS, next_size

LONG = 1e6
BLOCKS = 32
"""Per step."""


class Simulation:
    """Workers that take `latency` seconds a block, more or less, a learner that trains `BLOCKS` blocks in `training`.

    Admission is that of the stream: blocks of a step may be started when the step `staleness + 1` before it is done.
    Newcomers take a few seconds to come up; those that leave finish their block.
    """

    def __init__(self, workers, latency, training, spread=0.3, staleness=1, seed=0):
        self.random = random.Random(seed)
        self.latency, self.training, self.spread, self.staleness = latency, training, spread, staleness
        self.now, self.started, self.ready, self.done = 0.0, 0, 0, 0
        self.events, self.training_since, self.waiting_since = [], None, 0.0
        self.size, self.busy, self.idle, self.leaving = 0, 0, 0, 0
        self.busy_seconds = self.idle_seconds = self.learner_idle = 0.0
        self.resize(workers, delay=0.0)

    def resize(self, size, delay=4.0):
        for _ in range(size - self.size):
            heapq.heappush(self.events, (self.now + delay, self.random.random(), "joins"))
        for _ in range(self.size - size):
            if self.idle:
                self.idle -= 1
            else:
                self.leaving += 1
        self.size = size

    def _begin(self):
        while self.idle and self.started < (self.done + self.staleness + 1) * BLOCKS:
            self.idle, self.busy, self.started = self.idle - 1, self.busy + 1, self.started + 1
            seconds = self.latency * self.random.lognormvariate(0.0, self.spread)
            heapq.heappush(self.events, (self.now + seconds, self.random.random(), "block"))
        if self.training_since is None and self.ready >= BLOCKS:
            self.ready -= BLOCKS
            self.training_since = self.now
            heapq.heappush(self.events, (self.now + self.training, self.random.random(), "step"))

    def _happen(self, event):
        if event == "step":
            self.done, self.training_since = self.done + 1, None
            return
        if event == "block":
            self.busy, self.ready = self.busy - 1, self.ready + 1
        if self.leaving:
            self.leaving -= 1
        else:
            self.idle += 1

    def run(self, seconds):
        """Go on for so long: the idle shares of learner and workers."""
        end, busy, idle, waiting = self.now + seconds, 0.0, 0.0, 0.0
        while self.now < end:
            self._begin()
            at = min(self.events[0][0], end) if self.events else end
            busy, idle = busy + self.busy * (at - self.now), idle + self.idle * (at - self.now)
            waiting += (at - self.now) * (self.training_since is None)
            self.now = at
            while self.events and self.events[0][0] <= self.now:
                self._happen(heapq.heappop(self.events)[2])
        return waiting / seconds, idle / max(busy + idle, 1e-9)


def sizes(simulation, ceiling, seconds=3000.0, every=5.0, memory=12):
    """The sizes that the rule gives, looking every few seconds at the last minute, or at what came after a change."""
    taken, shares, settled_at, steps_before = [], [], simulation.now + 4.0, 0
    while simulation.now < seconds:
        share = simulation.run(every)
        if simulation.now - every >= settled_at:
            shares = [*shares[-memory + 1 :], share]
        else:
            steps_before = simulation.done
        if shares:
            learner, workers = (sum(column) / len(shares) for column in zip(*shares, strict=True))
            since, steps = simulation.now - settled_at, simulation.done - steps_before
            size = next_size(simulation.size, learner, workers, 1, ceiling, since, steps)
            if size != simulation.size:
                simulation.resize(size)
                shares, settled_at = [], simulation.now + 4.0
        taken.append(simulation.size)
    return taken


def feeds(latency, training, seed):
    """The smallest fleet with which the learner waits for less than a tenth of its time, measured with fixed fleets."""
    for workers in range(1, 65):
        simulation = Simulation(workers, latency, training, seed=seed)
        simulation.run(100.0)
        if simulation.run(2000.0)[0] <= 0.10:
            return workers
    raise AssertionError


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("latency", "training"),
    [(0.2, 10.0), (0.55, 10.0), (1.2, 10.0), (2.1, 10.0), (3.6, 10.0)],
    ids=["less than one worker", "about two", "about four", "about seven", "about twelve"],
)
def test_it_finds_the_fleet_that_feeds_the_learner_from_below_and_from_above(latency, training, seed):
    target = feeds(latency, training, seed)
    for start in (1, 40):
        taken = sizes(Simulation(start, latency, training, seed=seed), ceiling=64)
        late = taken[len(taken) // 3 :]
        assert all(abs(size - target) <= 1 for size in late), (target, taken)
        changes = sum(one != two for one, two in pairwise(late))
        assert changes <= 2, (target, taken)


def test_it_arrives_within_minutes():
    taken = sizes(Simulation(1, 3.6, 10.0), ceiling=64, seconds=300.0)
    assert taken[-1] >= 11


def test_it_stops_at_the_ceiling():
    taken = sizes(Simulation(1, 3.6, 10.0), ceiling=5, seconds=600.0)
    assert taken[-1] == 5
    assert max(taken) == 5


def test_a_starving_learner_gets_at_most_twice_the_workers_at_once():
    assert next_size(2, 0.9, 0.0, 1, 64, LONG) == 4
    assert next_size(10, 0.2, 0.0, 1, 64, LONG) == 13  # 10 / 0.8
    assert next_size(10, 1.0, 0.0, 1, 64, LONG) == 20


def test_a_part_of_a_worker_is_not_worth_one():
    assert next_size(1, 0.15, 0.0, 1, 64, LONG) == 1
    assert next_size(1, 0.30, 0.0, 1, 64, LONG) == 2
    assert next_size(20, 0.09, 0.0, 1, 64, LONG) == 20


def test_idle_workers_beside_a_starving_learner_are_no_reason_to_hire():
    """They wait for the learner's next version, or for each other: more of them would wait too."""
    assert next_size(4, 0.5, 0.5, 1, 64, LONG) == 4


def test_idle_workers_go_at_most_a_quarter_at_once():
    assert next_size(40, 0.0, 0.9, 1, 64, LONG) == 30
    assert next_size(10, 0.0, 0.3, 1, 64, LONG) == 8  # 7 busy, and one spare
    assert next_size(2, 0.0, 0.75, 1, 64, LONG) == 1


def test_one_idle_worker_stays():
    assert next_size(4, 0.0, 0.25, 1, 64, LONG) == 4
    assert next_size(2, 0.0, 0.52, 1, 64, LONG) == 2


def test_it_waits_between_changes():
    assert next_size(4, 0.5, 0.0, 1, 64, SOON_SECONDS - 0.1) == 4
    assert next_size(4, 0.5, 0.0, 1, 64, SOON_SECONDS) == 8
    assert next_size(8, 0.15, 0.0, 1, 64, LATER_SECONDS - 0.1) == 8
    assert next_size(8, 0.15, 0.0, 1, 64, LATER_SECONDS) == 10
    assert next_size(8, 0.0, 0.7, 1, 64, LATER_SECONDS - 0.1) == 8
    assert next_size(8, 0.0, 0.7, 1, 64, LATER_SECONDS) == 6


def test_it_waits_for_some_steps_too():
    assert next_size(4, 0.5, 0.0, 1, 64, LONG, SOON_STEPS - 1) == 4
    assert next_size(4, 0.5, 0.0, 1, 64, LONG, SOON_STEPS) == 8
    assert next_size(8, 0.0, 0.7, 1, 64, LONG, LATER_STEPS - 1) == 8
    assert next_size(8, 0.0, 0.7, 1, 64, LONG, LATER_STEPS) == 6


def test_a_learner_that_waits_a_little_keeps_workers_that_are_not_mostly_idle():
    assert next_size(8, 0.07, 0.4, 1, 64, LONG) == 8
    assert next_size(8, 0.07, 0.6, 1, 64, LONG) == 6
    assert next_size(8, 0.2, 0.9, 1, 64, LONG) == 8


@pytest.mark.parametrize(("current", "expected"), [(1, 2), (9, 6), (2, 2), (6, 6)])
def test_floor_and_ceiling_hold_at_once(current, expected):
    assert next_size(current, 0.07, 0.2, 2, 6, 0.0) == expected


def test_floor_and_ceiling_hold_whatever_the_shares():
    for current in range(2, 7):
        for learner in (0.0, 0.05, 0.1, 0.5, 1.0):
            for workers in (0.0, 0.3, 0.6, 1.0):
                assert 2 <= next_size(current, learner, workers, 2, 6, LONG) <= 6
