"""What a study is: settings to run over seeds, numbers to report beside the paper's, and a figure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

LAST_STEPS = 20
"""A final value is the mean over this many last steps."""

Labels = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One cell of a study: everything but the seed."""

    labels: Labels
    """What tells it from the others; `method` is always among them. No commas: `--only` and `--where` list values."""
    engine: str
    """Which program runs it, by name (`engines/`)."""
    options: Mapping[str, Any]
    """Of that program: for `training`, dotted keys of a job."""
    steps: int
    paper: Mapping[str, float] = field(default_factory=dict)
    """The paper's figure for a reported number, by its name; infinite where the paper says never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """One number per run, taken from a curve."""

    name: str
    curve: str = "error"
    kind: Literal["final", "steps_to", "highest_after", "reached", "at"] = "final"
    """final: mean of the last measurements. at: the measurement at `step`. steps_to: first step under the threshold,
    never if it stays above. reached: 1 where the final value is under the threshold, else 0. highest_after: the largest
    value after the curve first fell under the threshold."""
    threshold: float = 0.01
    last: int = LAST_STEPS
    """Measurements that a final value is the mean of."""
    step: int = 0
    scale: float = 1.0
    """Multiplies the number; 100 makes a fraction a percentage."""
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Learning curves in a grid of panels, or a reported number against a label."""

    kind: Literal["curves", "sweep"] = "curves"
    panels: tuple[str, ...] = ()
    """Labels that tell panels apart."""
    lines: tuple[str, ...] = ("method",)
    """Labels that tell lines apart."""
    curves: tuple[str, ...] = ("error",)
    """curves: one row of panels for each."""
    x: str = "step"
    """sweep: the label on the horizontal axis."""
    log: bool = False
    x_log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A named experiment."""

    name: str
    title: str
    source: str
    """Where the paper has it, or that it is ours."""
    seeds: int
    """Of the full study."""
    settings: tuple[Setting, ...]
    reported: tuple[Reported, ...]
    figures: tuple[Figure, ...]
    rows: tuple[str, ...] = ("method",)
    """Labels that tell the table's rows apart; the others become columns."""
    note: str = ""
    """What a reader should know about the protocol."""

    def __post_init__(self) -> None:
        names = [tuple(sorted(setting.labels.items())) for setting in self.settings]
        assert len(set(names)) == len(names), f"{self.name}: two settings have the same labels"
        assert not any("," in f"{name}{value}" for pairs in names for name, value in pairs), f"{self.name}: a comma"


def labels(study: Study) -> dict[str, list[str]]:
    """Every label with the values that tell the study's settings apart."""
    found: dict[str, list[str]] = {}
    for setting in study.settings:
        for name, value in setting.labels.items():
            values = found.setdefault(name, [])
            if str(value) not in values:
                values.append(str(value))
    return found


REHEARSAL_BELOW = 0.05
"""A smaller budget only exercises the path: a handful of steps on a handful of prompts, in seconds."""
_REHEARSAL_STEPS, _REHEARSAL_PROMPTS = 2, 4


def within_budget(setting: Setting, budget: float) -> Setting:
    """The setting with its steps multiplied by `budget`; a rehearsal below 0.05.

    Learning rates are constant, so a smaller budget is the beginning of the same curve.
    """
    if budget >= REHEARSAL_BELOW:
        return replace(setting, steps=max(1, math.ceil(setting.steps * budget)))
    options = dict(setting.options)
    if setting.engine == "training":
        options["rollout.groups_per_step"] = _REHEARSAL_PROMPTS
    return replace(setting, steps=min(setting.steps, _REHEARSAL_STEPS), options=options, paper={})
