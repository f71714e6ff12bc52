"""Metrics that carry their own reduction, so that no name's suffix has to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self


class Metric(Protocol):
    """A number that knows how to be merged with another of its kind."""

    def merge(self, other: Self) -> Self:
        """Both observations as one."""
        ...

    @property
    def value(self) -> float:
        """What is logged."""
        ...


@dataclass(frozen=True, slots=True)
class Mean:
    """An average; merging weighs by the number of observations."""

    total: float
    count: int = 1

    def merge(self, other: "Mean") -> "Mean":
        """Average of all observations."""
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        """Average, NaN without observations."""
        return self.total / self.count if self.count else math.nan


@dataclass(frozen=True, slots=True)
class Sum:
    """A total."""

    total: float

    def merge(self, other: "Sum") -> "Sum":
        """Total of both."""
        return Sum(self.total + other.total)

    @property
    def value(self) -> float:
        """The total."""
        return self.total


@dataclass(frozen=True, slots=True)
class Max:
    """A maximum."""

    highest: float

    def merge(self, other: "Max") -> "Max":
        """The larger one."""
        return Max(max(self.highest, other.highest))

    @property
    def value(self) -> float:
        """The maximum."""
        return self.highest


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations themselves; logged by their mean, drawn whole where a sink can."""

    observations: tuple[float, ...] = field(default=())

    def merge(self, other: "Histogram") -> "Histogram":
        """All observations."""
        return Histogram(self.observations + other.observations)

    @property
    def value(self) -> float:
        """Mean, NaN without observations."""
        return sum(self.observations) / len(self.observations) if self.observations else math.nan


Metrics = Mapping[str, Mean | Sum | Max | Histogram]


def merge(parts: Sequence[Metrics]) -> dict[str, Mean | Sum | Max | Histogram]:
    """Metrics of several sources as one. Raises TypeError where one name has two kinds."""
    merged: dict[str, Mean | Sum | Max | Histogram] = {}
    for part in parts:
        for name, metric in part.items():
            known = merged.get(name)
            if known is None:
                merged[name] = metric
            elif type(known) is type(metric):
                merged[name] = known.merge(metric)  # type: ignore[arg-type]
            else:
                raise TypeError(f"metric {name!r} is a {type(known).__name__} here and a {type(metric).__name__} there")
    return merged


def values(metrics: Metrics) -> dict[str, float]:
    """What is logged of each."""
    return {name: metric.value for name, metric in metrics.items()}


def as_row(step: int, metrics: Metrics, seconds: float) -> dict[str, float]:
    """What is written down of a step; a number that is not finite is left out. `step`: steps finished with it."""
    numbers = {name: number for name, number in values(metrics).items() if math.isfinite(number)}
    return {"step": step, **numbers, "step_seconds": seconds}
