"""Ordinary training runs as curves: the local program, one seed after another, without Ray."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_dist.config import RunConfig
from tpo_dist.metrics import values
from tpo_dist.programs import local
from tpo_dist.programs.job import configure
from tpo_dist.programs.run import Run

_QUIET = {
    "log.sinks": [],
    "log.plot": False,
    "checkpoint.every_steps": 10**9,
    "rollout.workers": 1,
    "stream.max_staleness": 0,  # the paper's experiments are synchronous
}
_TIMES = ("sample_seconds", "score_seconds", "train_seconds", "learning_rate", "completion_length")
_CONSTANT = ("staleness", "staleness_max", "reward_lag_0", "ratio_ess", "groups_trained")  # in synchronous training


def training_config(options: Mapping[str, Any], steps: int, seed: int = 0) -> RunConfig:
    """The resolved configuration of one run. Raises UsageError as a job does."""
    flat = {**_QUIET, **options, "steps": steps, "seed": seed}
    flat.setdefault("rollout.block_size", flat.get("rollout.groups_per_step"))
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        at = nested
        for section in sections:
            at = at.setdefault(section, {"name": _DEFAULTS[section]} if section in _DEFAULTS else {})
        at[last] = value
    return configure(nested)


_DEFAULTS = {"task": "token_reversal", "policy": "transformer", "objective": "tpo"}


def train_curves(
    options: Mapping[str, Any], seeds: Sequence[int], steps: int, report: Callable[[int], None]
) -> list[dict[str, NDArray[np.float64]]]:
    """Every metric of every step. `options` are dotted keys of a job."""
    curves = []
    for index, seed in enumerate(seeds):
        config = training_config(options, steps, seed)
        rows: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory(prefix="tpo-study-") as folder:
            for done in local.train(Run(config, Path(folder))):
                rows.append(values(done.metrics))
                report(index * steps + done.step)
        names = dict.fromkeys(name for row in rows for name in row if name not in _TIMES + _CONSTANT)
        curve = {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
        curves.append({"step": np.arange(1.0, len(rows) + 1), **curve})
    return curves
