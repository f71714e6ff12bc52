"""The stream between rollout and learner: whole blocks, each trained exactly once, every wait with a deadline.

A *block* is a fixed number of consecutive prompt draws; a training step takes a fixed number of consecutive blocks.
A worker may start a block only once the snapshot that its step is to be sampled from has been published (admission
control): in synchronous training step n waits for version n, so no finished group is ever too old.

Plain asyncio, no Ray. Payloads are opaque: groups in one process, references to them on a cluster.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DeadlineExceeded(TimeoutError):
    """A wait lasted longer than it may; the message says for what, and who owes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right and the duty of one worker to deliver one block."""

    block: int
    """Number of the block, counted from 0 over the whole run."""
    step: int
    """Training step that takes it."""
    version: int
    """Snapshot to sample it from."""
    first_draw: int
    draws: int
    worker: str

    @property
    def draw_ids(self) -> NDArray[np.int64]:
        """The prompt draws of the block."""
        return np.arange(self.first_draw, self.first_draw + self.draws, dtype=np.int64)


class GroupStream:
    """Consumes published versions and finished blocks; produces leases and the blocks of each step, in order.

    Workers wait in `lease` for the learner's next version; the learner waits in `take` for the workers' blocks.
    """

    def __init__(
        self,
        *,
        blocks_per_step: int,
        block_size: int,
        steps: int,
        first_step: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`steps`: of the whole run. `first_step`: where this stream begins, after a resume."""
        self._per_step, self._block_size = blocks_per_step, block_size
        self._next_block, self._end_block = first_step * blocks_per_step, steps * blocks_per_step
        self._version = -1
        self._leased: dict[int, tuple[Lease, float]] = {}
        self._ready: dict[int, Any] = {}
        self._closed = False
        self._clock = clock
        self._changed = asyncio.Condition()

    @property
    def closed(self) -> bool:
        """True once no more blocks are given out or expected."""
        return self._closed

    def try_lease(self, worker: str) -> Lease | None:
        """The next block, or None where none may be started now."""
        block = self._next_block
        step = block // self._per_step
        if self._closed or block >= self._end_block or step > self._version:
            return None
        self._next_block += 1
        first_draw = block * self._block_size
        lease = Lease(
            block=block,
            step=step,
            version=self._version,
            first_draw=first_draw,
            draws=self._block_size,
            worker=worker,
        )
        self._leased[block] = (lease, self._clock())
        return lease

    async def lease(self, worker: str, seconds: float) -> Lease | None:
        """The next block as soon as it may be started; None when there will be none any more.

        Raises DeadlineExceeded after `seconds`.
        """
        found: list[Lease] = []

        def ready() -> bool:
            lease = self.try_lease(worker)
            if lease is not None:
                found.append(lease)
            return lease is not None or self._closed or self._next_block >= self._end_block

        await self._wait(ready, seconds, self._why_no_lease)
        return found[0] if found else None

    async def put(self, lease: Lease, payload: Any) -> None:
        """Hand in a leased block. Raises ValueError for a block that is not leased to this worker."""
        held = self._leased.get(lease.block)
        if held is None or held[0] != lease:
            raise ValueError(f"block {lease.block} is not leased to {lease.worker}; it cannot be handed in")
        del self._leased[lease.block]
        self._ready[lease.block] = payload
        async with self._changed:
            self._changed.notify_all()

    async def take(self, step: int, seconds: float) -> list[Any] | None:
        """The payloads of a step in draw order, whole; None when the stream was closed before they were complete.

        Raises DeadlineExceeded after `seconds`, naming the missing blocks and who holds them.
        """
        blocks = range(step * self._per_step, (step + 1) * self._per_step)

        def complete() -> bool:
            return all(block in self._ready for block in blocks)

        await self._wait(lambda: complete() or self._closed, seconds, lambda: self._why_no_step(step))
        return [self._ready.pop(block) for block in blocks] if complete() else None

    async def publish(self, version: int) -> None:
        """Announce a snapshot: steps up to this number may be sampled. Raises ValueError if it goes backwards."""
        if version <= self._version:
            raise ValueError(f"version {version} was published after version {self._version}; versions only rise")
        self._version = version
        async with self._changed:
            self._changed.notify_all()

    async def close(self) -> None:
        """End every wait: no more leases, no more blocks."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, ready: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(ready), seconds)
            except TimeoutError:
                raise DeadlineExceeded(f"waited {seconds:g} s for {why()}") from None

    def _why_no_lease(self) -> str:
        step = self._next_block // self._per_step
        return f"version {step}, which the learner owes; block {self._next_block} of step {step} is sampled from it"

    def _why_no_step(self, step: int) -> str:
        now, reasons = self._clock(), []
        for block in range(step * self._per_step, (step + 1) * self._per_step):
            if block in self._leased:
                lease, since = self._leased[block]
                reasons.append(f"block {block}, with {lease.worker} for {now - since:.1f} s")
            elif block not in self._ready:
                reasons.append(f"block {block}, which no worker has asked for")
        return f"the groups of step {step}: " + "; ".join(reasons)
