"""What a worker and the stream say to each other, and how the learner gets the groups."""

import asyncio

import numpy as np
import pytest
import ray
from ray.exceptions import RayError

from tests.processes import wait_for
from tests.test_records import make_groups
from tpo_dist.blocks import BlockSummary
from tpo_dist.records import Snapshot
from tpo_dist.rollout.worker import Rolled
from tpo_dist.runtime.learner_actor import fetch
from tpo_dist.runtime.messages import SMALL_BYTES, Delivery, Turn, pack, unpack
from tpo_dist.runtime.rollout_actor import deliver
from tpo_dist.runtime.stream_actor import StreamShell
from tpo_dist.runtime.weight_post import Offer
from tpo_dist.stream import GroupStream
from tpo_dist.waiting import DeadlineExceeded
from tpo_dist.weight_group import announce

GOOD = BlockSummary(groups=1)


def shell(tmp_path):
    """A stream in this process, two steps of two blocks, at most one publication stale."""
    return StreamShell(lambda: GroupStream(blocks_per_step=2, block_size=1, steps=2, max_staleness=1), tmp_path)


async def turn(stream, loaded, *deliveries, parcel=(), most=1):
    """What worker a gets: its leases and the snapshot that it is sent."""
    answer = await stream.turn(pack(Turn("a", loaded, deliveries, most, 1.0)), list(parcel))
    return (unpack(answer[0]), answer[1:]) if answer else None


def test_a_snapshot_is_sent_only_to_a_worker_that_has_another(tmp_path):
    async def scenario():
        stream = shell(tmp_path)
        await stream.advance(None, 0, "d0", ["weights 0"])
        (lease,), sent = await turn(stream, (-1, ""))
        assert sent == ["weights 0"]
        (lease,), sent = await turn(stream, (0, "d0"), Delivery(lease, GOOD, b"block 0"))
        assert (lease.block, sent) == (1, [])
        (lease,), sent = await turn(stream, (0, "d1"), Delivery(lease, GOOD, b"block 1"))
        assert sent == ["weights 0"]
        taken, _ = await stream.take(0, 1.0, 0, "d0", ["weights 0"])
        assert taken.payloads == [b"block 0", b"block 1"]
        await stream.advance(0, 1, "d0", ["weights 1"])  # the same weights, as another version
        (lease,), sent = await turn(stream, (0, "d0"), Delivery(lease, GOOD, b"block 2"))
        assert (lease.version, sent) == (1, ["weights 1"])

    asyncio.run(scenario())


def test_what_stays_with_the_learner_is_no_milestone_but_what_it_stored_is(tmp_path):
    """An evaluator may come for it when newer weights have taken its place."""
    announced = announce(Snapshot(version=0, arrays={}, digest="d0"), "a")

    async def scenario():
        stream = StreamShell(
            lambda: GroupStream(blocks_per_step=1, block_size=1, steps=9, max_staleness=1), tmp_path, 2
        )
        assert await stream.advance(None, 0, "d0", [Offer(announced, "learner", (b"weights 0",))]) is None
        assert await stream.milestone(-1, 1.0) == [0, b"weights 0"]
        await stream.advance(None, 2, "d2", [Offer(announced, "learner")])
        with pytest.raises(DeadlineExceeded, match="a snapshot after version 0 to evaluate"):
            await stream.milestone(0, 0.1)
        await stream.advance(None, 3, "d3", [Offer(announced, "learner", (b"weights 3",))])
        assert await stream.milestone(0, 1.0) == [3, b"weights 3"]

    asyncio.run(scenario())


def test_a_worker_goes_on_with_blocks_of_the_snapshot_that_it_has_though_there_is_a_newer_one(tmp_path):
    async def scenario():
        stream = shell(tmp_path)
        await stream.advance(None, 0, "d0", ["weights 0"])
        leases, _ = await turn(stream, (0, "d0"), most=2)
        await stream.advance(None, 1, "d1", ["weights 1"])
        assert await turn(stream, (0, "d0"), Delivery(leases[0], GOOD, b"block 0"), most=2) == (leases[1:], [])
        again, sent = await turn(stream, (-1, ""), most=2)
        assert ([(lease.block, lease.version) for lease in again], sent) == ([(1, 1), (2, 1)], ["weights 1"])

    asyncio.run(scenario())


def test_only_a_reference_ties_a_block_to_its_worker(tmp_path):
    async def scenario():
        stream = shell(tmp_path)
        await stream.advance(None, 0, "d0", ["weights 0"])
        (lease,), _ = await turn(stream, (0, "d0"))
        by_value = Delivery(lease, GOOD, b"by value")
        leases, _ = await turn(stream, (0, "d0"), by_value, most=2)
        await turn(stream, (0, "d0"), Delivery(leases[0], GOOD, place=0), parcel=["a reference"])
        assert (await stream.look())[2] == {"a": [1]}
        assert (await stream.look())[4] == {"a": 0}  # the version that it samples from
        taken, _ = await stream.take(0, 1.0, 0, "d0", ["weights 0"])
        assert taken.payloads == [b"by value", ["a reference", 0]]

    asyncio.run(scenario())


def test_a_closed_stream_answers_with_nothing(tmp_path):
    async def scenario():
        stream = shell(tmp_path)
        await stream.close()
        assert await turn(stream, (-1, "")) is None

    asyncio.run(scenario())


def test_packed_groups_arrive_whole_and_read_only():
    block = make_groups(count=3)
    arrived = unpack(pack(block))
    for name, array in block.arrays().items():
        np.testing.assert_array_equal(arrived.arrays()[name], array)
        assert not arrived.arrays()[name].flags.writeable


@ray.remote(num_cpus=0)
class Maker:
    """Makes a parcel that lives with it."""

    def make(self):
        return [ray.put([make_groups(count=2), make_groups(count=6)])]


def test_small_groups_travel_by_value_and_large_ones_in_one_parcel():
    lease, parcel = object(), []
    small, large = make_groups(count=2), make_groups(count=300, size=32)
    assert small.nbytes <= SMALL_BYTES < large.nbytes
    made = [Rolled(groups=groups) for groups in (large, small, None, large)]
    deliveries = [deliver(lease, rolled, GOOD, parcel) for rolled in made]
    assert [each.place for each in deliveries] == [0, None, None, 1]
    assert [each.small is not None for each in deliveries] == [False, True, False, False]
    assert len(unpack(deliveries[1].small)) == 2
    assert parcel == [large, large]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_learner_gets_groups_in_order_and_knows_which_are_lost():
    maker = Maker.remote()
    (lost,) = ray.get(maker.make.remote())
    here = ray.put([make_groups(count=3), make_groups(count=5)])
    payloads = [[here, 0], pack(make_groups(count=4)), [lost, 1], [lost, 0], [here, 1]]
    assert [len(block) for block in fetch(payloads, 30.0)] == [3, 4, 6, 2, 5]
    (payloads[2][0],) = ray.get(maker.make.remote())
    payloads[3][0] = payloads[2][0]
    ray.kill(maker)
    wait_for(lambda: isinstance(fetch(payloads, 30.0)[2], RayError), "the block to go with its maker")
    found = fetch(payloads, 30.0)
    assert isinstance(found[3], RayError)
    assert [len(found[index]) for index in (0, 1, 4)] == [3, 4, 5]
