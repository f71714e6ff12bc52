"""The programs that run a setting: each takes options, seeds and steps, and gives the curves of every seed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tpo_dist.components import build
from tpo_dist.studies.engines.digits import DigitsBandit, simulate_digits
from tpo_dist.studies.engines.tabular import ManyContexts, OneContext, simulate_many_contexts, simulate_one_context
from tpo_dist.studies.engines.training import train_curves, training_config
from tpo_dist.tasks.digit_data import load_digits

Curves = dict[str, NDArray[np.float64]]


class Engine(Protocol):
    """A program that runs one setting for several seeds."""

    def __call__(
        self, options: Mapping[str, Any], seeds: Sequence[int], steps: int, report: Callable[[int], None], /
    ) -> Sequence[Mapping[str, NDArray[Any]]]:
        """For each seed its curves: `step` and one array for each metric. `report` is told the steps done,
        those of all seeds together."""
        ...


ENGINES: dict[str, Engine] = {
    "training": train_curves,
    "one_context": simulate_one_context,
    "many_contexts": simulate_many_contexts,
    "digits": simulate_digits,
}

SEEDS_TOGETHER: dict[str, int] = {"training": 1, "one_context": 100, "many_contexts": 20, "digits": 20}
"""Seeds that one call advances together, where that is faster: a transformer's own batch fills a core already. What a
seed gives does not depend on the seeds beside it, bit for bit."""

_OPTIONS: dict[str, type[Any]] = {"one_context": OneContext, "many_contexts": ManyContexts, "digits": DigitsBandit}


def check(engine: str, options: Mapping[str, Any], steps: int) -> None:
    """Raise UsageError where a program would refuse these options."""
    if engine == "training":
        training_config(options, steps)
    else:
        build("setting", _OPTIONS[engine], options)


def check_data(engine: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError where the images that a program is to read are missing or damaged."""
    if engine == "digits":
        wanted = build("setting", DigitsBandit, options)
        load_digits(wanted.source, wanted.path)
