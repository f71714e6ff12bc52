"""Which block may start, and which blocks make a step: the rules that bound staleness, as functions of the history.

Staleness counts publications: step n is trained in period n // publish_every, a block belongs to the period of the
version that sampled it, and may be trained until `max_staleness` periods later. Let R(j) be the blocks that the steps
up to the end of period j + max_staleness still need. Two rules keep the blocks under way from periods up to j at most
R(j), for every j, so that each can be trained in time:

- a block starts only while all blocks under way are fewer than R(newest period);
- a step takes the oldest ready blocks, and only once those in flight from periods up to j fit into what R(j) is
  after it. It waits for an old block only where no later step has room for it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain, count, islice

from tpo_dist.history import History

_NAMED = 8  # pending blocks that a message names


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The numbers that the rules go by."""

    blocks_per_step: int
    steps: int
    """Of the whole run."""
    max_staleness: int
    publish_every: int
    """Steps."""
    drop_older_than: int | None
    """Then the learner waits for no old block: what comes later than this is dropped."""

    def next_step(self, history: History, ahead: int = 0) -> int:
        """The step that the next block to start would fill if none came before its turn; failed ones make room.

        `ahead`: blocks that start before it.
        """
        return history.finished + (history.under_way + ahead) // self.blocks_per_step

    def may_start(self, history: History, ahead: int = 0) -> bool:
        """May a worker start a block now, and `ahead` others with it?"""
        step = self.next_step(history, ahead)
        return history.version >= 0 and step < self.steps and self.age(step, history.version) <= self.max_staleness

    def next_blocks(self, history: History, most: int) -> list[int]:
        """Up to so many blocks that one worker may start now, in order. One that a worker was lost with comes alone: if
        it takes the next one as well, no other block suffers for it."""
        blocks: list[int] = []
        for block in islice(chain(nsmallest(most, history.queued), count(history.next_block)), most):
            struck = block in history.queued and history.queued[block].strikes > 0
            if (struck and blocks) or not self.may_start(history, len(blocks)):
                break
            blocks.append(block)
            if struck:
                break
        return blocks

    def share(self, history: History, workers: int) -> int:
        """The blocks that one of so many workers may take on at once: its part of a step, and in synchronous training,
        where nobody may go on before the last is done, of what is left of it."""
        left = self.blocks_per_step
        if self.max_staleness == 0:
            left -= history.under_way % self.blocks_per_step
        return -(-left // workers)

    def age(self, step: int, version: int) -> int:
        """Staleness of a block from that version in that step, in publications."""
        return step // self.publish_every - version // self.publish_every

    def stale(self, history: History, step: int) -> dict[int, int]:
        """Ready blocks to drop before that step, with their age."""
        if self.drop_older_than is None:
            return {}
        ages = {block: self.age(step, entry.version) for block, entry in history.ready.items()}
        return {block: age for block, age in ages.items() if age > self.drop_older_than}

    def choice(self, history: History, step: int) -> list[int]:
        """The blocks of the step; none where it has to wait.

        Synchronous training takes the first of all open blocks, so that neither their order nor deaths change it.
        """
        ready = history.ready
        if len(ready) < self.blocks_per_step:
            return []
        if self.max_staleness == 0:
            first = self._first(history)
            return first if all(block in ready for block in first) else []
        if self.drop_older_than is None and not self._rest_fits(history):
            return []
        return nsmallest(self.blocks_per_step, ready, key=lambda block: (ready[block].version, block))

    def missing(self, history: History) -> list[int]:
        """What the next step may wait for: open blocks that are not ready, then new ones, as many as it needs."""
        pending = [*history.in_flight, *history.queued]
        if self.max_staleness == 0:
            pending = [block for block in self._first(history) if block not in history.ready]
        new = self.blocks_per_step - len(history.ready) - len(history.in_flight) - len(history.queued)
        return [*sorted(pending), *range(history.next_block, history.next_block + new)]

    def why_not(self, history: History) -> str:
        """What the next block to start waits for, and who owes it."""
        step, version = self.next_step(history), history.version
        if version >= 0 and step >= self.steps:
            return (
                f"the end of the run, which the learner owes: it has finished {history.finished} of {self.steps} steps"
            )
        owed = (step // self.publish_every - self.max_staleness) * self.publish_every
        owed = history.finished if version < 0 else owed
        block = min(history.queued, default=history.next_block)
        return f"version {owed}, which the learner owes; block {block} of step {step} is sampled from it"

    def why_no_step(self, history: History, step: int, holders: Mapping[int, str]) -> str:
        """What the step waits for, and who owes it. `holders`: blocks in flight, with whom and for how long."""
        missing = self.missing(history)
        reasons = [
            f"block {block}, {holders.get(block, 'which no worker has asked for')}" for block in missing[:_NAMED]
        ]
        if len(missing) > _NAMED:
            reasons.append(f"and {len(missing) - _NAMED} more")
        return f"the groups of step {step}: " + "; ".join(reasons)

    def _first(self, history: History) -> list[int]:
        return nsmallest(self.blocks_per_step, (*history.queued, *history.in_flight, *history.ready))

    def _rest_fits(self, history: History) -> bool:
        """Can what is in flight still be trained in time if the next step goes without it?"""
        steps_gone, blocks = history.finished + len(history.taken) + 1, 0
        periods = Counter(entry.version // self.publish_every for entry in history.in_flight.values())
        for period, number in sorted(periods.items()):
            blocks += number
            last_step = (period + self.max_staleness + 1) * self.publish_every
            if blocks > (last_step - steps_gone) * self.blocks_per_step:
                return False
        return True
