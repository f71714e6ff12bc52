"""Reserving what the actors need before they start, or saying what is missing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tpo_dist.errors import UsageError


@dataclass(frozen=True, slots=True)
class Need:
    """What one actor needs."""

    cpus: float
    gpus: float

    @property
    def bundle(self) -> dict[str, float]:
        """In Ray's words, without zeros."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}


@dataclass(frozen=True, slots=True)
class Places:
    """Reserved room for each actor."""

    group: PlacementGroup | None
    needs: tuple[Need, ...]

    def options(self, index: int, threads: int) -> dict[str, Any]:
        """Options for the actor that takes place `index`; its native libraries get that many threads."""
        need = self.needs[index]
        count = str(threads)
        options: dict[str, Any] = {
            "num_cpus": need.cpus,
            "num_gpus": need.gpus,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}},
        }
        if self.group is not None and need.bundle:
            bundle = [n.bundle for n in self.needs[: index + 1] if n.bundle]
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self.group, len(bundle) - 1)
        return options


@contextmanager
def reserve(needs: list[Need], strategy: str, seconds: float, *, can_grow: bool) -> Iterator[Places]:
    """Room for all of them at once, given back at the end.

    Raises UsageError where the cluster lacks it: at once where it cannot grow, else after `seconds`.
    """
    bundles = [need.bundle for need in needs if need.bundle]
    if not bundles:
        yield Places(None, tuple(needs))
        return
    if not can_grow:
        _refuse_impossible(bundles, ray.cluster_resources())  # type: ignore[no-untyped-call]
    group = placement_group(bundles, strategy=strategy)
    try:
        if not group.wait(seconds):
            free = ray.available_resources()  # type: ignore[no-untyped-call]
            raise _missing(bundles, free, f"after {seconds:g} s the cluster still has only")
        yield Places(group, tuple(needs))
    finally:
        remove_placement_group(group)


def _refuse_impossible(bundles: list[dict[str, float]], total: Mapping[str, float]) -> None:
    for name in ("CPU", "GPU"):
        if sum(bundle.get(name, 0.0) for bundle in bundles) > total.get(name, 0.0) + 1e-9:
            raise _missing(bundles, total, "this cluster has")


def _missing(bundles: list[dict[str, float]], has: Mapping[str, float], says: str) -> UsageError:
    wanted = {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in ("CPU", "GPU")}
    asked = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
    there = " and ".join(f"{has.get(name, 0.0):g} {name}" for name, amount in wanted.items() if amount)
    return UsageError(
        f"placement of {asked} for the learner and the rollout workers",
        f"{says} {there} to give",
        "lower rollout.workers, rollout.cpus or learner.cpus, or raise cluster.num_cpus",
    )
