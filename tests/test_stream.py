"""The stream: whole blocks in draw order, admission by version, and waits that end and say for what they were."""

import asyncio
import weakref

import pytest

from tpo_dist.stream import DeadlineExceeded, GroupStream


def make_stream(**changes):
    return GroupStream(**{"blocks_per_step": 3, "block_size": 4, "steps": 2, **changes})


def run(coroutine):
    return asyncio.run(coroutine)


def test_nothing_is_leased_before_its_version_is_published():
    async def scenario():
        stream = make_stream()
        assert stream.try_lease("a") is None
        await stream.publish(0)
        leases = [stream.try_lease("a") for _ in range(4)]
        assert [lease and lease.block for lease in leases] == [0, 1, 2, None]
        await stream.publish(1)
        lease = stream.try_lease("b")
        assert (lease.block, lease.step, lease.version, lease.worker) == (3, 1, 1, "b")
        assert lease.draw_ids.tolist() == [12, 13, 14, 15]

    run(scenario())


def test_every_draw_is_leased_once_whatever_the_number_of_workers():
    async def worker(name, stream, seen):
        while (lease := await stream.lease(name, 5.0)) is not None:
            seen.extend(lease.draw_ids.tolist())
            await asyncio.sleep(0)
            await stream.put(lease, lease.block)

    async def scenario():
        stream = make_stream(steps=7)
        seen = []
        workers = [asyncio.create_task(worker(f"w{i}", stream, seen)) for i in range(5)]
        for step in range(7):
            await stream.publish(step)
            assert await stream.take(step, 5.0) == [3 * step, 3 * step + 1, 3 * step + 2]
        await asyncio.gather(*workers)
        assert sorted(seen) == list(range(7 * 3 * 4))

    run(scenario())


def test_blocks_arrive_in_draw_order_however_they_were_handed_in():
    async def scenario():
        stream = make_stream()
        await stream.publish(0)
        leases = [stream.try_lease("a") for _ in range(3)]
        for lease in (leases[2], leases[0], leases[1]):
            await stream.put(lease, f"block {lease.block}")
        assert await stream.take(0, 1.0) == ["block 0", "block 1", "block 2"]

    run(scenario())


def test_a_step_is_taken_whole_or_not_at_all():
    async def scenario():
        stream = make_stream()
        await stream.publish(0)
        leases = [stream.try_lease("a") for _ in range(3)]
        await stream.put(leases[0], "x")
        taking = asyncio.create_task(stream.take(0, 5.0))
        await stream.put(leases[1], "y")
        await asyncio.sleep(0.01)
        assert not taking.done()
        await stream.put(leases[2], "z")
        assert await taking == ["x", "y", "z"]

    run(scenario())


def test_what_was_taken_is_no_longer_held():
    async def scenario():
        stream = make_stream()
        await stream.publish(0)
        held = []
        for _ in range(3):
            payload = Payload()
            held.append(weakref.ref(payload))
            await stream.put(stream.try_lease("a"), payload)
            del payload
        assert len(await stream.take(0, 1.0)) == 3
        assert [reference() for reference in held] == [None, None, None]
        with pytest.raises(DeadlineExceeded):
            await stream.take(0, 0.01)

    run(scenario())


class Payload:
    """Something that can be seen to be gone."""


def test_a_wait_for_groups_names_what_is_missing_and_who_owes_it():
    async def scenario():
        now = [100.0]
        stream = make_stream(clock=lambda: now[0])
        await stream.publish(0)
        first, _second = stream.try_lease("rollout-0"), stream.try_lease("rollout-1")
        await stream.put(first, "x")
        now[0] = 112.5
        with pytest.raises(DeadlineExceeded) as caught:
            await stream.take(0, 0.05)
        assert str(caught.value) == (
            "waited 0.05 s for the groups of step 0: block 1, with rollout-1 for 12.5 s; "
            "block 2, which no worker has asked for"
        )

    run(scenario())


def test_a_wait_for_a_lease_names_the_version_that_is_missing():
    async def scenario():
        stream = make_stream(first_step=1)
        await stream.publish(0)
        with pytest.raises(DeadlineExceeded, match=r"waited 0.05 s for version 1, which the learner owes; block 3"):
            await stream.lease("a", 0.05)

    run(scenario())


def test_the_end_of_the_run_ends_the_workers():
    async def scenario():
        stream = make_stream(steps=1)
        await stream.publish(0)
        for _ in range(3):
            assert await stream.lease("a", 1.0) is not None
        assert await stream.lease("a", 1.0) is None

    run(scenario())


def test_closing_ends_every_wait():
    async def scenario():
        stream = make_stream()
        waits = [asyncio.create_task(stream.lease("a", 60.0)), asyncio.create_task(stream.take(0, 60.0))]
        await asyncio.sleep(0.01)
        await stream.close()
        assert await asyncio.gather(*waits) == [None, None]
        assert stream.closed
        await stream.publish(0)
        assert stream.try_lease("a") is None

    run(scenario())


def test_only_the_holder_of_a_lease_hands_in_its_block_and_once():
    async def scenario():
        stream = make_stream()
        await stream.publish(0)
        lease, other = stream.try_lease("a"), stream.try_lease("b")
        await stream.put(lease, "x")
        with pytest.raises(ValueError, match="block 0 is not leased to a"):
            await stream.put(lease, "again")
        forged = type(other)(block=1, step=0, version=0, first_draw=4, draws=4, worker="c")
        with pytest.raises(ValueError, match="block 1 is not leased to c"):
            await stream.put(forged, "y")

    run(scenario())


def test_versions_only_rise():
    async def scenario():
        stream = make_stream()
        await stream.publish(3)
        with pytest.raises(ValueError, match="version 3 was published after version 3"):
            await stream.publish(3)

    run(scenario())


def test_a_resumed_stream_begins_at_its_step():
    async def scenario():
        stream = make_stream(first_step=1)
        await stream.publish(1)
        assert [stream.try_lease("a").block for _ in range(3)] == [3, 4, 5]
        assert stream.try_lease("a") is None

    run(scenario())
