"""Stages of difficulty, one after another over the draws of a run.

Difficulty belongs to the draw, not to what the policy has achieved: so any worker asks the same, and a run can be
replayed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tpo_dist.components import nearest
from tpo_dist.errors import UsageError

_KEYS = ("draws", "parameters", "levels")


@dataclass(frozen=True, slots=True)
class Stage:
    """Parameters and levels that hold for some draws; hashable, so that what is made of them may be kept."""

    settings: str
    """Both as JSON."""
    draws: int | None
    """How many; None: all that follow."""

    def parameters(self) -> dict[str, Any]:
        """Values by parameter."""
        return dict(json.loads(self.settings)["parameters"])

    def levels(self) -> dict[str, int]:
        """Levels by attribute."""
        return dict(json.loads(self.settings)["levels"])


def stages_of(
    parameters: Mapping[str, Any] | None,
    levels: Mapping[str, int] | None,
    curriculum: Sequence[Mapping[str, Any]] | None,
) -> tuple[Stage, ...]:
    """The stages, each on top of what holds for all; one that goes on for ever where there is no curriculum.

    Raises UsageError for what is no stage, and where the last one ends.
    """
    found = []
    if curriculum is not None and not curriculum:
        raise UsageError("curriculum = []", "it has no stage", "leave it out, or give stages")
    for number, given in enumerate(curriculum or [{}]):
        where = f"curriculum[{number}]"
        for key in given:
            if key not in _KEYS:
                raise UsageError(f"{where}.{key}", "there is no such key of a stage", nearest(key, _KEYS))
        last, draws = number == len(curriculum or [{}]) - 1, given.get("draws")
        if last and draws is not None:
            raise UsageError(f"{where}.draws = {draws}", "the last stage goes on to the end of the run", "leave it out")
        if not last and (type(draws) is not int or draws < 1):
            raise UsageError(
                f"{where}.draws = {draws}", "every stage but the last is so many prompts long", "give them"
            )
        settings: dict[str, Any] = {}
        for key, common in (("parameters", parameters), ("levels", levels)):
            own = given.get(key) or {}
            if not isinstance(own, Mapping):
                raise UsageError(f"{where}.{key} = {own!r}", "is not keys with values", "write {name: value}")
            settings[key] = {**(common or {}), **own}
        try:
            found.append(Stage(json.dumps(settings, sort_keys=True), draws))
        except TypeError as error:
            raise UsageError(where, str(error), "give numbers, texts, lists and keys with values") from None
    return tuple(found)


def stage_of(stages: Sequence[Stage], draw: int) -> Stage:
    """The stage that a draw falls into."""
    for stage in stages:
        if stage.draws is None or draw < stage.draws:
            return stage
        draw -= stage.draws
    raise AssertionError("the last stage has no end")
