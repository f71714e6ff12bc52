"""The stream between rollout and learner: whole blocks, each trained exactly once, every wait with a deadline.

A training step takes a fixed number of blocks. Versions are numbers of finished steps; a snapshot is published every
`publish_every` of them, and staleness counts these publications. A worker may start a block only if it can still be
trained in time (admission), the learner takes the oldest first, and waits for an old one only where no later step has
room for it. So nothing finished is thrown away for its age unless `drop_older_than` says so.

Plain asyncio, no Ray. Payloads are opaque: groups, or references to them. The state of the blocks is a `History`; every
change of it goes to the journal first.
"""

import time
from collections.abc import Callable, Collection
from itertools import count
from typing import Any

from tpo_dist.admission import Admission
from tpo_dist.blocks import BlockSummary, Event, HandedIn, Journal, Lease, Settled, StreamStats, Taken, Window
from tpo_dist.history import History
from tpo_dist.leases import Leases
from tpo_dist.tally import Tally
from tpo_dist.waiting import Bell


class GroupStream:
    """Consumes published versions and finished blocks; produces leases and the blocks of each step, in order.

    Workers wait in `leases` for the learner's next version, the learner in `take` for the workers' blocks. A caller
    that missed the answer may repeat any call.
    """

    def __init__(
        self,
        *,
        blocks_per_step: int,
        block_size: int,
        steps: int,
        max_staleness: int = 0,
        publish_every: int = 1,
        drop_older_than: int | None = None,
        attempts: int = 3,
        journal: Journal | None = None,
        history: History | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`steps`: of the whole run. `attempts`: workers that may die with a block before it fails. `history`: what
        went before, the stream's own from now on; what was ready is queued again, as its payloads are gone."""
        self._rules = Admission(
            blocks_per_step=blocks_per_step,
            steps=steps,
            max_staleness=max_staleness,
            publish_every=publish_every,
            drop_older_than=drop_older_than,
        )
        self._block_size, self._attempts = block_size, attempts
        self._journal, self._clock = journal, clock
        self._state = history or History()
        self._payloads: dict[int, HandedIn] = {}
        self._leases = Leases(clock)
        self._workers: set[str] = set()  # to whom blocks were given, and who did not leave
        self._retired: set[str] = set()
        self._closed = False
        self._turn = 0  # of the learner: a newer take, or its restart, ends an older take
        self._taking: int | None = None
        self._admission, self._arrivals = Bell(), Bell()
        self._tally = Tally(clock())
        gone = [Event("queued", block, detail="the stream's process was restarted") for block in self._state.ready]
        self._record(Event("stream_started"), *gone)
        self._leases.give(entry.lease(block, block_size) for block, entry in self._state.in_flight.items())

    @property
    def version(self) -> int:
        """The newest snapshot published; -1 before the first, and after the learner went back."""
        return self._state.version

    @property
    def closed(self) -> bool:
        """True once no more blocks are given out or expected."""
        return self._closed

    def try_lease(self, worker: str) -> Lease | None:
        """The block that the worker holds, else the next one, or None where none may be started now."""
        return next(iter(self.try_leases(worker, 1)), None)

    def try_leases(self, worker: str, most: int) -> list[Lease]:
        """The blocks that the worker holds, else the next ones, up to `most` and to its share; none where none may be
        started now."""
        held = self._leases.of(worker)
        if held or self._closed or worker in self._retired:
            return [] if self._closed else held
        share = self._rules.share(self._state, len(self._workers | {worker})) if self._attempts > 1 else 1
        blocks = self._rules.next_blocks(self._state, min(most, share))
        if blocks:
            self._workers.add(worker)
            self._record(*(self._state.leasing(block, worker) for block in blocks))
            self._leases.give(self._state.in_flight[block].lease(block, self._block_size) for block in blocks)
        return self._leases.of(worker)

    async def leases(self, worker: str, most: int, seconds: float) -> list[Lease]:
        """The same as soon as there are any; none when there will be none any more for this worker.

        Raises DeadlineExceeded after `seconds`.
        """
        found: list[Lease] = []

        def ready() -> bool:
            found.extend(self.try_leases(worker, most))
            return bool(found) or self._closed or worker in self._retired or self._state.finished >= self._rules.steps

        await self._admission.wait(ready, seconds, lambda: self._rules.why_not(self._state))
        return found

    async def put(self, lease: Lease, payload: Any, summary: BlockSummary, *, portable: bool = False) -> bool:
        """Hand in a leased block; False, and nothing kept, where that lease does not hold (any more).

        A block without a good group fails. `portable`: the payload outlives the worker that made it.
        """
        if lease not in self._leases:
            return False
        good = summary.groups > 0
        detail = summary.to_json(None if good else "every group failed")
        self._record(Event("ready" if good else "failed", lease.block, None, lease.version, lease.worker, detail))
        if good:
            self._payloads[lease.block] = HandedIn(payload, summary, portable)
        else:
            self._admission.ring()
        self._leases.end(lease)
        self._tally.hand_in(lease.worker, summary)
        self._arrivals.ring()
        return True

    async def take(self, step: int, seconds: float) -> Taken | None:
        """The blocks of the next step, whole; None when the stream was closed before they were complete.

        Taken again before it is finished, a step is made again. A newer take, or `rollback`, ends an older one with
        None. Raises DeadlineExceeded after `seconds`, naming what is missing and who holds it, and ValueError for a
        step that is not next.
        """
        taken, finished = self._state.taken, self._state.finished
        if step not in taken and step != next(each for each in count(finished) if each not in taken):
            raise ValueError(f"step {step} is taken, and {finished} steps are finished")
        self._requeue(taken.get(step, ()), f"step {step} was taken again")
        self._turn += 1
        turn, self._taking = self._turn, step
        chosen: list[int] = []

        def ready() -> bool:
            if turn == self._turn:
                chosen.extend(self._choice(step))
            return bool(chosen) or turn != self._turn or self._closed

        try:
            await self._arrivals.wait(ready, seconds, lambda: self._why_no_step(step))
        finally:
            if turn == self._turn:
                self._taking = None
        return self._hand_over(step, sorted(chosen)) if chosen else None

    async def publish(self, version: int, digest: str) -> None:
        """Announce a snapshot. Raises ValueError if it goes backwards, or the version is out with another digest."""
        state = self._state
        if (version, digest) == (state.version, state.digest):
            return
        if version <= state.version:
            raise ValueError(f"version {version} was published after version {state.version}; versions only rise")
        self._record(Event("published", version=version, detail=digest))
        self._admission.ring()

    async def finish(self, step: int) -> None:
        """The step is trained. Raises ValueError for one that was not taken, or of which blocks were refused."""
        if step < self._state.finished:
            return
        if step != self._state.finished or len(self._state.taken.get(step, ())) != self._rules.blocks_per_step:
            raise ValueError(f"step {step} is finished, but its blocks were not all taken")
        self._record(Event("trained", step=step))
        if self._state.finished >= self._rules.steps:
            self._admission.ring()

    async def refuse(self, blocks: Collection[int], reason: str, stamps: Collection[tuple[int, str]] = ()) -> bool:
        """These blocks, which the learner took, are no use to it, or their payload was lost: made again. `stamps`: what
        sampled them; whether their workers are to blame, as no learner that died since has published that."""
        taken = {block for step in self._state.taken.values() for block in step}
        self._requeue([block for block in blocks if block in taken], reason)
        return self._state.gone.isdisjoint(stamps)

    async def lost(self, worker: str, reason: str) -> list[int]:
        """The worker's process is gone, and what it handed in with it; the blocks that are queued again for that.

        A block that it was at work on fails where too many workers have died with it.
        """
        ready, held = self._state.ready, self._payloads
        gone = sorted(b for b, entry in ready.items() if entry.worker == worker and not held[b].portable)
        events = [Event("queued", block, worker=worker, detail=reason) for block in gone]
        for lease in self._leases.of(worker):
            block = lease.block
            strikes = self._state.in_flight[block].strikes + 1
            if worker in self._retired:  # it was asked to go
                events.append(Event("queued", block, worker=worker, detail=reason))
            elif strikes < self._attempts:
                events.append(Event("lost", block, worker=worker, detail=reason))
            else:
                events.append(self._tally.give_up(lease, strikes, reason))
        self._record(*events)
        self._forget_revoked()
        self._retired.discard(worker)
        self._workers.discard(worker)
        self._ring_all()  # a block that was waited for is perhaps no longer due
        return [event.block for event in events if event.block is not None and event.kind != "failed"]

    def retire(self, worker: str) -> None:
        """Give this worker no more leases; one that it holds is still its duty."""
        self._retired.add(worker)
        self._workers.discard(worker)
        self._admission.ring()

    async def hand_back(self, lease: Lease, reason: str) -> None:
        """The block of this lease is made again, by whoever asks next; nothing where the lease does not hold."""
        if lease in self._leases:
            self._requeue([lease.block], reason)
            self._leases.end(lease)

    def owed_by_worker(self) -> dict[str, list[int]]:
        """Blocks that were handed in and are not trained yet, by the worker on whom their payload may depend."""
        owed: dict[str, list[int]] = {}
        for part in (self._state.ready, *self._state.taken.values()):
            for block in sorted(part):
                if block not in self._payloads or not self._payloads[block].portable:
                    owed.setdefault(part[block].worker, []).append(block)
        return owed

    async def rollback(self, step: int, settled: Settled) -> None:
        """The learner starts again from a checkpoint; nothing is leased until it publishes. What was trained since, and
        what was sampled from later weights, is queued again."""
        self._turn += 1
        self._record(*self._state.going_back(step, settled, keep_blocks=True))
        self._forget_revoked()
        self._ring_all()

    async def close(self) -> None:
        """End every wait: no more leases, no more blocks."""
        self._closed = True
        self._ring_all()

    def _ring_all(self) -> None:
        self._admission.ring()
        self._arrivals.ring()

    def stats(self) -> StreamStats:
        """The stream in numbers."""
        leases = tuple((worker, blocks[0], seconds) for worker, (blocks, seconds) in self._leases.seconds().items())
        waiting = None if self._taking is None else self._why_no_step(self._taking)
        return self._tally.stats(self._state, leases, waiting)

    def window(self) -> Window:
        """What was handed in since the last window."""
        return self._tally.window(self._clock())

    def _record(self, *events: Event) -> None:
        """Into the journal, then into the state: what the journal does not have did not happen."""
        if self._journal is not None and events:
            self._journal.write(events)
        for event in events:
            self._state.apply(event)

    def _requeue(self, blocks: Collection[int], why: str) -> None:
        self._record(*(Event("queued", block, detail=why) for block in sorted(blocks)))
        self._admission.ring()

    def _forget_revoked(self) -> None:
        """Drop the leases and payloads of blocks that are queued again."""
        self._leases.keep(self._state.in_flight)
        self._payloads = {block: held for block, held in self._payloads.items() if block in self._state.ready}

    def _choice(self, step: int) -> list[int]:
        stale = self._rules.stale(self._state, step)
        if stale:
            limit = self._rules.drop_older_than
            self._record(*(Event("dropped", b, detail=f"staleness {age} > {limit}") for b, age in stale.items()))
            for block in stale:
                self._tally.drop(self._payloads.pop(block).summary)
            self._admission.ring()
        return self._rules.choice(self._state, step)

    def _hand_over(self, step: int, blocks: list[int]) -> Taken:
        entries = [self._state.ready[block] for block in blocks]
        self._record(*(Event("taken", b, step, e.version, e.worker) for b, e in zip(blocks, entries, strict=True)))
        return Taken(
            step=step,
            blocks=tuple(blocks),
            payloads=[self._payloads.pop(block).content for block in blocks],
            workers=tuple(entry.worker for entry in entries),
            versions=tuple(entry.version for entry in entries),
            settled=self._state.settled_after(step),
        )

    def _why_no_step(self, step: int) -> str:
        held = self._leases.seconds()
        holders = {block: f"with {name} for {at:.1f} s" for name, (blocks, at) in held.items() for block in blocks}
        return self._rules.why_no_step(self._state, step, holders)
