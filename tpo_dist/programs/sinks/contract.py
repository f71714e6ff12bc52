"""What a sink is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tpo_dist.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The run that a sink shows."""

    name: str
    folder: Path
    project: str
    """What runs that belong together have in common."""
    config: Mapping[str, Any]
    """Plain types."""
    step: int
    """The last that counts; what an earlier process wrote of later ones did not happen."""


class Sink(Protocol):
    """Shows the steps of one run. Whatever it raises is counted, and training goes on."""

    def write(self, row: Mapping[str, float], metrics: Metrics) -> None:
        """One step. `row`: its numbers by name, and `step`. `metrics`: for their histograms."""
        ...

    def go_back(self, step: int) -> None:
        """What came after that step did not happen; it is done again."""
        ...

    def close(self, status: str) -> None:
        """The run is over. `status`: completed, interrupted or failed."""
        ...


def without_passwords(text: str) -> str:
    """The text with addresses that show no name and password: clients of servers quote theirs in what they raise."""
    return re.sub(r"(\w://)[^/\s]*@", r"\1…@", text)
