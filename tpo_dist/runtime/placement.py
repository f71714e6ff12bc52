"""Whether the cluster has room for what a run needs, and where its actors go."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tpo_dist.errors import UsageError
from tpo_dist.process import SAY_SECONDS
from tpo_dist.supervision import WARN_AT

_log = logging.getLogger(__name__)

Strategy = Literal["PACK", "SPREAD"]


@dataclass(frozen=True, slots=True)
class Need:
    """What one actor needs."""

    cpus: float
    gpus: float
    resources: Mapping[str, float] = field(default_factory=dict)
    """Of a cluster's own making, by which it tells its nodes apart."""

    @property
    def bundle(self) -> dict[str, float]:
        """In Ray's words, without zeros."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        return {name: amount for name, amount in amounts.items() if amount}

    def options(self, threads: int, strategy: Strategy) -> dict[str, Any]:
        """Options of an actor with this need; its native libraries get that many threads.

        Each actor is placed by itself, so that it can come and go while the run goes on, and can be replaced on
        another node; one that finds no room waits for it, which is what Ray's autoscaler goes by.
        """
        count = str(threads)
        environment = {
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),  # vLLM's start warns of NUMA nodes
        }
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "resources": dict(self.resources),
            "scheduling_strategy": "SPREAD" if strategy == "SPREAD" else "DEFAULT",
            "runtime_env": {"env_vars": environment},
        }


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """For an actor that reads and writes the run's folder beside the driver."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def check_room(needs: list[Need], strategy: Strategy, seconds: float, *, can_grow: bool) -> None:
    """Return when the cluster has room for all of them at once.

    Raises UsageError where it lacks that: at once where it cannot grow, else after `seconds`.
    """
    bundles = [need.bundle for need in needs if need.bundle]
    if not bundles:
        return
    if not can_grow:
        _refuse_impossible(bundles, ray.cluster_resources())  # type: ignore[no-untyped-call]
    group, soon = placement_group(bundles, strategy=strategy), WARN_AT * seconds
    first = min(SAY_SECONDS, soon)
    try:
        if group.wait(first):
            return
        for level, passed, until in ((logging.INFO, first, soon), (logging.WARNING, soon, seconds)):
            free = ray.available_resources()  # type: ignore[no-untyped-call]
            wanted, there = _amounts(bundles, free)
            _log.log(level, "waiting for %.3g s of %.3g s for room: %s, and %s is free", passed, seconds, wanted, there)
            if group.wait(until - passed):
                return
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        raise _missing(bundles, free, f"after {seconds:g} s the cluster still has only")
    finally:
        remove_placement_group(group)


def _refuse_impossible(bundles: list[dict[str, float]], total: Mapping[str, float]) -> None:
    for name in {name: None for bundle in bundles for name in bundle}:
        if sum(bundle.get(name, 0.0) for bundle in bundles) > total.get(name, 0.0) + 1e-9:
            raise _missing(bundles, total, "this cluster has")


def _missing(bundles: list[dict[str, float]], has: Mapping[str, float], says: str) -> UsageError:
    asked, there = _amounts(bundles, has)
    return UsageError(
        f"placement of {asked} for the learner and the rollout workers",
        f"{says} {there} to give",
        "lower rollout.workers, rollout.cpus or learner.cpus, or raise cluster.num_cpus",
    )


def _amounts(bundles: list[dict[str, float]], has: Mapping[str, float]) -> tuple[str, str]:
    """What they need, and what there is of it, in words."""
    wanted = {name: 0.0 for bundle in bundles for name in bundle}
    for bundle in bundles:
        for name, amount in bundle.items():
            wanted[name] += amount
    asked = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items())
    return asked, " and ".join(f"{has.get(name, 0.0):g} {name}" for name in wanted)
