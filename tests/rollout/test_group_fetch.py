"""vLLM takes weights from the learner by a process group: all of them, or those that it had stay."""

import dataclasses
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.rollout import dying_engine
from tests.rollout.language_models import about, all_plain_logps, assert_own_version, finish, questions
from tpo_dist import weight_buckets
from tpo_dist.rollout.contract import FetchingSampler, WeightsLost, WrongWeights
from tpo_dist.rollout.vllm_sampler import VLLMSampler, VLLMSampling
from tpo_dist.runtime.weight_post import WeightPost
from tpo_dist.weight_group import TransferFailed, WeightGroup, Wire

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.vllm]


@pytest.fixture(scope="module")
def dying(folder):
    """A process that `dying_engine` runs in, which starts while the other engine does, and the connection to it."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=dying_engine.run, args=(folder, theirs))
    process.start()
    yield process, ours
    process.kill()
    process.join()


@pytest.fixture(scope="module")
def engine(folder, dying):
    pytest.importorskip("vllm")
    sampler = VLLMSampling(max_sequences=8).build(about(folder, max_tokens=24, wire=Wire("gloo", 30.0)))
    yield sampler.engine
    sampler.close()


class Learner:
    """A learner's part: it sends what the post has, in a thread of its own."""

    host = "127.0.0.1"

    def __init__(self):
        self.post, self.pool = WeightPost("cpu"), ThreadPoolExecutor(1)

    def send(self, meeting):
        return self.pool.submit(self.post.send, "rollout-0", meeting).result

    def publish(self, snapshot, worker="rollout-0", **changes):
        """Announced, and claimed by the worker."""
        announced = self.post.publish(dataclasses.replace(snapshot, **changes))
        assert self.post.claim(worker, snapshot.version)
        return announced


class DyingLearner(Learner):
    """It leaves when it has met the worker."""

    def send(self, meeting):
        return self.pool.submit(lambda: WeightGroup(meeting, 0, self.host, "rollout-0").close()).result


@pytest.fixture
def learner():
    return Learner()


@pytest.fixture
def sampler(engine, folder, models, learner):
    """A sampler over the engine, with version 1 from the learner."""
    sampler = VLLMSampler(engine, about(folder, max_tokens=24), VLLMSampling(max_sequences=8))
    sampler.fetch(learner.publish(models[1][1]), learner)
    return sampler


def assert_version(sampler, models, version):
    """What it samples has the log-probs that the model of that version gives."""
    assert (sampler.version, sampler.digest) == (version, models[version][1].digest)
    prompts = questions([5, 40], first=9)
    drawn = sampler.sample(prompts, 2)
    expected = all_plain_logps(models[version][0], prompts, drawn, 1.0)
    np.testing.assert_allclose(drawn.logps_GKT, expected, atol=1e-4, rtol=0)


def test_the_engine_computes_with_what_the_learner_sent(sampler, models, learner):
    assert isinstance(sampler, FetchingSampler)
    for version in (2, 3, 1):
        sampler.fetch(learner.publish(models[version][1]), learner)
        assert_version(sampler, models, version)


def test_weights_change_on_the_way_and_every_token_knows_its_own(sampler, models, learner):
    prompts = questions([5, 40], first=3)
    sampler.submit(7, prompts, 3)
    for _ in range(9):
        sampler.step()
    sampler.fetch(learner.publish(models[2][1]), learner)
    candidates = finish(sampler)[7]
    longest = candidates.versions_GKT[candidates.lengths_GK == 24]
    assert len(longest) > 0
    assert (longest == [1] * 9 + [2] * 15).all()
    assert_own_version(candidates, prompts, models)


def test_a_learner_that_dies_on_the_way_leaves_the_engine_as_it_was_and_the_next_is_met(sampler, models):
    dead = DyingLearner()
    sampler.submit(1, questions([5]), 2)
    sampler.step()
    with pytest.raises(WeightsLost, match="snapshot 2 did not arrive: the learner did not send weights"):
        sampler.fetch(dead.publish(models[2][1]), dead)
    finish(sampler)
    assert_version(sampler, models, 1)
    other = Learner()
    sampler.fetch(other.publish(models[2][1]), other)
    assert_version(sampler, models, 2)


def test_other_weights_than_announced_are_not_taken_over(sampler, models, learner):
    odd = learner.publish(models[2][1], digest="0" * 32)
    with pytest.raises(WrongWeights, match="snapshot 2 was published with digest 000"):
        sampler.fetch(odd, learner)
    assert_version(sampler, models, 1)
    sampler.fetch(learner.publish(models[3][1]), learner)
    assert_version(sampler, models, 3)


def test_snapshots_that_bring_their_weights_are_loaded_as_ever(sampler, models):
    sampler.load(models[2][1])
    assert_version(sampler, models, 2)


def test_an_engine_that_is_killed_in_the_middle_costs_the_learner_one_transfer(
    sampler, models, dying, learner, monkeypatch
):
    process, orders = dying
    monkeypatch.setattr(weight_buckets, "BUCKET_BYTES", dying_engine.BUCKET)
    assert orders.recv() == "ready"
    orders.send(learner.publish(models[1][1], "rollout-1"))
    learner.post.send("rollout-1", orders.recv())
    orders.send("sent")
    assert orders.recv() == 1
    orders.send(learner.publish(models[2][1], "rollout-1"))
    meeting = orders.recv()
    with pytest.raises(TransferFailed, match="rollout-1 did not take its weights"):
        learner.post.send("rollout-1", meeting)
    process.join(30)
    assert process.exitcode == -9
    learner.post.forget("rollout-1")
    sampler.fetch(learner.publish(models[3][1]), learner)
    assert_version(sampler, models, 3)
