"""The ledger: every event on disk, readable meanwhile, whole after any kill, and clear where it is damaged."""

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import threading

import pytest

from tests.cli.deadly import forked
from tests.processes import wait_for
from tpo_dist.audit import audit, story
from tpo_dist.blocks import BlockSummary, Event, Failure, Settled
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.ledger import Ledger
from tpo_dist.programs.accounts import open_stream
from tpo_dist.schedule import schedule
from tpo_dist.stream import GroupStream
from tpo_dist.waiting import DeadlineExceeded

CONFIG = {"name": "t", "rollout": {"block_size": 4}}
GOOD = BlockSummary(groups=4)


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.begin_session(CONFIG, 0)
        yield ledger


def make_stream(ledger, history=None, **changes):
    sizes = {"blocks_per_step": 2, "block_size": 4, "steps": 50, **changes}
    return GroupStream(journal=ledger, history=history, **sizes)


async def train(stream, first, last, summaries=None):
    """Steps without any trouble; what the last one settles."""
    taken = None
    for step in range(first, last):
        await stream.publish(step, f"d{step}")
        await fill(stream, summaries)
        taking = asyncio.create_task(stream.take(step, 5.0))
        await asyncio.sleep(0)
        await fill(stream, summaries)
        taken = await taking
        await stream.finish(step)
    return taken.settled


async def fill(stream, summaries=None):
    """Hand in whatever may start."""
    while (lease := stream.try_lease("a")) is not None:
        await stream.put(lease, lease.block, (summaries or {}).get(lease.block, GOOD))


def rows(ledger):
    return [row.event for row in ledger.rows()]


def test_the_life_of_a_block_is_in_it(ledger):
    failure = Failure(draw=6, cause="scorer: KeyError", detail="'x'")
    asyncio.run(train(make_stream(ledger), 0, 1, {1: BlockSummary(groups=3, failures=(failure,), reward=0.5)}))
    kinds = [(event.kind, event.block, event.step, event.version, event.worker) for event in rows(ledger)]
    assert kinds == [
        ("session", None, 0, None, None),
        ("stream_started", None, None, None, None),
        ("published", None, None, 0, None),
        ("leased", 0, None, 0, "a"),
        ("ready", 0, None, 0, "a"),
        ("leased", 1, None, 0, "a"),
        ("ready", 1, None, 0, "a"),
        ("taken", 0, 0, 0, "a"),
        ("taken", 1, 0, 0, "a"),
        ("trained", None, 0, None, None),
    ]
    assert '"reward": 0.5' in rows(ledger)[6].detail
    assert '[[6, "scorer: KeyError", "\'x\'"]]' in rows(ledger)[6].detail
    found = audit(ledger.path)
    assert found.clean
    assert found.complete
    assert found.draws == {"queued": 0, "in flight": 0, "ready": 0, "taken": 0, "trained": 7, "failed": 1}
    assert found.failures == {"scorer: KeyError": 1}
    assert (found.steps, found.attempts, len(found.sessions), found.stream_starts) == (1, {1: 2}, 1, 1)


def test_each_call_of_the_stream_is_one_transaction(ledger):
    asyncio.run(train(make_stream(ledger, blocks_per_step=5), 0, 1))
    times = [row.at for row in ledger.rows("kind = 'taken'")]
    assert len(times) == 5
    assert len(set(times)) == 1


def test_a_restarted_stream_keeps_leases_and_what_was_taken_and_has_the_rest_made_again(ledger):
    async def scenario():
        stream = make_stream(ledger, max_staleness=1)
        await stream.publish(0, "d0")
        for name in "abc":
            await stream.put(stream.try_lease(name), name, GOOD)
        lease = stream.try_lease("d")
        await stream.take(0, 1.0)
        with Ledger.open(ledger.path) as other:  # its process was killed
            stream = make_stream(other, other.history(), max_staleness=1)
            stats = stream.stats()
            assert (stats.taken, stats.in_flight, stats.queued, stats.ready) == (2, 1, 1, 0)
            assert stream.try_lease("d") == lease
            assert await stream.put(lease, "d", GOOD)
            await stream.publish(0, "d0")  # says the learner to be sure
            await stream.finish(0)
            again = stream.try_lease("a")
            assert (again.block, again.attempt, again.digest) == (2, 2, "d0")
            assert stream.stats().trained == 2
        found = audit(ledger.path)
        assert found.clean
        assert found.stream_starts == 2

    asyncio.run(scenario())


def test_attempts_outlive_the_stream_s_process(ledger):
    async def scenario():
        stream = make_stream(ledger, attempts=2)
        await stream.publish(0, "d0")
        stream.try_lease("a")
        await stream.lost("a", "killed")
        stream = make_stream(ledger, ledger.history(), attempts=2)
        stream.try_lease("b")
        assert await stream.lost("b", "killed") == []
        assert stream.stats().failed == 1

    asyncio.run(scenario())
    assert audit(ledger.path).failures == {"worker lost": 4}


def test_a_resumed_run_has_what_its_checkpoint_has_and_makes_the_rest_again(ledger):
    async def scenario():
        stream = make_stream(ledger, max_staleness=1)
        settled = await train(stream, 0, 3)
        await train(stream, 3, 5)
        stream.try_lease("late")
        ledger.resume(3, settled)
        ledger.begin_session(CONFIG, 3)
        history = ledger.history()
        assert (history.finished, history.settled, history.version) == (3, Settled(6), -1)
        assert sorted(history.queued) == [6, 7, 8, 9, 10, 11]
        found = audit(ledger.path)
        assert found.clean
        assert (found.steps, found.blocks["trained"], found.blocks["queued"]) == (3, 6, 6)
        assert [each["first_step"] for each in found.sessions] == [0, 3]
        await train(make_stream(ledger, history, max_staleness=1), 3, 6)
        plan = schedule(ledger)
        assert [[each.block for each in blocks] for blocks in plan.steps] == [[2 * n, 2 * n + 1] for n in range(6)]

    asyncio.run(scenario())
    assert audit(ledger.path).rollbacks[0]["step"] == 3


def test_what_only_the_checkpoint_knows_counts_as_trained_and_nothing_in_between_is_forgotten(ledger):
    asyncio.run(train(make_stream(ledger), 0, 2))
    ledger.resume(5, Settled(9, (11,)))
    history = ledger.history()
    assert (history.finished, history.settled, history.next_block) == (5, Settled(9, (11,)), 12)
    assert sorted(history.queued) == [9, 10]
    found = audit(ledger.path)
    assert found.clean
    assert (found.steps, found.blocks["trained"], found.blocks["queued"]) == (5, 10, 2)
    asyncio.run(train(make_stream(ledger, history), 5, 6))
    with pytest.raises(UsageError, match="does not have the blocks of step 2: only a checkpoint knows"):
        schedule(ledger)


def test_a_checkpoint_of_another_run_is_refused(ledger):
    asyncio.run(train(make_stream(ledger), 0, 3))
    before = len(rows(ledger))
    with pytest.raises(
        UsageError, match="says that step 1 trained block 3, which the checkpoint at step 2 does not have"
    ):
        ledger.resume(2, Settled(3))
    assert len(rows(ledger)) == before
    ledger.resume(1, Settled(2))  # an older checkpoint of this run is none of another


def test_a_block_that_was_taken_and_refused_is_no_contradiction(ledger):
    async def scenario():
        stream = make_stream(ledger, max_staleness=1)
        await stream.publish(0, "d0")
        for name in "abcd":
            await stream.put(stream.try_lease(name), name, GOOD)
        taken = await stream.take(0, 1.0)
        await stream.refuse(taken.blocks, "unknown digest")
        taking = asyncio.create_task(stream.take(0, 1.0))
        await asyncio.sleep(0)
        settled = (await taking).settled
        await stream.finish(0)
        assert settled == Settled(0, (2, 3))
        ledger.resume(1, settled)
        assert sorted(ledger.history().queued) == [0, 1]

    asyncio.run(scenario())


def test_another_block_size_is_refused(ledger):
    with pytest.raises(UsageError, match="rollout.block_size = 8: this run has 4"):
        ledger.begin_session({"rollout": {"block_size": 8}}, 0)


def test_the_schedule_has_versions_digests_and_failed_draws(ledger):
    async def scenario():
        stream = make_stream(ledger, max_staleness=1)
        settled = await train(
            stream, 0, 2, {0: BlockSummary(groups=3, failures=(Failure(draw=2, cause="c", detail=""),))}
        )
        await train(stream, 2, 5)
        await stream.rollback(2, settled)
        await stream.publish(2, "d2")
        await fill(stream)
        await stream.take(2, 1.0)
        await stream.finish(2)
        await stream.publish(3, "other")

    asyncio.run(scenario())
    plan = schedule(ledger)
    assert (plan.block_size, plan.first_step, len(plan.steps)) == (4, 0, 3)
    assert [(each.block, each.version, each.failed_draws) for each in plan.steps[0]] == [(0, 0, (2,)), (1, 0, ())]
    assert [(each.block, each.version) for each in plan.steps[2]] == [(4, 2), (5, 2)]
    assert plan.digests == {0: "d0", 1: "d1", 2: "d2", 3: "other"}


def test_the_story_of_a_draw_is_that_of_its_block_and_of_the_run(ledger):
    async def scenario():
        stream = make_stream(ledger)
        settled = await train(stream, 0, 1)
        await train(stream, 1, 3)
        await stream.rollback(1, settled)

    asyncio.run(scenario())
    block, told = story(ledger.path, 11)
    assert block == 2
    kinds = [row.event.kind for row in told]
    assert kinds == ["leased", "ready", "taken", "trained", "rolled_back", "queued"]
    with pytest.raises(UsageError, match="--draw 99: that draw was not given out"):
        story(ledger.path, 99)


# What an audit finds


def lives(*kinds, block=0, step=0):
    """Events of a block, one after the other."""
    about = {"leased": {"version": 0, "worker": "a"}, "taken": {"step": step}}
    return [
        Event("trained", step=step) if kind == "trained" else Event(kind, block, **about.get(kind, {}))
        for kind in kinds
    ]


ONCE = ("leased", "ready", "taken", "trained")
NOTHING = json.dumps(Settled().to_json())


@pytest.mark.parametrize(
    ("events", "gaps", "duplicates", "problems"),
    [
        (lives(*ONCE), (), (), ()),
        (lives("leased", "queued", *ONCE), (), (), ()),
        (
            lives(*ONCE) + lives("taken", "trained", step=1),
            (),
            (0, 1, 2, 3),
            ("row 7 (block 0 is taken, and it is not",),
        ),
        (lives(*ONCE) + lives("leased"), (), (), ("row 7 (block 0 is leased, and it is neither queued nor",)),
        (lives("leased", "leased"), (), (), ("row 4 (block 0 is leased, and it is neither queued nor",)),
        (lives("leased", block=1), (0, 1, 2, 3), (), ("row 3 (block 1 is leased, and it is neither queued nor",)),
        ([*lives(*ONCE), Event("rolled_back", step=0, detail=NOTHING)], (0, 1, 2, 3), (), ("the stream has 0 blocks",)),
    ],
    ids=["trained", "made again", "trained twice", "leased when trained", "leased twice", "passed over", "forgotten"],
)
def test_an_audit_finds_what_is_missing_or_double(events, gaps, duplicates, problems, ledger):
    ledger.write([Event("published", version=0, detail="d0"), *events])
    found = audit(ledger.path)
    assert (found.gaps, found.duplicates, len(found.problems)) == (gaps, duplicates, len(problems))
    assert all(part in problem for part, problem in zip(problems, found.problems, strict=True)), found.problems
    assert found.clean == (not problems)


def test_what_is_dropped_is_counted_by_prompt_length_and_difficulty_for_good(ledger):
    """By the ledger, so that it outlives the stream's process."""

    async def scenario():
        stream = make_stream(ledger, max_staleness=2, drop_older_than=0)
        await stream.publish(0, "d0")
        for number in range(4):
            told = BlockSummary(groups=4, prompt_length=10.0 * (number + 1), reward=0.25 * number)
            await stream.put(stream.try_lease("a"), number, told)
        await stream.take(0, 1.0)
        await stream.finish(0)
        await stream.publish(1, "d1")
        with pytest.raises(DeadlineExceeded):
            await stream.take(1, 0.01)

    asyncio.run(scenario())
    found = audit(ledger.path)
    assert found.clean
    assert found.failures == {"dropped": 8}
    assert found.dropped_by_length == {"16-31": 4, "32-63": 4}
    assert found.dropped_by_reward == {"0.5": 4, "0.8": 4}


def test_an_audit_says_what_is_waited_for_and_from_whom(ledger):
    async def scenario():
        stream = make_stream(ledger)
        await stream.publish(0, "d0")
        stream.try_lease("rollout-0")
        stream.try_lease("rollout-1")
        await stream.lost("rollout-0", "killed")

    asyncio.run(scenario())
    found = audit(ledger.path)
    assert found.clean
    assert not found.complete
    assert [(each.block, each.state, each.worker, each.attempts) for each in found.waiting] == [
        (0, "queued", None, 1),
        (1, "in flight", "rollout-1", 1),
    ]
    assert all(0 <= each.seconds < 60 for each in found.waiting)


# Kills, other processes, damage


def write_on(path):
    """Go on with a ledger until somebody kills this process."""
    ledger = Ledger.open(path)
    if not ledger.history().finished:
        ledger.begin_session(CONFIG, 0)
    history = ledger.history()
    asyncio.run(train(make_stream(ledger, history, steps=10**9), history.finished, 10**9))


def test_a_kill_at_any_moment_leaves_a_ledger_that_is_whole(tmp_path):
    path, steps = tmp_path / "ledger.db", 0
    for _ in range(5):
        target = steps + 20
        writer = forked(write_on, path)
        try:
            wait_until(writer, path, target)
        finally:
            writer.kill()
            writer.join()
        found = audit(path)
        assert found.clean, found
        assert found.steps >= target
        assert found.blocks["trained"] == 2 * found.steps
        steps = found.steps


def wait_until(writer, path, steps):
    """Reading while the other writes: whatever the moment, it is whole."""

    def reached():
        assert writer.is_alive(), "the writer failed"
        found = audit(path) if begun(path) else None
        assert found is None or found.clean, found
        return found is not None and found.steps >= steps

    wait_for(reached, f"{steps} steps")


def begun(path):
    try:
        with Ledger.read(path) as ledger:
            return ledger.block_size()
    except UsageError:
        return None


def test_others_read_it_while_it_is_written(ledger):
    done, seen = threading.Event(), []

    def read():
        while not done.is_set():
            found = audit(ledger.path)
            assert found.clean, found
            seen.append(found.steps)

    reader = threading.Thread(target=read)
    reader.start()
    asyncio.run(train(make_stream(ledger, steps=300), 0, 300))
    done.set()
    reader.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 2, "it was read while it grew"


def test_a_reader_changes_nothing(ledger):
    with Ledger.read(ledger.path) as other, pytest.raises(RunFailed, match="cannot be written"):
        other.write([Event("stream_started")])
    assert len(rows(ledger)) == 1


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_a_ledger_is_read_where_nothing_can_be_written(closed, tmp_path):
    """As on a disk that is mounted to be read only; a process that was killed left rows in SQLite's log."""
    path, disk = tmp_path / "ledger.db", tmp_path / "disk"
    with Ledger.open(path) as ledger:
        ledger.begin_session(CONFIG, 0)
        asyncio.run(train(make_stream(ledger), 0, 2))
        if not closed:
            shutil.copytree(tmp_path, disk)
    if closed:
        shutil.copytree(tmp_path, disk)
    assert (disk / "ledger.db-wal").exists() != closed
    for options in (["--bind", disk, disk], ["-o", "remount,ro,bind", disk]):
        if os.geteuid() or subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("mounting a file system takes root and the permission to mount")
    try:
        found = audit(disk / "ledger.db")
        assert (found.complete, found.steps) == (True, 2)
    finally:
        subprocess.run(["umount", disk], check=True)


def make_damaged(tmp_path, how):
    path = tmp_path / "ledger.db"
    with Ledger.open(path) as ledger:
        ledger.begin_session(CONFIG, 0)
        asyncio.run(train(make_stream(ledger, steps=200), 0, 200))
    whole = path.read_bytes()
    assert len(whole) > 40_000, "all of it is in the file once it is closed"
    if how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "overwritten":
        path.write_bytes(whole[:20_000] + bytes(range(256)) * 16 + whole[24_096:])
    elif how == "text":
        path.write_text("seq,at,kind\n")
    elif how == "another database":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE t (x)")
        connection.close()
    else:
        with sqlite3.connect(path) as connection:
            connection.execute(
                {"a row is missing": "DELETE FROM events WHERE seq = 100", "newer": "PRAGMA user_version = 9"}[how]
            )
        connection.close()
    return path


@pytest.mark.parametrize("how", ["cut", "overwritten", "text", "another database", "newer"])
def test_a_damaged_file_is_a_usage_error(how, tmp_path):
    path = make_damaged(tmp_path, how)

    def write():
        with Ledger.open(path) as ledger:
            ledger.history()

    for look in (audit, lambda at: story(at, 500), lambda _: write()):
        with pytest.raises(UsageError, match=rf"{path}: is .* Fix: "):
            look(path)


def test_a_missing_row_is_found(tmp_path):
    path = make_damaged(tmp_path, "a row is missing")
    assert audit(path).problems == ("the ledger lacks row 100",)
    with Ledger.open(path) as ledger, pytest.raises(UsageError, match="lacks row 100"):
        ledger.history()


@pytest.mark.parametrize("kind", ["session", "ready"])
def test_a_row_whose_text_is_damaged_is_a_usage_error(kind, ledger):
    """A file that is cut in its last page is whole to SQLite, and its texts are not."""
    asyncio.run(train(make_stream(ledger), 0, 2))
    with sqlite3.connect(ledger.path) as connection:
        connection.execute(f"UPDATE events SET detail = substr(detail, 1, 9) WHERE kind = '{kind}'")
    connection.close()
    looks = {"session": lambda: ledger.begin_session(CONFIG, 2), "ready": lambda: schedule(ledger)}
    for look in (lambda: audit(ledger.path), looks[kind]):
        with pytest.raises(UsageError, match=rf"{ledger.path}: is damaged.* Fix: "):
            look()


def test_a_ledger_that_is_removed_ends_the_run_and_is_not_begun_anew(ledger, small_config):
    """What is written into a file without a name goes with its process."""
    stream = make_stream(ledger)
    ledger.path.unlink()
    with pytest.raises(RunFailed, match="ledger.db was removed.*; go on with --resume"):
        asyncio.run(stream.publish(0, "d0"))
    with pytest.raises(UsageError, match="ledger.db: is gone, and with it the account of every prompt. Fix: go on"):
        open_stream(small_config(), ledger.path.parent)
    assert not ledger.path.exists()


def test_there_is_nothing_to_read_where_no_run_has_begun(tmp_path):
    with pytest.raises(UsageError, match="there is no ledger"):
        audit(tmp_path / "ledger.db")
    Ledger.open(tmp_path / "ledger.db").close()
    with pytest.raises(UsageError, match="says nothing of a run yet"):
        audit(tmp_path / "ledger.db")


def test_rows_are_only_ever_inserted(ledger):
    asyncio.run(train(make_stream(ledger), 0, 2))
    before = list(ledger.rows())
    ledger.resume(1, Settled(2))
    assert list(ledger.rows())[: len(before)] == before


def test_a_process_that_outlives_its_driver_cannot_write_into_what_the_next_one_goes_by(tmp_path):
    old = Ledger.open(tmp_path / "ledger.db")
    old.write([Event("stream_started")])
    with Ledger.open(tmp_path / "ledger.db") as new:
        new.write([Event("stream_started"), Event("published", version=0, detail="d0")])
        with pytest.raises(RunFailed, match="another process has written to it meanwhile"):
            old.write([Event("stream_started")])
        new.write([Event("leased", 0, version=0, worker="a")])
        assert list(new.history().in_flight) == [0]
    old.close()
