"""Weights that stay with the learner: who may have which, and what a worker does where it cannot have them."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from tpo_dist.records import Snapshot, weights_digest
from tpo_dist.runtime import weight_post
from tpo_dist.runtime.rollout_actor import RolloutShell
from tpo_dist.runtime.weight_post import Offer, WeightPost, lasting
from tpo_dist.weight_group import TransferFailed, WeightGroup, Wire, open_meeting

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _one_node(monkeypatch):
    monkeypatch.setattr(weight_post, "_address", lambda: HOST)
    monkeypatch.setattr(weight_post, "ask", lambda answer, seconds, what: answer())


def snapshot(version):
    arrays = {"w": np.full(5, float(version), dtype=np.float32)}
    return Snapshot(version=version, arrays=arrays, digest=weights_digest(arrays))


class Engine:
    """A rollout worker that takes weights in this process."""

    def __init__(self):
        self.group, self.source, self.took = None, None, []

    def fetch(self, announced, sender):
        meeting, self.store = open_meeting(sender.host, 2, Wire("gloo", 30.0))
        end = sender.send(meeting)
        self.took.append(dict(WeightGroup(meeting, 1, sender.host, "the learner").receive(announced.entries)))
        end()


class Holder:
    """The learner's actor, without Ray: each call runs in a thread."""

    def __init__(self):
        self.post, pool = WeightPost("cpu"), ThreadPoolExecutor(2)
        for name in ("claim", "send", "forget"):
            call = getattr(self.post, name)
            remote = lambda *arguments, call=call: pool.submit(call, *arguments).result  # noqa: E731
            setattr(self, name, SimpleNamespace(remote=remote))

    def offer(self, version):
        return Offer(self.post.publish(snapshot(version)), self)


def shell():
    made = RolloutShell("rollout-0", 1, Engine)
    made.worker = Engine()
    return made


def test_a_worker_gets_the_version_that_it_was_offered():
    holder, worker = Holder(), shell()
    for version in (0, 1):
        assert worker.load([holder.offer(version)])
        assert worker.loaded == (version, snapshot(version).digest)
        np.testing.assert_array_equal(worker.worker.took[-1]["w"], snapshot(version).arrays["w"])


def test_an_offer_that_was_replaced_or_whose_learner_died_leaves_the_worker_as_it_was():
    holder, worker = Holder(), shell()
    assert worker.load([holder.offer(0)])
    old = holder.offer(1)
    holder.offer(2)
    assert not worker.load([old])

    def die(*_):
        raise ActorDiedError

    holder.claim = SimpleNamespace(remote=lambda *_: die)
    assert not worker.load([holder.offer(3)])
    assert worker.loaded == (0, snapshot(0).digest)


def test_what_was_claimed_stays_though_newer_weights_follow():
    post = WeightPost("cpu")
    assert not post.claim("a", 0)
    announced = post.publish(snapshot(0))
    assert post.claim("a", 0)
    post.publish(snapshot(1))
    assert not post.claim("b", 0)
    meeting, _store = open_meeting(HOST, 2, Wire("gloo", 30.0))
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(post.send, "a", meeting)
        group = WeightGroup(meeting, 1, HOST, "the learner")
        arrived = dict(group.receive(announced.entries))
        sending.result()
        np.testing.assert_array_equal(arrived["w"], snapshot(0).arrays["w"])
        post.forget("a")  # the group with it
        with pytest.raises(TransferFailed, match="the learner did not send weights"):
            list(group.receive(announced.entries))


def test_an_evaluator_has_what_was_stored():
    announced = WeightPost("cpu").publish(snapshot(0))
    assert lasting([b"packed"]) == [b"packed"]
    assert lasting([Offer(announced, None)]) == []
    assert lasting([Offer(announced, None, ("reference",))]) == ["reference"]
