"""What a run takes of a cluster."""

import os

import torch

from tpo_dist.config import RunConfig
from tpo_dist.runtime.placement import Need


def first_workers(config: RunConfig) -> int:
    """Rollout workers that a run starts with."""
    return config.rollout.min_workers if config.rollout.workers == "auto" else config.rollout.workers


def needs_of(config: RunConfig) -> list[Need]:
    """Room for the learner, then for each rollout worker, and the evaluator if there is one, which takes as much."""
    count = first_workers(config) + (config.evaluation.every_steps is not None)
    workers = [Need(config.rollout.cpus, config.rollout.gpus)] * count
    return [learner_need(config), *workers]


def learner_need(config: RunConfig) -> Need:
    """Room for all ranks of the learner, which are on one node."""
    ranks = config.learner.ranks
    return Need(ranks * config.learner.cpus, ranks * config.learner.gpus)


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
