"""Several tasks in one run, each asked as often as its weight says."""

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tpo_dist.components import nearest
from tpo_dist.errors import UsageError
from tpo_dist.randomness import draw_uniforms
from tpo_dist.tasks.rewards import reward_names
from tpo_dist.tasks.text import Question, TextTask

_MOST, _LONGEST_NAME = 64, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Draw by draw, one of the tasks is drawn by weight; the metrics tell them apart by their names here."""

    tasks: dict[str, dict[str, Any]]
    """Tasks by a name of your choice, each {name: ..., weight: 1.0, and its own options}."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.tasks) <= _MOST:
            raise UsageError(f"tasks with {len(self.tasks)} entries", "a mixture is of 1 to 64 tasks", "give so many")
        for label, given in self.tasks.items():
            where, weight = f"tasks.{label}", given.get("weight", 1.0)
            if not label.replace("_", "").replace("-", "").isalnum() or len(label) > _LONGEST_NAME:
                reason = "it names a metric, and is not letters, digits, _ and - alone, or longer than 64"
                raise UsageError(where, reason, "give it another name")
            if type(weight) not in (int, float) or not 0 < weight < math.inf:
                raise UsageError(f"{where}.weight = {weight!r}", "a weight is a number above 0", "give one")
            self.member(label)

    @property
    def rewards(self) -> None:
        """None: each task has its own."""
        return None

    @property
    def sources(self) -> tuple[str, ...]:
        """The names given here."""
        return tuple(self.tasks)

    @property
    def system_prompt(self) -> str | None:
        """The one that all tasks share. Raises UsageError where they have several: then `text.system_prompt` has to
        say which."""
        prompts = {self.member(label).system_prompt for label in self.tasks}
        if len(prompts) > 1:
            reason = "the tasks of the mixture have system prompts of their own, and a run has one"
            fix = "give text.system_prompt, or the same instructions to each of the tasks"
            raise UsageError("text.system_prompt = null", reason, fix)
        return prompts.pop()

    def member(self, source: str) -> TextTask:
        """The task of that name. Raises UsageError for options that it refuses."""
        where = f"tasks.{source}"
        try:
            return _member(where, json.dumps(self.tasks[source]))
        except TypeError as error:
            raise UsageError(where, str(error), "give numbers, texts, lists and keys with values") from None

    def awaits(self) -> bool:
        """Whether any task's scorer does."""
        return any(self.member(label).awaits() for label in self.tasks)

    def check(self) -> None:
        """Raise UsageError where one of the tasks does."""
        for label in self.tasks:
            reward_names(self.member(label))
            self.member(label).check()

    def held_out_count(self) -> int | None:
        """Enough of every task: the smallest count, times the number of tasks; None where all have any number."""
        counts = [self.member(label).held_out_count() for label in self.tasks]
        known = [count for count in counts if count is not None]
        return min(known) * len(counts) if known else None

    def question_count(self) -> int | None:
        """The sum of those of the tasks; None where one has any number."""
        counts = [self.member(label).question_count() for label in self.tasks]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def question(self, seed: int, draw: int) -> Question:
        """The question that one of the tasks has for this draw."""
        weights = np.array([float(given.get("weight", 1.0)) for given in self.tasks.values()])
        bounds = np.cumsum(weights) / weights.sum()
        uniform = draw_uniforms(seed, "mixture", np.array([draw]), 1)[0, 0]
        return self._of(int(np.searchsorted(bounds[:-1], uniform, side="right")), seed, draw)

    def held_out(self, index: int) -> Question:
        """The tasks in turn, whatever their weights."""
        turn, place = index % len(self.tasks), index // len(self.tasks)
        label = list(self.tasks)[turn]
        found = self.member(label).held_out(place)
        return Question(prompt=found.prompt, answer=found.answer, source=label)

    def turns(self) -> tuple[int, ...]:
        """Those of all tasks."""
        return tuple(sorted({turn for label in self.tasks for turn in self.member(label).turns()}))

    def score(self, question: Question, completion: str) -> Any:
        """The score of the task that asked."""
        return self.member(question.source).score(question, completion)

    def _of(self, number: int, seed: int, draw: int) -> Question:
        label = list(self.tasks)[number]
        found = self.member(label).question(seed, draw)
        return Question(prompt=found.prompt, answer=found.answer, source=label)


@lru_cache(maxsize=256)
def _member(where: str, settings: str) -> TextTask:
    """Built once: questions ask for it draw by draw."""
    from tpo_dist.tasks import TEXT_TASKS, build_text_task  # the registry holds the mixture too

    given = json.loads(settings)
    known = [name for name in TEXT_TASKS if name != "mixture"]
    if given.get("name") not in known:
        reason = "is not a task in words that a mixture can hold"
        fix = nearest(str(given.get("name")), known)
        raise UsageError(f"{where}.name = {given.get('name')!r}", reason, fix)
    options = {key: value for key, value in given.items() if key not in ("name", "weight")}
    return build_text_task(str(given["name"]), options, where)
