"""The state of every block, as the events so far have it: one set of rules for the stream and for its ledger.

    queued -> in flight -> ready -> taken -> trained           or failed, from in flight or ready
      ^___________|__________|________|_________|              made again: its worker or its learner was lost

It grows with what is under way, not with the run: of the blocks behind it only their numbers are known, as `Settled`
(and 8 bytes for each that failed).
"""

import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from tpo_dist.blocks import Event, Kind, Lease, Settled


class Contradiction(ValueError):
    """An event that cannot follow those before it."""


@dataclass(slots=True)
class OpenBlock:
    """A block that was given out, and is neither trained nor failed."""

    attempt: int = 0
    """How often it was given out."""
    strikes: int = 0
    """How many workers died with it."""
    worker: str = ""
    """Who has it, or made it."""
    version: int = -1
    digest: str = ""

    def lease(self, block: int, draws: int) -> Lease:
        """What its worker was given."""
        return Lease(
            block=block,
            first_draw=block * draws,
            draws=draws,
            worker=self.worker,
            attempt=self.attempt,
            version=self.version,
            digest=self.digest,
        )


class History:
    """Applies events; each block is in exactly one of its parts."""

    def __init__(self, step: int = 0, settled: Settled | None = None) -> None:
        """`step`: steps trained before it. `settled`: the blocks behind it."""
        settled = settled or Settled()
        self.finished = step
        """Steps trained."""
        self.version, self.digest = -1, ""
        """The newest snapshot published, or -1."""
        self._published: dict[int, str] = {}
        self.gone: set[tuple[int, str]] = set()
        """Version and digest of snapshots that a learner published, lately, which then went back before them."""
        self.queued: dict[int, OpenBlock] = {}
        self.in_flight: dict[int, OpenBlock] = {}
        self.ready: dict[int, OpenBlock] = {}
        self.taken: dict[int, dict[int, OpenBlock]] = {}
        """By step."""
        self.reissued = 0
        self._failed = array("q")
        self._below, self._beyond = settled.below, set(settled.beyond)
        self.next_block = max((self._below, *(block + 1 for block in self._beyond)))
        """The first that was never given out."""

    @property
    def settled(self) -> Settled:
        """The blocks that were trained or failed."""
        return Settled(self._below, tuple(sorted(self._beyond)))

    def settled_after(self, step: int) -> Settled:
        """The same, as if the steps taken so far, up to this one, were trained."""
        taken = (block for number, blocks in self.taken.items() if number <= step for block in blocks)
        return Settled.of(self._below, (*self._beyond, *taken))

    @property
    def failed(self) -> int:
        """Blocks that failed."""
        return len(self._failed)

    @property
    def trained(self) -> int:
        """Blocks that were trained."""
        return self._below + len(self._beyond) - self.failed

    @property
    def under_way(self) -> int:
        """Blocks in flight, ready or taken: those that count as done when more are given out."""
        return len(self.in_flight) + len(self.ready) + sum(map(len, self.taken.values()))

    def apply(self, event: Event) -> None:
        """Take an event in. Raises Contradiction where it cannot follow those before it."""
        if event.kind in _RULES:
            _RULES[event.kind](self, event)

    def leasing(self, block: int, worker: str) -> Event:
        """The event of giving out a block that is queued, or new."""
        attempt = self.queued[block].attempt + 1 if block in self.queued else 1
        return Event("leased", block, version=self.version, worker=worker, detail=json.dumps({"attempt": attempt}))

    def going_back(self, step: int, settled: Settled, *, keep_blocks: bool) -> list[Event]:
        """The events that take the run back to a checkpoint at `step`, which knows these blocks as settled.

        `keep_blocks`: what workers hold and have handed in from versions up to `step` stays; else it is queued again.
        What the checkpoint has and these events do not is taken from the checkpoint.
        """
        beyond, end = set(settled.beyond), max((settled.below, *(block + 1 for block in settled.beyond)))

        def known(block: int) -> bool:
            return block < settled.below or block in beyond

        held = {block: entry for part in (self.in_flight, self.ready) for block, entry in part.items()}
        gone = {block for block, entry in held.items() if not keep_blocks or entry.version > step}
        unfinished = set(self.queued) | set(held)
        events = []
        for number, blocks in sorted(self.taken.items()):
            if number < step and all(map(known, blocks)):
                events.append(Event("trained", step=number, detail="the learner's checkpoint has it"))
            else:
                unfinished |= set(blocks)
                gone |= set(blocks)
        unheard = range(self.next_block, end)
        missed = [block for block in (*sorted(unfinished), *unheard) if known(block)]
        why = f"only the checkpoint at step {step} has it"
        events += [Event("trained", block=block, detail=why) for block in missed]
        events.append(Event("rolled_back", step=step, detail=json.dumps(settled.to_json())))
        undone = {b for b in (*range(settled.below, self._below), *self._beyond) if not known(b)}
        undone -= set(self._failed) if undone else set()
        again = sorted(block for block in gone | undone | set(unheard) if not known(block))
        return events + [Event("queued", block=b, detail=f"the learner went back to step {step}") for b in again]

    def _lease(self, event: Event) -> None:
        block, version = _block(event), event.version
        if version is None or version != self.version:
            raise Contradiction(f"block {block} is leased at version {version}, and version {self.version} is out")
        if block in self.queued:
            entry = self.queued.pop(block)
            self.reissued += 1
        elif block == self.next_block:
            entry = OpenBlock()
            self.next_block += 1
        else:
            raise Contradiction(f"block {block} is leased, and it is neither queued nor the next, {self.next_block}")
        entry.attempt += 1
        entry.worker, entry.version, entry.digest = event.worker or "", version, self.digest
        self.in_flight[block] = entry

    def _hand_in(self, event: Event) -> None:
        block = _block(event)
        self.ready[block] = _pop(self.in_flight, block, "handed in", "in flight")

    def _lose(self, event: Event) -> None:
        block = _block(event)
        entry = self.queued[block] = _pop(self.in_flight, block, "lost", "in flight")
        entry.strikes += 1

    def _queue(self, event: Event) -> None:
        block = _block(event)
        entry = self._pop_open(block)
        if entry is None and (block < self._below or block in self._beyond):
            raise Contradiction(f"block {block} is queued, and it is settled")
        self.queued[block] = entry or OpenBlock()
        self.next_block = max(self.next_block, block + 1)

    def _take(self, event: Event) -> None:
        block, step = _block(event), _step(event)
        if step < self.finished:
            raise Contradiction(f"block {block} is taken for step {step}, which is trained")
        self.taken.setdefault(step, {})[block] = _pop(self.ready, block, "taken", "ready")

    def _train(self, event: Event) -> None:
        if event.step is None:
            block = _block(event)
            self._pop_open(block)
            self._settle(block)
            self.next_block = max(self.next_block, block + 1)
            return
        if event.step != self.finished or event.step not in self.taken:
            raise Contradiction(f"step {event.step} is trained, and it is not the next that was taken")
        for block in self.taken.pop(event.step):
            self._settle(block)
        self.finished += 1

    def _fail(self, event: Event) -> None:
        block = _block(event)
        part = self.in_flight if block in self.in_flight else self.ready
        _pop(part, block, event.kind, "in flight or ready")
        self._settle(block)
        self._failed.append(block)

    def _go_back(self, event: Event) -> None:
        given = Settled.from_json(json.loads(event.detail or "{}"))
        settled = Settled.of(given.below, (*given.beyond, *(b for b in self._failed if b >= given.below)))
        self._below, self._beyond = settled.below, set(settled.beyond)
        self.finished, self.version, self.digest = _step(event), -1, ""
        self.gone |= {known for known in self._published.items() if known[0] > self.finished}
        self._published = {version: it for version, it in self._published.items() if version <= self.finished}

    def _publish(self, event: Event) -> None:
        if event.version is None or event.version <= self.version:
            raise Contradiction(f"version {event.version} is published after version {self.version}")
        self.version, self.digest = event.version, event.detail or ""
        parts = (self.in_flight, self.ready, *self.taken.values())
        oldest = min((entry.version for part in parts for entry in part.values()), default=self.version)
        self._published = {version: it for version, it in self._published.items() if version >= oldest}
        self._published[self.version] = self.digest

    def _pop_open(self, block: int) -> OpenBlock | None:
        for part in (self.queued, self.in_flight, self.ready):
            if block in part:
                return part.pop(block)
        for step, blocks in self.taken.items():
            if block in blocks:
                entry = blocks.pop(block)
                if not blocks:
                    del self.taken[step]
                return entry
        return None

    def _settle(self, block: int) -> None:
        if block < self._below or block in self._beyond:
            raise Contradiction(f"block {block} is settled twice")
        self._beyond.add(block)
        while self._below in self._beyond:
            self._beyond.remove(self._below)
            self._below += 1


_RULES: dict[Kind, Callable[[History, Event], None]] = {
    "published": History._publish,
    "leased": History._lease,
    "ready": History._hand_in,
    "lost": History._lose,
    "queued": History._queue,
    "taken": History._take,
    "trained": History._train,
    "failed": History._fail,
    "dropped": History._fail,
    "rolled_back": History._go_back,
}


def _pop(part: dict[int, OpenBlock], block: int, what: str, where: str) -> OpenBlock:
    if block not in part:
        raise Contradiction(f"block {block} is {what}, and it is not {where}")
    return part.pop(block)


def _block(event: Event) -> int:
    if event.block is None:
        raise Contradiction(f"{event.kind} without a block")
    return event.block


def _step(event: Event) -> int:
    if event.step is None:
        raise Contradiction(f"{event.kind} without a step")
    return event.step
