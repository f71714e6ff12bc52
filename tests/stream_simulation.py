"""A whole run of the stream with everything going wrong at random, and what has to hold after every action."""

import asyncio
import random
import sqlite3
from dataclasses import dataclass, field

from tpo_dist.audit import audit
from tpo_dist.blocks import BlockSummary, Failure, Settled
from tpo_dist.ledger import Ledger
from tpo_dist.stream import GroupStream

BLOCK_SIZE = 2


@dataclass
class Sizes:
    """One run's numbers."""

    steps: int
    blocks_per_step: int
    max_staleness: int
    publish_every: int
    drop_older_than: int | None = None
    attempts: int = 3
    workers: int = 3

    @classmethod
    def at_random(cls, dice):
        staleness = dice.choice([0, 1, 1, 2, 3])
        drop = dice.choice([None, None, staleness - 1]) if staleness else None
        return cls(
            steps=dice.randint(3, 9),
            blocks_per_step=dice.randint(1, 4),
            max_staleness=staleness,
            publish_every=dice.choice([1, 1, 2, 3]),
            drop_older_than=drop,
            attempts=dice.randint(1, 3),
            workers=dice.randint(1, 7),
        )


@dataclass
class Simulation:
    """The run's processes, played by one: workers, a learner with checkpoints, a stream with a ledger."""

    path: object
    sizes: Sizes
    dice: random.Random
    fails: object = lambda block: False
    """Which blocks have no good group."""
    faults: tuple = ()
    held: dict = field(default_factory=dict)
    """Worker -> the leases that it has, the one that it is at work on first."""
    old_leases: list = field(default_factory=list)
    checkpoints: list = field(default_factory=lambda: [(0, Settled())])
    trained: dict = field(default_factory=dict)
    """Block -> step, as the learner has it."""
    versions: dict = field(default_factory=dict)
    step: int = 0
    born: int = 0
    published: int = -1
    generation: int = 0
    """Of the weights: a learner that goes back trains other ones."""

    async def run(self, actions):
        """So many random actions, then to the end without faults."""
        self.ledger = Ledger.open(self.path)
        self.ledger.begin_session({"rollout": {"block_size": BLOCK_SIZE}}, 0)
        self.stream, self.taking = self.make_stream(None), None
        self.workers = [self.name() for _ in range(self.sizes.workers)]
        await self.publish()
        ordinary = [self.ask] * 4 + [self.hand_in] * 4 + [self.learn] * 3
        for _ in range(actions):
            await self.dice.choice([*ordinary, *(getattr(self, fault) for fault in self.faults)])()
            self.check()
        for _ in range(10_000):
            if self.step == self.sizes.steps:
                break
            await self.dice.choice(ordinary)()
            self.check()
        assert self.step == self.sizes.steps, self.stuck()
        self.check_the_end()

    def make_stream(self, history):
        sizes = self.sizes
        return GroupStream(
            blocks_per_step=sizes.blocks_per_step,
            block_size=BLOCK_SIZE,
            steps=sizes.steps,
            max_staleness=sizes.max_staleness,
            publish_every=sizes.publish_every,
            drop_older_than=sizes.drop_older_than,
            attempts=sizes.attempts,
            journal=self.ledger,
            history=history,
        )

    def name(self):
        self.born += 1
        return f"w{self.born}"

    async def ask(self):
        worker = self.dice.choice(self.workers)
        most = self.dice.choice([1, 1, 2, 3, 5])
        in_flight = dict(self.stream._state.in_flight)
        leases = self.stream.try_leases(worker, most)
        if worker in {entry.worker for entry in in_flight.values()}:
            assert leases == self.held[worker], "a worker with leases gets the same ones"
        elif leases:
            assert {(lease.version, lease.worker) for lease in leases} == {(self.published, worker)}
            assert not in_flight.keys() & {lease.block for lease in leases}
            assert len(leases) <= min(most, self.sizes.blocks_per_step)
            entries = [self.stream._state.in_flight[lease.block] for lease in leases]
            assert len(leases) == 1 or (self.sizes.attempts > 1 and not any(entry.strikes for entry in entries))
            self.held[worker] = leases

    async def hand_in(self):
        if self.held:
            worker = self.dice.choice(sorted(self.held))
            lease = self.held[worker].pop(0)
            if not self.held[worker]:
                del self.held[worker]
            bad = BLOCK_SIZE if self.fails(lease.block) else int(self.dice.random() < 0.1)  # groups
            failures = tuple(
                Failure(draw=draw, cause="scorer: ValueError", detail="no") for draw in lease.draw_ids.tolist()[:bad]
            )
            await self.stream.put(lease, lease, BlockSummary(groups=BLOCK_SIZE - bad, failures=failures))
            self.old_leases.append(lease)

    async def learn(self):
        """Take the step if it can be had now, and train it."""
        taken = await self.try_take()
        if taken is None:
            return
        self.check_taken(taken)
        if "refuse_some" in self.faults and self.dice.random() < 0.1:
            some = self.dice.sample(taken.blocks, self.dice.randint(1, len(taken.blocks)))
            await self.stream.refuse(some, "unknown digest")
            return
        if "take_again" in self.faults and self.dice.random() < 0.1:
            return  # the answer is lost; the next call takes it again
        self.trained.update(dict.fromkeys(taken.blocks, self.step))
        self.versions.update(zip(taken.blocks, taken.versions, strict=True))
        self.step += 1
        self.checkpoints.append((self.step, taken.settled))
        if "learner_dies" in self.faults and self.dice.random() < 0.05:
            await self.restart_learner()  # before anybody heard that the step was trained
            return
        await self.stream.finish(self.step - 1)
        if self.step % self.sizes.publish_every == 0:
            await self.publish()

    async def try_take(self):
        if self.step == self.sizes.steps:
            return None
        if self.taking is None:
            self.taking = asyncio.create_task(self.stream.take(self.step, 1000.0))
        for _ in range(4):
            await asyncio.sleep(0)
        if not self.taking.done():
            return None
        taking, self.taking = self.taking, None
        return taking.result()

    async def publish(self):
        self.published = self.step
        await self.stream.publish(self.step, f"weights {self.step} of {self.generation}")

    # What goes wrong

    async def worker_dies(self):
        index = self.dice.randrange(len(self.workers))
        worker, self.workers[index] = self.workers[index], self.name()
        if self.dice.random() < 0.3:
            self.stream.retire(worker)
        self.held.pop(worker, None)
        again = await self.stream.lost(worker, "killed")
        assert again == sorted(set(again)) or len(again) == len(set(again))

    async def hand_in_twice(self):
        if self.old_leases:
            lease = self.dice.choice(self.old_leases)
            if not any(lease in held for held in self.held.values()):
                assert not await self.stream.put(lease, lease, BlockSummary(groups=1))

    async def refuse_some(self):
        """In `learn`."""

    async def take_again(self):
        """In `learn`."""

    async def learner_dies(self):
        if self.dice.random() < 0.3:
            await self.restart_learner()

    async def restart_learner(self):
        abandoned, self.taking = self.taking, None
        self.go_back()
        settled = next(settled for step, settled in self.checkpoints if step == self.step)
        await self.stream.rollback(self.step, settled)
        if abandoned is not None:
            taken = await asyncio.wait_for(abandoned, 1.0)
            assert taken is None or taken.step == self.step or taken.blocks
        assert self.stream.try_lease("early") is None, "nothing is leased before the learner publishes"
        await self.publish()

    def go_back(self):
        step, _ = self.dice.choice(self.checkpoints)
        self.generation += step < self.step
        self.checkpoints = [each for each in self.checkpoints if each[0] <= step]
        self.trained = {block: at for block, at in self.trained.items() if at < step}
        self.step = step

    async def stream_dies(self):
        await self.drop_take()
        self.ledger.close()
        self.ledger = Ledger.open(self.path)
        self.stream = self.make_stream(self.ledger.history())
        await self.publish_again()

    async def publish_again(self):
        if self.published >= 0:
            await self.stream.publish(self.published, f"weights {self.published} of {self.generation}")

    async def everything_dies(self):
        if self.dice.random() < 0.7:
            return
        await self.drop_take()
        self.ledger.close()
        self.ledger = Ledger.open(self.path)
        await self.everything_restarts()

    async def everything_restarts(self):
        self.go_back()
        settled = next(settled for step, settled in self.checkpoints if step == self.step)
        self.ledger.resume(self.step, settled)
        self.ledger.begin_session({"rollout": {"block_size": BLOCK_SIZE}}, self.step)
        self.stream = self.make_stream(self.ledger.history())
        self.workers, self.held = [self.name() for _ in self.workers], {}
        await self.publish()

    async def power_fails(self):
        """The last transactions of the ledger are lost; the checkpoint that the run goes on from is not."""
        if self.dice.random() < 0.7:
            return
        await self.drop_take()
        self.ledger.close()
        lose_transactions(self.path, self.dice.randint(1, 30))
        self.ledger = Ledger.open(self.path)
        await self.everything_restarts()

    async def drop_take(self):
        if self.taking is not None:
            self.taking.cancel()
            await asyncio.gather(self.taking, return_exceptions=True)
            self.taking = None

    # What has to hold

    def check_taken(self, taken):
        sizes, every = self.sizes, self.sizes.publish_every
        assert taken.step == self.step
        assert len(set(taken.blocks)) == sizes.blocks_per_step, "steps are full"
        assert list(taken.blocks) == sorted(taken.blocks)
        assert not set(taken.blocks) & set(self.trained), "a block is trained twice"
        assert not any(self.fails(block) for block in taken.blocks)
        limit = sizes.max_staleness if sizes.drop_older_than is None else sizes.drop_older_than
        for payload, block, version in zip(taken.payloads, taken.blocks, taken.versions, strict=True):
            assert self.step // every - version // every <= limit, "a block is too stale"
            assert version <= self.step
            assert (payload.block, payload.version) == (block, version)
        done = {*self.trained, *taken.blocks}
        assert all(block in taken.settled for block in done)

    def check(self):
        state = self.stream._state
        parts = [state.queued, state.in_flight, state.ready, *state.taken.values()]
        in_parts = [block for part in parts for block in part]
        settled = [block for block in range(state.next_block) if block in state.settled]
        assert sorted(in_parts + settled) == list(range(state.next_block)), "a block is not in exactly one state"
        assert state.trained == state.finished * self.sizes.blocks_per_step
        leased = {(worker, b) for worker, (blocks, _) in self.stream._leases.seconds().items() for b in blocks}
        assert leased == {(entry.worker, block) for block, entry in state.in_flight.items()}
        assert len(state.settled.beyond) <= 4 * self.sizes.blocks_per_step * 12
        assert set(self.stream._payloads) == set(state.ready)

    def stuck(self):
        state = self.stream._state
        return f"{self.sizes} {self.stream.stats()} {state.ready} {state.in_flight} {state.queued}"

    def check_the_end(self):
        stats, found = self.stream.stats(), audit(self.path)
        assert found.clean, found
        assert found.complete, found
        assert found.steps == self.sizes.steps
        blocks = {"queued": 0, "in flight": 0, "ready": 0, "taken": 0, "trained": stats.trained, "failed": stats.failed}
        assert found.blocks == blocks
        assert stats.trained == len(self.trained) == self.sizes.steps * self.sizes.blocks_per_step
        assert sum(found.draws.values()) == BLOCK_SIZE * (stats.trained + stats.failed)
        replayed = self.ledger.history()
        state = self.stream._state
        assert (replayed.settled, replayed.next_block, replayed.failed) == (
            state.settled,
            state.next_block,
            state.failed,
        )
        assert (replayed.version, replayed.digest, replayed.reissued) == (state.version, state.digest, state.reissued)


def lose_transactions(path, count):
    """What a loss of power does to the end of a ledger: nothing up to the last row that waited for the disk."""
    with sqlite3.connect(path) as connection:
        durable = "SELECT max(at) FROM events WHERE kind IN ('session', 'rolled_back')"
        later = f"SELECT DISTINCT at FROM events WHERE at > ({durable}) ORDER BY seq DESC LIMIT ?"
        connection.execute(f"DELETE FROM events WHERE at IN ({later})", [count])
    connection.close()
