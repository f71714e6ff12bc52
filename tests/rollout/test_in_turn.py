"""A sampler of whole blocks as one that streams."""

import numpy as np
import pytest

from tpo_dist.records import Prompts
from tpo_dist.rollout.contract import StreamingSampler
from tpo_dist.rollout.in_turn import InTurn


class Echo:
    """Gives back what it was asked for."""

    version, digest = 3, "d"

    def load(self, snapshot):
        self.version = snapshot

    def sample(self, prompts, group_size):
        return prompts.ids.tolist(), group_size, self.version


def prompts(*ids):
    return Prompts(ids=np.array(ids), tokens=np.zeros(0, np.int32), lengths=np.zeros(len(ids), np.int32))


def test_blocks_come_in_the_order_in_which_they_were_submitted_each_in_a_step_of_its_own():
    sampler = InTurn(Echo())
    assert isinstance(sampler, StreamingSampler)
    assert not sampler.in_flight
    assert (sampler.version, sampler.digest, sampler.pending, sampler.step()) == (3, "d", 0, [])
    sampler.submit(7, prompts(1, 2), 4)
    sampler.submit(5, prompts(3), 2)
    assert sampler.pending == 2
    assert sampler.step() == [(7, ([1, 2], 4, 3))]
    assert sampler.pending == 1
    assert sampler.sample(prompts(9), 1) == ([9], 1, 3)
    assert sampler.step() == [(5, ([3], 2, 3))]
    assert sampler.pending == 0


def test_weights_do_not_change_under_a_block_that_waits():
    sampler = InTurn(Echo())
    sampler.submit(0, prompts(1), 1)
    with pytest.raises(AssertionError, match="sampled from the weights of then"):
        sampler.load(4)
    sampler.step()
    sampler.load(4)
    assert sampler.version == 4
