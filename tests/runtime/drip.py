"""A sampler that streams, without an engine: each block ends after some steps of its own."""

from collections.abc import Callable
from functools import partial

import numpy as np

from tpo_dist.config import RunConfig
from tpo_dist.programs.parts import make_worker
from tpo_dist.records import Prompts
from tpo_dist.rollout.contract import Candidates
from tpo_dist.rollout.worker import RolloutWorker


class DripSampler:
    """What another sampler draws, given back out of order; draws are made at their block's last step."""

    def __init__(self, inner, in_flight: bool) -> None:
        self._inner, self.in_flight = inner, in_flight
        self._blocks: dict[int, list] = {}

    @property
    def version(self):
        return self._inner.version

    @property
    def digest(self):
        return self._inner.digest

    @property
    def pending(self) -> int:
        return len(self._blocks)

    def load(self, snapshot) -> None:
        assert self.in_flight or not self._blocks, "weights changed under way"
        self._inner.load(snapshot)

    def sample(self, prompts: Prompts, group_size: int) -> Candidates:
        return self._inner.sample(prompts, group_size)

    def submit(self, key: int, prompts: Prompts, group_size: int) -> None:
        assert key not in self._blocks
        steps = 1 + int(np.random.default_rng(int(prompts.ids[0])).integers(6))
        self._blocks[key] = [steps, prompts, self._inner.sample(prompts, group_size)]

    def step(self) -> list[tuple[int, Candidates]]:
        for block in self._blocks.values():
            block[0] -= 1
        ended = [key for key, block in self._blocks.items() if block[0] == 0]
        return [(key, self._blocks.pop(key)[2]) for key in ended]


def dripping(config: RunConfig, in_flight: bool) -> Callable[[], RolloutWorker]:
    """Makes a worker with such a sampler."""
    return partial(_make, config, in_flight)


def _make(config: RunConfig, in_flight: bool) -> RolloutWorker:
    worker = make_worker(config)
    worker._sampler = DripSampler(worker._sampler, in_flight)
    return worker
