"""What the ranks of a learner do in tests; in a module of its own, so that their processes can import it."""

import os

import torch
import torch.distributed as dist

from tests.objective.batches import make_objective
from tpo_dist.learner.checkpoint_tensors import optimizer_state
from tpo_dist.learner.learner import Learner
from tpo_dist.learner.team import Leader
from tpo_dist.policies.causal_lm import CausalLMOptions


def lead(seconds, make):
    """A team of two. An engine that another test had in this process may have left its group behind."""
    if dist.is_initialized():
        dist.destroy_process_group()
    return Leader(2, "cpu", 1, seconds, 120.0, make)


def begin(learner, folder, config, options, team=None):
    """A learner at step 0, in the place of what it was."""
    policy = CausalLMOptions(path=folder, **options).load(1.0, 0)
    objective = make_objective("tpo", group_distribution="ratio")
    Learner.__init__(learner, policy, objective, config, 100, remember=3, team=team or learner.team)


def make(folder, config, team):
    """A learner of all weights."""
    learner = Learner.__new__(Learner)
    begin(learner, folder, config, {}, team)
    return learner


def divided(learner):
    """Numbers that this rank has of the weights and of the optimizer's moments, and how many there are in all."""
    tensors = [*learner.policy.parameters(), *optimizer_state(learner).values()]
    tensors = [tensor for tensor in tensors if tensor.ndim > 0]
    return sum(tensor.to_local().numel() for tensor in tensors), sum(tensor.numel() for tensor in tensors)


def nothing(team):
    """In the place of a learner."""
    if os.environ.get("FAILING_RANK") == str(team.rank):
        raise ValueError("no room for the weights")
    return team


def count(team):
    """How many ranks there are, by a collective."""
    return team.total(torch.ones(1)).item()


def fail(team):
    """On the second rank only, before a collective that the first waits for."""
    if team.rank == 1:
        raise ValueError("the weights are gone")
    return count(team)
