"""Rollout workers with something wrong; in a module of their own, so that Ray can import them."""

import os
import signal
import time
from pathlib import Path

import torch

from tpo_dist.errors import UsageError
from tpo_dist.learner.checkpoint import Checkpointer
from tpo_dist.programs.parts import make_worker


class Wrapped:
    """A worker that does what the wrapped one does."""

    def __init__(self, config, folder, name):
        self.worker, self.folder, self.name = make_worker(config), Path(folder), name

    @property
    def version(self):
        return self.worker.version

    def load(self, snapshot):
        self.worker.load(snapshot)

    def roll(self, draw_ids):
        return self.worker.roll(draw_ids)

    def once(self, what):
        """True for the first process that asks."""
        try:
            (self.folder / what).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Corrupted(Wrapped):
    """Its weights change in memory after some blocks, as those of a machine with bad memory do."""

    rolled, at = 0, 5

    def roll(self, draw_ids):
        self.rolled += 1
        if self.rolled == self.at and self.once("corrupted"):
            with torch.no_grad():
                next(self.worker._sampler._policy.parameters()).add_(0.1)
        return super().roll(draw_ids)


class DyingAtLoad(Wrapped):
    """Dies while it loads its third snapshot."""

    loads = 0

    def load(self, snapshot):
        self.loads += 1
        if self.loads == 3 and self.once("died while loading"):
            os.kill(os.getpid(), signal.SIGKILL)
        super().load(snapshot)


class StoppedAtLoad(Wrapped):
    """Stands still while it loads its first snapshot."""

    def load(self, snapshot):
        if self.once("stopped while loading"):
            os.kill(os.getpid(), signal.SIGSTOP)
        super().load(snapshot)


class DyingIdle(Wrapped):
    """Dies by itself between two blocks, while it waits."""

    made = 0

    def roll(self, draw_ids):
        self.made += 1
        if self.made == 4 and self.once("died idle"):
            child = os.fork()
            if child == 0:
                time.sleep(0.05)
                os.kill(os.getppid(), signal.SIGKILL)
                os._exit(0)
        return super().roll(draw_ids)


class Slow(Wrapped):
    """Takes its time, and less than it may."""

    def roll(self, draw_ids):
        if self.name.startswith("rollout-0"):
            time.sleep(0.3)
        return super().roll(draw_ids)


class Unable(Wrapped):
    """Cannot work at all."""

    def roll(self, draw_ids):
        os._exit(1)


class OutOfMemory(Wrapped):
    """Ends as a process does that the kernel kills for its memory."""

    def roll(self, draw_ids):
        if self.once("out of memory"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().roll(draw_ids)


class Plagued(Corrupted, DyingAtLoad, DyingIdle, OutOfMemory):
    """All of these, each once, in whichever process comes to it; the last in one that lives long enough to be found."""

    at = 12


class Behindhand(Wrapped):
    """Where the learner goes back, it makes a block with the weights that it has, before it takes the older ones: so
    does one that has several blocks under way, whose weights change between the lease and the first token."""

    waiting = None

    def load(self, snapshot):
        if self.version is not None and snapshot.version < self.version:
            self.waiting = snapshot
        else:
            super().load(snapshot)

    def roll(self, draw_ids):
        rolled = super().roll(draw_ids)
        if self.waiting is not None:
            super().load(self.waiting)
            self.waiting = None
            (self.folder / f"{self.name} was behindhand").touch()
        return rolled


class Mistaken(Wrapped):
    """Its scorer finds out in the fifth step that something is not set up."""

    def roll(self, draw_ids):
        if draw_ids[0] == 100:
            raise UsageError("task.key = None", "the judge asks for a key", "set it")
        return super().roll(draw_ids)


class DyingAtSaving(Checkpointer):
    """The learner dies twice: after step 7, and once it has saved step 10, before it can report it."""

    def after_step(self, learner, *, last):
        saved = super().after_step(learner, last=last)
        mark = self.folder / f"died at {learner.version}"
        if learner.version in (7, 10) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return saved
