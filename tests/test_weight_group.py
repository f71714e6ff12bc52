"""Weights by a process group: they arrive as they were, and whoever is gone or late ends a wait, in words."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tpo_dist.records import Snapshot, weights_digest
from tpo_dist.weight_buckets import BUCKET_BYTES
from tpo_dist.weight_group import TransferFailed, WeightGroup, Wire, announce, open_meeting

HOST = "127.0.0.1"
WIRE = Wire("gloo", 60.0)


def snapshot(*sizes):
    """Arrays of these many numbers, of several dtypes, and the odd shapes that there may be."""
    rng = np.random.default_rng(0)
    arrays = {f"layer.{place}": rng.standard_normal((size, 1), dtype=np.float32) for place, size in enumerate(sizes)}
    arrays |= {"bf16": np.arange(7, dtype=np.int16), "none": np.empty((0, 3), np.float32), "one": np.array(2.5)}
    return Snapshot(version=3, arrays=arrays, digest=weights_digest(arrays))


SMALL = snapshot(10, 3)
LARGE = snapshot(BUCKET_BYTES // 8, BUCKET_BYTES // 8, BUCKET_BYTES // 3, 5)  # four buckets, one of a single array


def take(meeting, rank, entries):
    """A rank's part of a transfer; what arrived."""
    return dict(WeightGroup(meeting, rank, HOST, "the learner").receive(entries))


def fail(entries, seconds, how, ours):
    """In a process of its own: open a meeting as a worker does, and be killed or stopped after the first array."""
    meeting, _store = open_meeting(HOST, 2, Wire("gloo", seconds))
    ours.send(meeting)
    group = WeightGroup(meeting, 1, HOST, "the learner")
    for _ in group.receive(entries):
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)


def send(meeting, arrays, times=1):
    group = WeightGroup(meeting, 0, HOST, "rollout-0")
    for _ in range(times):
        group.send(arrays)


def assert_arrived(arrived, sent):
    assert list(arrived) == sorted(sent.arrays)
    assert weights_digest(arrived) == sent.digest
    for name, array in arrived.items():
        np.testing.assert_array_equal(array, sent.arrays[name])


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_everything_arrives_at_every_rank_as_it_was(pool):
    meeting, _store = open_meeting(HOST, 3, WIRE)
    entries = announce(LARGE, "a").entries
    taking = [pool.submit(take, meeting, rank, entries) for rank in (1, 2)]
    send(meeting, LARGE.arrays)
    for each in taking:
        assert_arrived(each.result(), LARGE)


def test_a_group_sends_again_and_others_join_later_in_groups_of_their_own(pool):
    entries = announce(SMALL, "a").entries

    def take_twice(meeting):
        group = WeightGroup(meeting, 1, HOST, "the learner")
        return [dict(group.receive(entries)) for _ in range(2)]

    for _ in range(2):
        meeting, _store = open_meeting(HOST, 2, WIRE)
        taking = pool.submit(take_twice, meeting)
        send(meeting, SMALL.arrays, times=2)
        for arrived in taking.result():
            assert_arrived(arrived, SMALL)


def test_an_announcement_says_everything_but_the_weights():
    announced = announce(SMALL, "a")
    assert announced.header.arrays == {}
    assert (announced.header.version, announced.header.digest) == (3, SMALL.digest)
    assert announced.entries[0] == ("bf16", "<i2", (7,))


def test_who_does_not_come_is_waited_for_up_to_the_deadline():
    meeting, _store = open_meeting(HOST, 2, Wire("gloo", 0.5))
    with pytest.raises(TransferFailed, match=r"waited 0\.5 s for rollout-7 to meet"):
        WeightGroup(meeting, 0, HOST, "rollout-7")


def test_a_backend_that_connects_for_ever_is_waited_for_up_to_the_deadline(monkeypatch):
    """As NCCL does where a rank died after it came."""

    class Stuck:
        def __init__(self):
            self.gone = threading.Event()

        def broadcast(self, *_):
            self.gone.wait()

        def abort(self):
            self.gone.set()

    stuck = Stuck()
    monkeypatch.setattr("tpo_dist.weight_group._make_group", lambda *_: stuck)
    meeting, _store = open_meeting(HOST, 2, Wire("gloo", 0.5))
    with pytest.raises(TransferFailed, match=r"^waited 0.5 s for rollout-0 to meet$"):
        WeightGroup(meeting, 0, HOST, "rollout-0")
    assert stuck.gone.wait(10)


def test_whoever_leaves_on_the_way_is_noticed_at_once(pool):
    meeting, _store = open_meeting(HOST, 2, WIRE)
    taking = pool.submit(take, meeting, 1, announce(LARGE, "a").entries)
    WeightGroup(meeting, 0, HOST, "rollout-0").close()
    with pytest.raises(TransferFailed, match="the learner did not send weights: "):
        taking.result()


def test_a_death_that_gloo_does_not_notice_is_missed_within_seconds(pool):
    """As if a process had gone, and left a connection open on which nothing comes."""
    for gone in ("worker", "learner"):
        meeting, store = open_meeting(HOST, 2, Wire("gloo", 10.0))
        taker = pool.submit(WeightGroup, meeting, 1, HOST, "the learner")
        sender, taker = WeightGroup(meeting, 0, HOST, "rollout-0"), taker.result()
        if gone == "worker":
            del store
            with pytest.raises(TransferFailed, match="rollout-0 did not take its weights: its process is gone"):
                sender.send(LARGE.arrays)
            taker.close()
        else:
            sender._door.close()
            with pytest.raises(TransferFailed, match="the learner did not send weights: its process is gone"):
                list(taker.receive(announce(LARGE, "a").entries))
            sender.close()


def test_the_meeting_place_is_at_the_address_that_it_was_given_alone():
    meeting, _store = open_meeting("127.0.0.2", 2, WIRE)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((HOST, meeting.port), timeout=5)


@pytest.mark.parametrize(("how", "seconds", "said"), [
    ("kill", 15.0, "rollout-0 did not take its weights: "),
    ("stop", 3.0, "waited 3 s for rollout-0 to take its weights"),
])  # fmt: skip
def test_a_process_that_dies_or_hangs_in_the_middle_fails_the_transfer_and_no_other(how, seconds, said, pool):
    entries, spawn = announce(LARGE, "a").entries, multiprocessing.get_context("spawn")
    theirs, ours = spawn.Pipe()
    process = spawn.Process(target=fail, args=(entries, seconds, how, ours))
    process.start()
    try:
        assert theirs.poll(120)
        group = WeightGroup(theirs.recv(), 0, HOST, "rollout-0")
        began = time.monotonic()
        with pytest.raises(TransferFailed, match=said):
            group.send(LARGE.arrays)
        assert time.monotonic() - began < (10 if how == "kill" else 30)
    finally:
        process.kill()
        process.join()
    meeting, _store = open_meeting(HOST, 2, WIRE)
    taking = pool.submit(take, meeting, 1, entries)
    send(meeting, LARGE.arrays)
    assert_arrived(taking.result(), LARGE)
