"""An asynchronous run in one process: blocks come in in any order, workers die, and so does the learner."""

import asyncio
from random import Random

from tpo_dist.blocks import Lease, Settled
from tpo_dist.learner.checkpoint import list_checkpoints, load_checkpoint
from tpo_dist.programs.accounts import begin_ledger, open_stream
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.programs.run import Run
from tpo_dist.records import Snapshot, concatenate
from tpo_dist.rollout.worker import summarise


class TroubledRun:
    """Trains as `programs/distributed.py` does, with faults where the dice say so."""

    def __init__(self, run: Run, dice: Random) -> None:
        self._run, self._dice = run, dice
        self._learner, self._worker = make_learner(run.config), make_worker(run.config)
        if run.checkpoint is not None:
            load_checkpoint(run.checkpoint, self._learner)
        begin_ledger(run)
        self._stream = open_stream(run.config, run.folder)
        self._snapshots: dict[int, Snapshot] = {}
        self._held: list[Lease] = []

    async def train(self, until: int) -> None:
        """Up to that step of the run."""
        await self._publish()
        while self._learner.version < until:
            step = self._learner.version
            taking = asyncio.create_task(self._stream.take(step, 60.0))
            while not taking.done():
                await self._somebody_works()
                await asyncio.sleep(0)
            taken = taking.result()
            self._learner.update(concatenate(taken.payloads))
            await self._stream.finish(step)
            self._learner.settled = taken.settled.to_json()
            self._run.checkpointer.after_step(self._learner, last=self._learner.version == until)
            if self._dice.random() < 0.15:
                await self._learner_dies()
            elif self._learner.publishes(self._learner.version):
                await self._publish()

    async def _publish(self) -> None:
        snapshot = self._learner.current()
        self._snapshots[snapshot.version] = snapshot
        await self._stream.publish(snapshot.version, snapshot.digest)

    async def _somebody_works(self) -> None:
        for name in "abc":
            lease = self._stream.try_lease(name)
            if lease is not None and lease not in self._held:
                self._held.append(lease)
        if not self._held:
            return
        lease = self._held.pop(self._dice.randrange(len(self._held)))
        if self._dice.random() < 0.1:
            await self._stream.lost(lease.worker, "killed")
            return
        self._worker.load(self._snapshots[lease.version])
        rolled = self._worker.roll(lease.draw_ids)
        await self._stream.put(lease, rolled.groups, summarise(rolled))

    async def _learner_dies(self) -> None:
        self._learner = make_learner(self._run.config)
        checkpoints = list_checkpoints(self._run.checkpointer.folder)
        if checkpoints:
            load_checkpoint(checkpoints[-1], self._learner)
        await self._stream.rollback(self._learner.version, Settled.from_json(self._learner.settled))
        await self._publish()
