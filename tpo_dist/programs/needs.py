"""What a run takes of a cluster."""

import os

import torch

from tpo_dist.config import RunConfig
from tpo_dist.runtime.placement import Need
from tpo_dist.runtime.plan import NodeRoom, Placed, Seat, place


def first_workers(config: RunConfig) -> int:
    """Rollout workers that a run starts with."""
    return config.rollout.min_workers if config.rollout.workers == "auto" else config.rollout.workers


def learner_need(config: RunConfig) -> Need:
    """Of all ranks of the learner, which are on one node."""
    ranks = config.learner.ranks
    return Need(ranks * config.learner.cpus, ranks * config.learner.gpus, config.learner.resources)


def worker_need(config: RunConfig) -> Need:
    """Of a rollout worker; the evaluator takes as much."""
    return Need(config.rollout.cpus, config.rollout.gpus, config.rollout.resources)


def seats_of(config: RunConfig) -> list[Seat]:
    """Who needs room: the learner, each rollout worker, and the evaluator if there is one."""
    worker = worker_need(config)
    seats = [Seat("learner", learner_need(config), on_head=config.learner.node == "driver")]
    seats += [Seat(f"rollout-{number}", worker) for number in range(first_workers(config))]
    return seats if config.evaluation.every_steps is None else [*seats, Seat("evaluator", worker)]


def needs_of(config: RunConfig) -> list[Need]:
    """The same as amounts."""
    return [seat.need for seat in seats_of(config)]


def plan_of(config: RunConfig, nodes: list[NodeRoom]) -> list[Placed]:
    """Where each would go on these nodes, as they are now."""
    return place(seats_of(config), nodes, config.cluster.placement)


def describe_needs(config: RunConfig) -> str:
    """One line: the CPUs and GPUs asked of Ray and, where the cluster would be started here, whether it has them."""
    needs = needs_of(config)
    cpus, gpus = sum(need.cpus for need in needs), sum(need.gpus for need in needs)
    asked, learner = f"needs {cpus:g} CPU and {gpus:g} GPU", config.learner
    if learner.ranks > 1:
        asked += f", of which {learner.ranks} ranks of the learner {learner.cpus:g} CPU and {learner.gpus:g} GPU each"
    if config.cluster.address is not None:
        return f"{asked} of the cluster at {config.cluster.address}"
    has_cpus, has_gpus = config.cluster.num_cpus or os.cpu_count() or 1, torch.cuda.device_count()
    verdict = "enough" if cpus <= has_cpus and gpus <= has_gpus else "too little"
    return f"{asked}; a cluster started here has {has_cpus} CPU and {has_gpus} GPU: {verdict}"
