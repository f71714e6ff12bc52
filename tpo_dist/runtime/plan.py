"""Where the processes of a run would go on the nodes of a cluster: plain arithmetic, without asking Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tpo_dist.runtime.placement import Need, Strategy

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """A node, and what it has to give."""

    id: str
    address: str
    kind: str
    """Its role or type: what nodes of a kind have in common."""
    head: bool
    total: Mapping[str, float]
    free: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Seat:
    """A process of a run that wants room."""

    who: str
    need: Need
    on_head: bool = False
    """Whether it has to be beside the driver, which job servers start on the head."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A process and the node that has room for it, or what is missing."""

    seat: Seat
    node: NodeRoom | None
    missing: Mapping[str, float]
    """Of each resource, how much more the node that is nearest to enough would need."""


def place(seats: Sequence[Seat], nodes: Sequence[NodeRoom], strategy: Strategy) -> list[Placed]:
    """One after another: PACK fills the node with the least room that is enough, SPREAD takes the one with the most.

    Ray decides anew when the run starts; whether there is room for all is what this tells.
    """
    free = {node.id: dict(node.free) for node in nodes}
    placed = []
    for seat in seats:
        bundle = seat.need.bundle
        allowed = [node for node in nodes if node.head or not seat.on_head]
        fitting = [node for node in allowed if not _lacks(bundle, free[node.id])]
        if not fitting:
            able = [node for node in allowed if not _lacks(bundle, node.total)]  # they are full, the others too small
            short = [_lacks(bundle, free[node.id]) for node in able or allowed]
            placed.append(Placed(seat, None, min(short, key=_much, default=bundle)))
            continue
        choose = min if strategy == "PACK" else max
        node = choose(fitting, key=lambda each: free[each.id].get("CPU", 0.0))
        for name, amount in bundle.items():
            free[node.id][name] -= amount
        placed.append(Placed(seat, node, {}))
    return placed


def missing_of(placed: Sequence[Placed]) -> dict[str, float]:
    """Of each resource, how much is missing in sum."""
    total: dict[str, float] = {}
    for each in placed:
        for name, amount in each.missing.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def _lacks(bundle: Mapping[str, float], free: Mapping[str, float]) -> dict[str, float]:
    lacking = {name: amount - free.get(name, 0.0) for name, amount in bundle.items()}
    return {name: amount for name, amount in lacking.items() if amount > _ROUNDING}


def _much(lacking: Mapping[str, float]) -> tuple[int, float]:
    return len(lacking), sum(lacking.values())
