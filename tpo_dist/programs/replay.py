"""A run again, exactly as it was trained, in one process without Ray: to look at an asynchronous failure at a desk.

The ledger says which blocks each step took, and which version sampled each. Prompts and samples are functions of seed,
draw and weights, so that is all it takes: each block is rolled again from its version, the learner trains the same
blocks in the same order, and the checksum of every version it publishes has to be the recorded one.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tpo_dist.config import RunConfig
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.learner.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint, state_digests
from tpo_dist.learner.learner import Learner
from tpo_dist.ledger import Ledger
from tpo_dist.process import keep_freed_memory
from tpo_dist.programs.folder import LEDGER
from tpo_dist.programs.job import configure
from tpo_dist.programs.parts import alone, blocks_per_step, make_learner, make_worker
from tpo_dist.programs.run import StepReport
from tpo_dist.records import ScoredGroups, Snapshot, concatenate
from tpo_dist.rollout.worker import RolloutWorker
from tpo_dist.schedule import ScheduledBlock, schedule


class Diverged(RunFailed):
    """The replay has come to something else than the run; the message says to what."""

    def __init__(self, step: int, version: int, reason: str) -> None:
        """`step`: the last that was trained before, or -1. `version`: the weights in question."""
        super().__init__(reason)
        self.step, self.version = step, version


class Replay:
    """Repeats a run, also one that still goes on, as far as its ledger has it."""

    def __init__(self, folder: Path, until: int | None = None) -> None:
        """`until`: repeat so many steps; None: all that were trained. One more is possible where the learner had begun
        it, which is where a run stands that failed.

        Raises UsageError where the run cannot be repeated that far, or its checkpoint to compare with is damaged.
        """
        with Ledger.read(folder / LEDGER) as ledger:
            plan = schedule(ledger)
        self._configs = {session.first_step: configure(session.config) for session in plan.sessions}
        whole = len(plan.begun) == blocks_per_step(list(self._configs.values())[-1])
        self._blocks = (*plan.steps, plan.begun) if whole else plan.steps
        self._block_size, self._digests = plan.block_size, plan.digests
        self.trained = len(plan.steps)
        """Steps that the run has trained."""
        self.begun = whole
        """Whether one more was begun."""
        _refuse(folder, plan.first_step, self.trained, len(self._blocks), until)
        self.steps = until or self.trained
        """Steps to repeat."""
        self.recovered: list[int] = []
        """Draws that failed in the run and not here; they were left out here too."""
        self.compared: int | None = None
        """The newest version that was published then, and is the same now."""
        self.checkpoint: Path | None = None
        """The newest checkpoint of the repeated steps: parameters and optimizer are compared with it."""
        self._saved: dict[str, str] = {}
        self._checkpoint_step = -1
        self._read_checkpoint(folder)
        self._kept: dict[int, Snapshot] = {}
        self._last_step = {block.version: step for step in range(self.steps) for block in self._blocks[step]}

    def train(self) -> Iterator[StepReport]:
        """Repeat step after step; one report after each, before its weights are compared.

        Raises Diverged at the first difference, RunFailed where a draw cannot be scored that could be then, and
        whatever the learner raises: a begun step may fail as it did in the run.
        """
        keep_freed_memory()
        config = self._configs[0]
        learner = make_learner(config)
        try:
            worker = make_worker(config)
            self._compare(learner)
            for step in range(self.steps):
                if step > 0 and step in self._configs:  # the run was resumed here
                    config = self._configs[step]
                    learner, worker = _go_on(learner, config), make_worker(config)
                started = time.perf_counter()
                torch.set_num_threads(config.rollout.threads)
                groups = self._roll(worker, step)
                torch.set_num_threads(config.learner.threads)
                metrics = learner.update(groups)
                yield StepReport(learner.version, metrics, time.perf_counter() - started, None)
                self._compare(learner)
                self._kept = {version: kept for version, kept in self._kept.items() if self._last_step[version] > step}
        finally:
            learner.close()

    def _roll(self, worker: RolloutWorker, step: int) -> ScoredGroups:
        """The groups of a step, in the order in which it was trained."""
        blocks, rolled = self._blocks[step], {}
        for block in sorted(blocks, key=lambda each: each.version):  # each version is loaded once
            if worker.version != block.version:
                worker.load(self._kept[block.version])
            rolled[block.block] = self._roll_block(worker, block, step)
        return concatenate([rolled[block.block] for block in blocks])

    def _roll_block(self, worker: RolloutWorker, block: ScheduledBlock, step: int) -> ScoredGroups:
        """Its groups, less those that failed in the run."""
        draws = np.arange(self._block_size, dtype=np.int64) + block.block * self._block_size
        rolled = worker.roll(draws)
        for failure in rolled.failures:
            if failure.draw not in block.failed_draws:
                reason = f"draw {failure.draw} of step {step} was scored in the run, and cannot be scored now"
                raise RunFailed(f"{reason}: {failure.cause}\n{failure.detail}")
        found = rolled.groups
        assert found is not None, "a block without a good group is not trained"
        again = sorted(set(block.failed_draws) & set(found.group_ids.tolist()))
        if not again:
            return found
        self.recovered += again
        return found.select(np.flatnonzero(~np.isin(found.group_ids, again)))

    def _compare(self, learner: Learner) -> None:
        """These weights with what the run published, and the whole learner with what it saved. Raises Diverged."""
        version = learner.version
        before = "none before it was compared" if self.compared is None else f"version {self.compared} was the same"
        where = f"version {version}, after {version} steps"
        if version in self._digests:
            snapshot = learner.snapshot()
            if snapshot.digest != self._digests[version]:
                has = f"has digest {snapshot.digest} here, and was published with {self._digests[version]}"
                raise Diverged(version - 1, version, f"{where}, {has}; {before}")
            self.compared = version
            if self._last_step.get(version, -1) >= version:
                self._kept[version] = snapshot
        if version == self._checkpoint_step:
            found = state_digests(learner)
            for name, saved in self._saved.items():
                if found.get(name) != saved:
                    assert self.checkpoint is not None
                    has = f"has another {name} than {self.checkpoint.name}"
                    raise Diverged(version - 1, version, f"{where}, {has}; {before}")

    def _read_checkpoint(self, folder: Path) -> None:
        """At once: a run that goes on may take it away meanwhile."""
        for path in reversed(list_checkpoints(folder / "checkpoints")):
            if int(path.name.rpartition("-")[2]) <= self.steps:
                learner = make_learner(alone(self._configs[0]))
                load_checkpoint(path, learner)
                self.checkpoint, self._checkpoint_step, self._saved = path, learner.version, state_digests(learner)
                return


def _go_on(learner: Learner, config: RunConfig) -> Learner:
    """A learner of another configuration that goes on from this one, by way of a checkpoint as in the run."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder), learner, keep=1)
        learner.close()
        resumed = make_learner(config)
        load_checkpoint(path, resumed)
    return resumed


def _refuse(folder: Path, first: int, trained: int, possible: int, until: int | None) -> None:
    path = str(folder / LEDGER)
    if first > 0:
        reason = f"begins at step {first}: what was trained before, only a checkpoint knows"
        raise UsageError(path, reason, "a run that lost some of its ledger cannot be replayed")
    if possible == 0:
        raise UsageError(path, "has no step yet that could be repeated", "wait until the run has trained one")
    if trained == 0 and until is None:
        raise UsageError(path, "has a step that was begun, and none that was trained", "give --until 1 to repeat it")
    if until is not None and until > possible:
        steps = "1 step" if trained == 1 else f"{trained} steps"
        more = "" if possible == trained else ", and begun one more"
        raise UsageError(f"--until {until}", f"the run has trained {steps}{more}", f"give at most {possible}")
