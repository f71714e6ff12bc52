"""The stream: whole blocks in draw order, admission by version, and waits that end and say for what they were."""

import asyncio
import dataclasses
import json
import weakref

import pytest

from tpo_dist.blocks import BlockSummary, Failure, Settled
from tpo_dist.history import History
from tpo_dist.stream import GroupStream
from tpo_dist.waiting import DeadlineExceeded

GOOD = BlockSummary(groups=4)


def make_stream(**changes):
    return GroupStream(**{"blocks_per_step": 3, "block_size": 4, "steps": 2, **changes})


def lease_all(stream):
    """Every lease that may start now, each to a worker of its own."""
    leases = []
    while (lease := stream.try_lease(f"w{stream.stats().in_flight}-{len(leases)}")) is not None:
        leases.append(lease)
    return leases


def run(coroutine):
    return asyncio.run(coroutine)


def test_nothing_is_leased_before_its_version_is_published():
    async def scenario():
        stream = make_stream()
        assert stream.try_lease("a") is None
        await stream.publish(0, "d0")
        leases = [stream.try_lease(name) for name in "abcd"]
        assert [lease and lease.block for lease in leases] == [0, 1, 2, None]
        await stream.publish(1, "d1")
        lease = stream.try_lease("d")
        assert (lease.block, lease.version, lease.digest, lease.worker, lease.attempt) == (3, 1, "d1", "d", 1)
        assert lease.draw_ids.tolist() == [12, 13, 14, 15]

    run(scenario())


def test_every_draw_is_leased_once_whatever_the_number_of_workers():
    async def worker(name, stream, seen):
        while leases := await stream.leases(name, int(name[1:]), 5.0):
            for lease in leases:
                seen.extend(lease.draw_ids.tolist())
                await asyncio.sleep(0)
                await stream.put(lease, lease.block, GOOD)

    async def scenario():
        stream = make_stream(steps=7)
        seen = []
        workers = [asyncio.create_task(worker(f"w{i}", stream, seen)) for i in range(1, 6)]
        for step in range(7):
            await stream.publish(step, f"digest {step}")
            assert (await stream.take(step, 5.0)).payloads == [3 * step, 3 * step + 1, 3 * step + 2]
            await stream.finish(step)
        await asyncio.gather(*workers)
        assert sorted(seen) == list(range(7 * 3 * 4))

    run(scenario())


def test_blocks_arrive_in_draw_order_however_they_were_handed_in():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        leases = lease_all(stream)
        for lease in (leases[2], leases[0], leases[1]):
            await stream.put(lease, f"block {lease.block}", GOOD)
        assert (await stream.take(0, 1.0)).payloads == ["block 0", "block 1", "block 2"]

    run(scenario())


def test_a_step_is_taken_whole_or_not_at_all():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        leases = lease_all(stream)
        await stream.put(leases[0], "x", GOOD)
        taking = asyncio.create_task(stream.take(0, 5.0))
        await stream.put(leases[1], "y", GOOD)
        await asyncio.sleep(0.01)
        assert not taking.done()
        await stream.put(leases[2], "z", GOOD)
        assert (await taking).payloads == ["x", "y", "z"]

    run(scenario())


def test_what_was_taken_is_no_longer_held():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        held = []
        for _ in range(3):
            payload = Payload()
            held.append(weakref.ref(payload))
            await stream.put(stream.try_lease("a"), payload, GOOD)
            del payload
        assert len((await stream.take(0, 1.0)).blocks) == 3
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
        await stream.publish(0, "d0")
        first, _second = stream.try_lease("rollout-0"), stream.try_lease("rollout-1")
        await stream.put(first, "x", GOOD)
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
        stream = make_stream(history=History(1, Settled(3)))
        await stream.publish(0, "d0")
        with pytest.raises(DeadlineExceeded, match=r"waited 0.05 s for version 1, which the learner owes; block 3"):
            await stream.leases("a", 1, 0.05)

    run(scenario())


def test_the_end_of_the_run_ends_the_workers():
    async def scenario():
        stream = make_stream(steps=1)
        await stream.publish(0, "d0")
        for name in "abc":
            await stream.put(*await stream.leases(name, 1, 1.0), None, GOOD)
        waits = [asyncio.create_task(stream.leases(name, 1, 1.0)) for name in "ab"]
        await stream.take(0, 1.0)
        await asyncio.sleep(0.01)
        assert not any(wait.done() for wait in waits)  # what was taken may yet have to be made again
        await stream.finish(0)
        assert await asyncio.gather(*waits) == [[], []]

    run(scenario())


def test_closing_ends_every_wait():
    async def scenario():
        stream = make_stream()
        waits = [asyncio.create_task(stream.leases("a", 1, 60.0)), asyncio.create_task(stream.take(0, 60.0))]
        await asyncio.sleep(0.01)
        await stream.close()
        assert await asyncio.gather(*waits) == [[], None]
        assert stream.closed
        await stream.publish(0, "d0")
        assert stream.try_lease("a") is None

    run(scenario())


def test_only_the_holder_of_a_lease_hands_in_its_block_and_once():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        lease, other = stream.try_lease("a"), stream.try_lease("b")
        assert await stream.put(lease, "x", GOOD)
        assert not await stream.put(lease, "again", GOOD)
        for change in ({"worker": "c"}, {"attempt": 2}, {"version": 1}, {"digest": "d1"}):
            assert not await stream.put(dataclasses.replace(other, **change), "y", GOOD)
        assert (stream.stats().ready, stream.stats().in_flight) == (1, 1)

    run(scenario())


def test_versions_only_rise():
    async def scenario():
        stream = make_stream()
        await stream.publish(3, "d3")
        await stream.publish(3, "d3")  # said twice: the answer was lost
        for version, digest in ((3, "other"), (2, "d2")):
            with pytest.raises(ValueError, match=f"version {version} was published after version 3"):
                await stream.publish(version, digest)

    run(scenario())


def test_a_resumed_stream_begins_at_its_step():
    async def scenario():
        stream = make_stream(history=History(1, Settled(3)))
        await stream.publish(1, "d1")
        assert [lease.block for lease in lease_all(stream)] == [3, 4, 5]

    run(scenario())


async def make_ready(stream, *blocks, worker="made"):
    """Lease the next blocks, these, and hand them in."""
    for block in blocks:
        lease = stream.try_lease(f"{worker}-{block}")
        assert lease.block == block
        await stream.put(lease, f"payload {block}", GOOD)


def test_a_worker_that_asks_again_gets_the_lease_that_it_holds():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        lease = stream.try_lease("a")
        assert [stream.try_lease("a")] == [lease] == await stream.leases("a", 5, 0.02)
        assert stream.stats().in_flight == 1

    run(scenario())


def blocks_of(leases):
    return [lease.block for lease in leases]


def test_a_worker_may_hold_several_blocks_and_hands_them_in_one_by_one():
    async def scenario():
        now = [0.0]
        stream = make_stream(max_staleness=1, clock=lambda: now[0])
        await stream.publish(0, "d0")
        leases = stream.try_leases("a", 2)
        assert blocks_of(leases) == [0, 1]
        assert blocks_of(stream.try_leases("b", 5)) == [2, 3], "two workers share a step of three"
        now[0] = 10.0
        assert sorted(stream.stats().leases) == [("a", 0, 10.0), ("b", 2, 10.0)]
        assert await stream.put(leases[0], "block 0", GOOD)
        assert not await stream.put(leases[0], "block 0", GOOD)
        now[0] = 11.0
        assert ("a", 1, 1.0) in stream.stats().leases, "the time of a block begins when the one before is handed in"
        assert stream.try_leases("a", 2) == leases[1:], "it gets no more while it holds any"
        with pytest.raises(DeadlineExceeded, match=r"block 1, with a for 1.0 s; block 2, with b for 11.0 s"):
            await stream.take(0, 0.02)
        await stream.hand_back(leases[1], "no weights")
        assert blocks_of(stream.try_leases("a", 2)) == [1, 4]

    run(scenario())


def test_all_blocks_of_a_lost_worker_are_made_again_and_each_alone():
    async def scenario():
        stream = make_stream(attempts=2)
        await stream.publish(0, "d0")
        leases = stream.try_leases("a", 3)
        await stream.put(leases[0], "x", GOOD, portable=True)
        assert await stream.lost("a", "killed") == [1, 2]
        for again in (1, 2):
            assert blocks_of(stream.try_leases(f"b{again}", 3)) == [again]
        assert await stream.lost("b1", "killed") == [], "it fails, and no other with it"
        assert blocks_of(stream.try_leases("c", 3)) == [3]
        stats = stream.stats()
        assert (stats.failed, stats.ready, stats.in_flight) == (1, 1, 2)

    run(scenario())


def test_only_blocks_with_which_no_worker_was_lost_are_given_out_together():
    async def scenario():
        stream = make_stream(max_staleness=1)
        await stream.publish(0, "d0")
        leases = stream.try_leases("a", 3)
        await stream.hand_back(leases[0], "no weights")
        await stream.lost("a", "killed")
        given = []
        while leases := stream.try_leases("b", 3):
            given.append(blocks_of(leases))
            for lease in leases:
                await stream.put(lease, "x", GOOD)
        assert given == [[0], [1], [2], [3, 4, 5]]

    run(scenario())


@pytest.mark.parametrize("how", ["lost", "retired"])
def test_the_share_of_a_worker_that_left_is_free(how):
    async def scenario():
        stream = make_stream(max_staleness=1)
        await stream.publish(0, "d0")
        for name, count in (("a", 3), ("b", 2)):
            leases = stream.try_leases(name, 3)
            assert len(leases) == count
            for lease in leases:
                await stream.put(lease, "x", BlockSummary(groups=0))
        if how == "lost":
            await stream.lost("b", "killed")
        else:
            stream.retire("b")
        assert len(stream.try_leases("a", 3)) == 3

    run(scenario())


class Noted(list):
    """A journal that keeps events in memory."""

    write = list.extend


def test_the_journal_has_how_often_a_block_was_given_out():
    async def scenario():
        journal = Noted()
        stream = make_stream(journal=journal)
        await stream.publish(0, "d0")
        stream.try_leases("a", 2)
        await stream.lost("a", "killed")
        stream.try_leases("b", 1)
        leased = [(event.block, json.loads(event.detail)) for event in journal if event.kind == "leased"]
        assert leased == [(0, {"attempt": 1}), (1, {"attempt": 1}), (0, {"attempt": 2})]

    run(scenario())


def test_where_no_worker_may_be_lost_with_a_block_each_is_given_out_alone():
    async def scenario():
        stream = make_stream(attempts=1)
        await stream.publish(0, "d0")
        assert blocks_of(stream.try_leases("a", 3)) == [0]

    run(scenario())


def test_a_restarted_stream_knows_all_blocks_of_a_worker():
    async def scenario():
        history = History()
        stream = make_stream(history=history)
        await stream.publish(0, "d0")
        leases = stream.try_leases("a", 3)
        assert make_stream(history=history).try_leases("a", 1) == leases

    run(scenario())


def test_a_block_without_a_good_group_fails_and_the_next_draws_take_its_place():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        failures = tuple(Failure(draw=draw, cause="scorer: ValueError", detail="…") for draw in range(4))
        assert await stream.put(stream.try_lease("a"), None, BlockSummary(groups=0, failures=failures))
        await make_ready(stream, 1, 2, 3)
        taken = await stream.take(0, 0.02)
        assert taken.blocks == (1, 2, 3)
        assert taken.settled == Settled(4)
        stats = stream.stats()
        assert (stats.failed, stats.failed_groups) == (1, {"scorer: ValueError": 4})

    run(scenario())


def test_what_a_lost_worker_had_is_made_again():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        await stream.put(stream.try_lease("a"), "x", GOOD)
        lease = stream.try_lease("a")
        await make_ready(stream, 2)
        assert await stream.lost("a", "killed") == [0, 1]
        assert not await stream.put(lease, "late", GOOD)
        assert "a" not in stream.owed_by_worker()
        first, second = stream.try_lease("b"), stream.try_lease("c")
        assert (first.block, first.attempt, second.block, second.attempt) == (0, 2, 1, 2)
        assert stream.stats().reissued == 2

    run(scenario())


def test_a_block_that_too_many_workers_died_with_fails_and_one_that_was_ready_does_not():
    async def scenario():
        stream = make_stream(attempts=2)
        await stream.publish(0, "d0")
        for turn in range(4):  # its makers are lost once it is ready: no fault of the block
            await stream.put(stream.try_lease(f"a{turn}"), "x", GOOD)
            assert await stream.lost(f"a{turn}", "killed") == [0]
        assert stream.try_lease("b").attempt == 5
        assert await stream.lost("b", "killed") == [0]
        assert stream.try_lease("c").block == 0
        assert await stream.lost("c", "out of memory") == []
        stats = stream.stats()
        assert (stats.failed, stats.failed_groups) == (1, {"worker lost": 4})
        assert stream.try_lease("d").block == 1

    run(scenario())


def test_a_retired_worker_gets_no_lease_keeps_its_own_and_costs_it_no_attempt():
    async def scenario():
        stream = make_stream(attempts=1)
        await stream.publish(0, "d0")
        lease = stream.try_lease("a")
        stream.try_lease("idle")
        stream.retire("a")
        assert stream.try_lease("a") == lease
        assert await stream.put(lease, "x", GOOD)
        assert await stream.leases("a", 1, 5.0) == []
        assert stream.owed_by_worker()["a"] == [0]
        stream.retire("idle")
        assert await stream.lost("idle", "left") == [1]
        assert stream.stats().failed == 0
        assert stream.try_lease("idle").block == 1, "a new worker may have the name"

    run(scenario())


def test_retiring_ends_the_wait_for_a_lease():
    async def scenario():
        stream = make_stream()
        waiting = asyncio.create_task(stream.leases("a", 1, 5.0))
        await asyncio.sleep(0.01)
        stream.retire("a")
        assert await waiting == []

    run(scenario())


def test_what_the_learner_owes_to_a_worker_lasts_until_the_step_is_trained():
    async def scenario():
        stream = make_stream(blocks_per_step=1)
        await stream.publish(0, "d0")
        await stream.put(stream.try_lease("a"), "x", GOOD)
        await stream.take(0, 0.02)
        assert stream.owed_by_worker()["a"] == [0]
        await stream.finish(0)
        assert "a" not in stream.owed_by_worker()

    run(scenario())


def test_refused_blocks_are_made_again_and_the_step_is_served_anew():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        await make_ready(stream, 0, 1, 2)
        await stream.take(0, 0.02)
        await stream.refuse([1, 77], "unknown digest")
        with pytest.raises(ValueError, match="step 0 is finished, but its blocks were not all taken"):
            await stream.finish(0)
        taking = asyncio.create_task(stream.take(0, 5.0))
        await asyncio.sleep(0.01)
        await make_ready(stream, 0, 1, 2, worker="again")
        assert (await taking).workers == ("again-0", "again-1", "again-2")
        await stream.finish(0)
        await stream.finish(0)  # said twice: the answer was lost
        assert stream.stats().trained == 3

    run(scenario())


def test_only_the_next_step_can_be_taken_and_only_a_taken_one_finished():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        with pytest.raises(ValueError, match="step 1 is taken, and 0 steps are finished"):
            await stream.take(1, 0.02)
        with pytest.raises(ValueError, match="step 0 is finished"):
            await stream.finish(0)

    run(scenario())


def test_a_newer_take_and_a_rollback_end_an_older_one_without_its_taking_anything():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        first = asyncio.create_task(stream.take(0, 5.0))
        await asyncio.sleep(0)
        second = asyncio.create_task(stream.take(0, 5.0))
        await asyncio.sleep(0)
        await stream.rollback(0, Settled())
        third = asyncio.create_task(stream.take(0, 5.0))
        await asyncio.sleep(0)
        await stream.publish(0, "d0")
        await make_ready(stream, 0, 1, 2)
        assert (await asyncio.gather(first, second, third))[:2] == [None, None]
        assert third.result().blocks == (0, 1, 2)

    run(scenario())


def test_going_back_keeps_what_came_from_older_weights_and_revokes_the_rest():
    async def scenario():
        stream = make_stream(blocks_per_step=1, steps=9, max_staleness=2)
        await stream.publish(0, "d0")
        await make_ready(stream, 0, 1)
        old = stream.try_lease("old")
        settled = (await stream.take(0, 0.02)).settled
        await stream.finish(0)
        await stream.publish(1, "d1")
        await make_ready(stream, 3)
        await stream.take(1, 0.02)
        await stream.finish(1)
        await stream.publish(2, "d2")
        new = stream.try_lease("new")
        assert (old.version, new.version) == (0, 2)
        await stream.rollback(1, settled)
        assert stream.try_lease("x") is None, "nothing is leased before the learner has published"
        stats = stream.stats()
        assert (stats.finished, stats.trained, stats.in_flight, stats.ready, stats.queued) == (1, 1, 1, 1, 2)
        assert await stream.put(old, "x", GOOD)
        assert not await stream.put(new, "y", GOOD)
        await stream.publish(1, "other")
        lease = stream.try_lease("new")
        assert (lease.block, lease.version, lease.digest) == (1, 1, "other")

    run(scenario())


class KeptEvents:
    """A journal in memory."""

    def __init__(self):
        self.events = []

    def write(self, events):
        self.events.extend(events)


def test_no_worker_is_to_blame_for_weights_that_went_with_the_learner():
    async def scenario():
        kept = KeptEvents()
        stream = make_stream(blocks_per_step=1, steps=9, max_staleness=2, journal=kept)
        await stream.publish(0, "d0")
        stream.try_lease("a")  # its weights may be newer by the time at which it begins
        for version in (1, 2, 3):
            await stream.publish(version, f"d{version}")
        await stream.rollback(1, Settled())
        await stream.publish(1, "d1")
        await stream.publish(2, "new")
        restarted = make_stream(history=History())
        for event in kept.events:
            restarted._state.apply(event)
        for life in (stream, restarted):
            for stamp in ((2, "d2"), (3, "d3")):
                assert not await life.refuse([], "unknown", [stamp])
            for stamp in ((0, "d0"), (1, "d1"), (2, "new"), (3, "new"), (4, "d4")):
                assert await life.refuse([], "unknown", [stamp])
            assert await life.refuse([], "lost")

    run(scenario())


def test_published_weights_are_remembered_only_while_somebody_may_have_them():
    async def scenario():
        stream = make_stream(blocks_per_step=1, steps=99, max_staleness=1)
        for step in range(50):
            await stream.publish(step, f"d{step}")
            await make_ready(stream, step)
            await stream.take(step, 0.02)
            await stream.finish(step)
        assert len(stream._state._published) <= 3
        await stream.rollback(0, Settled())
        assert len(stream._state.gone) <= 3

    run(scenario())


def test_a_checkpoint_ahead_of_what_was_heard_counts_its_step_as_trained():
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        await make_ready(stream, 0, 1, 2)
        taken = await stream.take(0, 0.02)
        await stream.rollback(1, taken.settled)  # the learner died before it said that the step is finished
        await stream.publish(1, "d1")
        assert (stream.stats().trained, stream.try_lease("a").block) == (3, 3)

    run(scenario())


def test_a_wait_that_nears_its_end_is_logged_and_its_reason_is_in_the_stats(caplog):
    async def scenario():
        stream = make_stream()
        await stream.publish(0, "d0")
        stream.try_lease("rollout-7")
        waiting = asyncio.create_task(stream.take(0, 0.05))
        await asyncio.sleep(0)
        assert stream.stats().waiting.startswith("the groups of step 0: block 0, with rollout-7 for 0.0 s; block 1")
        with pytest.raises(DeadlineExceeded):
            await waiting
        assert stream.stats().waiting is None

    run(scenario())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(
        "waiting for 0.04 s of 0.05 s for the groups of step 0: block 0, with rollout-7"
    )


def test_long_lists_of_missing_blocks_are_cut():
    async def scenario():
        stream = make_stream(blocks_per_step=20)
        with pytest.raises(DeadlineExceeded, match=r"block 7, which no worker has asked for; and 12 more$"):
            await stream.take(0, 0.02)

    run(scenario())


def test_a_lease_beyond_the_last_step_waits_for_the_end_of_the_run():
    async def scenario():
        stream = make_stream(steps=1)
        await stream.publish(0, "d0")
        lease_all(stream)
        reason = "the end of the run, which the learner owes: it has finished 0 of 1 steps"
        with pytest.raises(DeadlineExceeded, match=reason):
            await stream.leases("late", 1, 0.02)

    run(scenario())


def test_a_window_tells_how_fast_groups_came_and_how_idle_the_workers_were():
    async def scenario():
        now = [0.0]
        stream = make_stream(clock=lambda: now[0])
        await stream.publish(0, "d0")
        for wait, roll, groups in ((1.0, 3.0, 4), (0.5, 3.5, 2)):
            await stream.put(
                stream.try_lease("a"), "x", BlockSummary(groups=groups, wait_seconds=wait, roll_seconds=roll)
            )
        now[0] = 4.0
        window = stream.window()
        assert (window.blocks, window.groups, window.groups_per_second) == (2, 6, 1.5)
        assert window.idle_share == pytest.approx(1.5 / 8.0)
        assert stream.window().idle_share is None
        lease = stream.try_lease("a")
        now[0] = 6.0
        assert stream.stats().leases == (("a", lease.block, 2.0),)

    run(scenario())


class FullDisk:
    """A journal that takes nothing more."""

    def __init__(self):
        self.full = False

    def write(self, events):
        if self.full:
            raise OSError("no space left")


def test_what_the_journal_does_not_have_did_not_happen():
    async def scenario():
        journal = FullDisk()
        stream = make_stream(blocks_per_step=1, journal=journal)
        await stream.publish(0, "d0")
        lease = stream.try_lease("a")
        journal.full = True
        with pytest.raises(OSError, match="no space left"):
            await stream.put(lease, "x", GOOD)
        journal.full = False
        assert await stream.put(lease, "x", GOOD)
        journal.full = True
        with pytest.raises(OSError, match="no space left"):
            await stream.take(0, 5.0)
        journal.full = False
        assert (await stream.take(0, 0.02)).payloads == ["x"]

    run(scenario())


def test_settled_says_the_same_in_json():
    settled = Settled.of(3, (3, 4, 9, 7, 1))
    assert settled == Settled(5, (7, 9))
    assert Settled.from_json(json.loads(json.dumps(settled.to_json()))) == settled
    assert [block for block in range(12) if block in settled] == [0, 1, 2, 3, 4, 7, 9]
    for wrong in ({}, {"below": 1}, {"below": "1", "beyond": []}, {"below": 1, "beyond": ["2"]}):
        with pytest.raises(ValueError, match="does not say which blocks are settled"):
            Settled.from_json(wrong)
