"""How stale a block may get: what may start, which blocks make a step, and for what the learner waits."""

import asyncio

import pytest

from tpo_dist.blocks import BlockSummary
from tpo_dist.stream import GroupStream
from tpo_dist.waiting import DeadlineExceeded

GOOD = BlockSummary(groups=4)


def make_stream(**changes):
    return GroupStream(**{"blocks_per_step": 2, "block_size": 4, "steps": 20, "max_staleness": 1, **changes})


def lease_all(stream, prefix="w"):
    """Every lease that may start now, each to a worker of its own, by block."""
    leases = {}
    while (lease := stream.try_lease(f"{prefix}{len(leases)}")) is not None:
        leases[lease.block] = lease
    return leases


async def put(stream, leases, *blocks, summary=GOOD):
    for block in blocks:
        assert await stream.put(leases.pop(block), f"block {block}", summary)


async def take_and_finish(stream, step):
    taken = await stream.take(step, 0.02)
    await stream.finish(step)
    return taken.blocks


def run(coroutine):
    return asyncio.run(coroutine)


@pytest.mark.parametrize(("staleness", "every", "blocks"), [(0, 1, 2), (0, 3, 6), (1, 1, 4), (1, 2, 8), (3, 2, 16)])
def test_as_many_blocks_start_as_can_still_be_trained_in_time(staleness, every, blocks):
    async def scenario():
        stream = make_stream(max_staleness=staleness, publish_every=every)
        await stream.publish(0, "d0")
        leases = lease_all(stream)
        assert list(leases) == list(range(blocks))
        await put(stream, leases, *range(2 * every))
        for step in range(every):
            assert await take_and_finish(stream, step) == (2 * step, 2 * step + 1)
            assert stream.try_lease("x") is None, "training makes no room, a new version does"
        await stream.publish(every, "d")
        assert len(lease_all(stream, "x")) == 2 * every

    run(scenario())


def test_no_more_blocks_start_than_the_run_has_steps_for():
    async def scenario():
        stream = make_stream(max_staleness=10, steps=3)
        await stream.publish(0, "d0")
        leases = lease_all(stream)
        assert len(leases) == 6
        await put(stream, leases, 5, summary=BlockSummary(groups=0))
        assert list(lease_all(stream, "x")) == [6], "a block that failed is replaced by the next draws"

    run(scenario())


def test_the_oldest_are_taken_first():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        old = {block: stream.try_lease(f"w{block}") for block in range(3)}
        await put(stream, old, 0, 1)
        assert await take_and_finish(stream, 0) == (0, 1)
        await stream.publish(1, "d1")
        new = lease_all(stream, "x")
        assert list(new) == [3, 4, 5]
        await put(stream, new, 5, 3, 4)
        await put(stream, old, 2)
        taken = await stream.take(1, 0.02)
        assert (taken.blocks, taken.versions, taken.workers) == ((2, 3), (0, 1), ("w2", "x0"))
        assert taken.payloads == ["block 2", "block 3"]

    run(scenario())


def test_the_learner_waits_for_an_old_block_only_in_the_last_step_that_may_have_it():
    async def scenario():
        stream = make_stream(publish_every=2)
        await stream.publish(0, "d0")
        old = lease_all(stream)
        await put(stream, old, *range(2, 8))
        for step in (0, 1):
            await take_and_finish(stream, step)
        await stream.publish(2, "d2")
        new = lease_all(stream, "x")
        assert list(old) == [0, 1], "in flight since the beginning"
        await put(stream, new, 8, 9)
        assert await take_and_finish(stream, 2) == (6, 7), "step 3 has room for both"
        with pytest.raises(DeadlineExceeded, match=r"block 0, with w0 for 0.0 s; block 1, with w1"):
            await stream.take(3, 0.02)
        await put(stream, old, 0)
        with pytest.raises(DeadlineExceeded, match="block 1, with w1"):
            await stream.take(3, 0.02)
        await put(stream, old, 1)
        assert await take_and_finish(stream, 3) == (0, 1)

    run(scenario())


def test_the_learner_waits_early_where_several_old_blocks_would_not_fit_into_the_last_step():
    async def scenario():
        stream = make_stream(blocks_per_step=1, max_staleness=2)
        await stream.publish(0, "d0")
        old = lease_all(stream)
        await put(stream, old, 0)
        await take_and_finish(stream, 0)
        await stream.publish(1, "d1")
        new = lease_all(stream, "x")
        await put(stream, new, 3)
        with pytest.raises(DeadlineExceeded):  # blocks 1 and 2 of version 0, and only step 2 after this one
            await stream.take(1, 0.02)
        await put(stream, old, 2)
        assert await take_and_finish(stream, 1) == (2,)
        await stream.publish(2, "d2")
        with pytest.raises(DeadlineExceeded, match="block 1, with w1"):
            await stream.take(2, 0.02)
        await put(stream, old, 1)
        assert await take_and_finish(stream, 2) == (1,)

    run(scenario())


def test_blocks_of_several_versions_compete_for_the_same_last_steps():
    async def scenario():
        stream = make_stream(blocks_per_step=1, max_staleness=3)
        await stream.publish(0, "d0")
        leases = {block: stream.try_lease(f"w{block}") for block in range(3)}
        await put(stream, leases, 0, 1)
        await take_and_finish(stream, 0)
        await stream.publish(1, "d1")
        leases |= {block: stream.try_lease(f"w{block}") for block in (3, 4)}
        await take_and_finish(stream, 1)
        await stream.publish(2, "d2")
        leases[5] = stream.try_lease("w5")
        await put(stream, leases, 5)
        with pytest.raises(DeadlineExceeded):  # steps 3 and 4 for block 2 of version 0, and 3 and 4 of version 1
            await stream.take(2, 0.02)
        await put(stream, leases, 4)
        assert await take_and_finish(stream, 2) == (4,)

    run(scenario())


def test_a_death_frees_the_learner_from_the_wait_for_that_block():
    async def scenario():
        stream = make_stream(blocks_per_step=1)
        await stream.publish(0, "d0")
        old = lease_all(stream)
        await put(stream, old, 0)
        await take_and_finish(stream, 0)
        await stream.publish(1, "d1")
        await put(stream, lease_all(stream, "x"), 2)
        taking = asyncio.create_task(stream.take(1, 5.0))
        await asyncio.sleep(0.01)
        assert not taking.done()
        assert await stream.lost("w1", "killed") == [1]
        assert (await taking).blocks == (2,)
        again = stream.try_lease("y")
        assert (again.block, again.version, again.attempt) == (1, 1, 2), "made again from the newest weights, first"

    run(scenario())


def test_synchronous_steps_are_the_first_blocks_whatever_is_ready():
    async def scenario():
        stream = make_stream(max_staleness=0, publish_every=2)
        await stream.publish(0, "d0")
        leases = lease_all(stream)
        await put(stream, leases, 1, 2, 3)
        with pytest.raises(DeadlineExceeded, match="block 0, with w0"):
            await stream.take(0, 0.02)
        await stream.lost("w0", "killed")
        with pytest.raises(DeadlineExceeded, match="block 0, which no worker has asked for"):
            await stream.take(0, 0.02)
        await put(stream, {0: stream.try_lease("x")}, 0, summary=BlockSummary(groups=0))
        assert await take_and_finish(stream, 0) == (1, 2), "the failed block's place is taken by the next"
        await put(stream, lease_all(stream, "x"), 4)
        assert await take_and_finish(stream, 1) == (3, 4)

    run(scenario())


@pytest.mark.parametrize(("staleness", "parts"), [(0, [4, 2, 1, 1]), (1, [4, 4, 4, 4])])
def test_a_worker_takes_on_its_share_of_a_step_and_of_what_is_left_where_all_wait_for_it(staleness, parts):
    async def scenario():
        stream = make_stream(blocks_per_step=8, max_staleness=staleness)
        await stream.publish(0, "d0")
        await stream.put(stream.try_lease("b"), "block 0", BlockSummary(groups=0))
        taken = []
        for part in parts:
            leases = stream.try_leases("a", 100)
            assert len(leases) == part
            taken += [lease.block for lease in leases]
            for lease in leases:
                await stream.put(lease, "x", GOOD)
        assert taken == list(range(1, 1 + sum(parts)))
        assert stream.try_leases("a", 100) == []

    run(scenario())


def test_several_blocks_start_only_where_all_can_still_be_trained_in_time():
    async def scenario():
        stream = make_stream(blocks_per_step=4)
        await stream.publish(0, "d0")
        for most, count in ((100, 4), (3, 3), (100, 1), (100, 0)):
            leases = stream.try_leases("a", most)
            assert len(leases) == count
            await put(stream, {lease.block: lease for lease in leases}, *(lease.block for lease in leases))

    run(scenario())


def test_dropping_by_age_is_counted_and_the_learner_waits_for_no_old_block():
    async def scenario():
        stream = make_stream(blocks_per_step=1, max_staleness=2, drop_older_than=1)
        await stream.publish(0, "d0")
        old = lease_all(stream)
        await put(stream, old, 0)
        await take_and_finish(stream, 0)
        for step in (1, 2):
            await stream.publish(step, "d")
            leases = lease_all(stream, f"step{step}-")
            await put(stream, leases, *leases)
            if step == 2:
                await put(stream, old, 1, summary=BlockSummary(groups=3, prompt_length=20.0, reward=0.33))
                await put(stream, old, 2, summary=BlockSummary(groups=4, prompt_length=31.0, reward=0.07))
            await take_and_finish(stream, step)
        stats = stream.stats()
        assert (stats.dropped, stats.failed, stats.trained) == (2, 2, 3)
        assert stats.dropped_by_length == {"16-31": 2}
        assert stats.dropped_by_reward == {"0.3": 1, "0.07": 1}
        assert stats.failed_groups == {}

    run(scenario())
