"""A worker with several blocks under way: each is handed in as it ends, once, and with the weights that it says."""

from functools import partial

import numpy as np
import pytest
import ray

from tests.processes import wait_for
from tests.runtime.drip import dripping
from tpo_dist.programs.parts import make_learner, make_stream, make_worker
from tpo_dist.records import concatenate
from tpo_dist.runtime.learner_actor import fetch
from tpo_dist.runtime.stream_actor import StreamActor
from tpo_dist.runtime.streaming_actor import StreamingActor

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

LANES = 5


@pytest.fixture
def line(small_config, tmp_path):
    """A learner of this process, a stream, and a way to start workers; all actors end with the test."""
    config = small_config("stream.max_staleness=1", "steps=6")
    stream = StreamActor.options(num_cpus=0).remote(partial(make_stream, config), tmp_path)
    actors = [stream]

    def start(name, in_flight=True):
        make = dripping(config, in_flight)
        actors.append(StreamingActor.options(num_cpus=0).remote(name, 1, make, LANES, 2))
        ray.get(actors[-1].ready.remote())
        return actors[-1], actors[-1].roll.remote(stream, 60.0)

    yield config, stream, make_learner(config), start
    for actor in actors:
        ray.kill(actor)


def take(stream, learner):
    """The blocks of the learner's next step."""
    snapshot = learner.snapshot()
    asked = stream.take.remote(learner.version, 60.0, snapshot.version, snapshot.digest, [ray.put(snapshot)])
    taken, _ = ray.get(asked, timeout=90)
    return taken, fetch(taken.payloads, 60.0)


@pytest.mark.parametrize("in_flight", [True, False])
def test_groups_are_those_of_a_worker_that_makes_one_block_at_a_time(line, in_flight):
    config, stream, learner, start = line
    _, ending = start("rollout-0", in_flight)
    plain = make_worker(config)
    snapshots = {}
    trained = []
    for _ in range(config.steps):
        snapshots[learner.version] = learner.snapshot()
        taken, blocks = take(stream, learner)
        for block, groups in zip(taken.blocks, blocks, strict=True):
            version = set(groups.snapshot_versions.tolist()).pop()
            assert version >= learner.version - 1
            plain.load(snapshots[version])
            expected = plain.roll(np.arange(4 * block, 4 * block + 4)).groups
            for name, array in expected.arrays().items():
                if not name.startswith("info/"):
                    np.testing.assert_array_equal(groups.arrays()[name], array)
        trained += taken.blocks
        assert {name.partition("/")[0] for name in taken.workers} == {"rollout-0"}
        assert len(set(taken.workers)) > 1
        learner.update(concatenate(blocks))
    snapshot = learner.snapshot()
    ray.get(stream.advance.remote(config.steps - 1, snapshot.version, snapshot.digest, [ray.put(snapshot)]))
    assert ray.get(ending, timeout=60) == len(trained)
    assert sorted(trained) == list(range(36))


def test_all_that_a_dead_worker_had_under_way_is_made_by_another(line):
    config, stream, learner, start = line
    first, _ = start("rollout-0")
    wait_for(lambda: ray.get(stream.look.remote())[0].version < 0, "the stream", 30)
    snapshot = learner.snapshot()
    ray.get(stream.advance.remote(None, snapshot.version, snapshot.digest, [ray.put(snapshot)]))
    wait_for(lambda: ray.get(stream.look.remote())[0].ready == 12, "blocks of two steps", 60)
    ray.kill(first)
    assert ray.get(stream.lost.remote("rollout-0", "killed")) == []  # small groups travel by value
    ray.get(stream.retire.remote("rollout-0"))  # its questions still wait there
    stats = ray.get(stream.look.remote())[0]
    assert (stats.ready, stats.leases) == (12, ())
    start("rollout-1")
    for _ in range(config.steps):
        _, blocks = take(stream, learner)
        learner.update(concatenate(blocks))
    assert set(ray.get(stream.look.remote())[0].handed_in) == {"rollout-0", "rollout-1"}


def test_a_worker_that_leaves_hands_in_what_it_has_and_gets_no_more(line):
    _, stream, learner, start = line
    _, ending = start("rollout-0")
    ray.get(stream.retire.remote("rollout-0"))
    snapshot = learner.snapshot()
    ray.get(stream.advance.remote(None, snapshot.version, snapshot.digest, [ray.put(snapshot)]))
    assert ray.get(ending, timeout=60) <= LANES
    assert ray.get(stream.look.remote())[0].leases == ()
