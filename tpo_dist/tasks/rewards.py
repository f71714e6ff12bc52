"""How a completion's rewards make its score: a task's own, those that come with the program, and a user's functions.

`rewards: {task: 0.9, answer_tag: 0.1, "judge.py:tone": 0.5}` gives weights; the score is the weighted mean. A user's
function is `score(prompt, completion, answer) -> float`, plain or `async`.
"""

import contextlib
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tpo_dist.components import nearest
from tpo_dist.errors import UsageError
from tpo_dist.process import TookTooLong, time_limit
from tpo_dist.tasks.text import Question, TextTask

OWN = "task"
"""The name of a task's own score among the rewards."""
IMPORT_SECONDS = 300.0
"""For a user's file or module to be imported, with the models that it may load meanwhile."""
_LARGEST = float(np.finfo(np.float32).max)  # in which scores travel
Scorer = Callable[[Any, str, Any], float | Awaitable[float]]
"""`score(prompt, completion, answer)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What a completion came to."""

    score: float
    """Finite, or it would not be a grade."""
    parts: Mapping[str, float]
    """Each reward by name, before weighing; empty where the task's own score is all there is."""


class NoScore(Exception):
    """A scorer returned what is no score; `cause` is one of few short texts."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def answer_tag(prompt: Any, completion: str, answer: Any) -> float:
    """1 where the completion ends with its only `<answer>...</answer>`, something in it; else 0."""
    text = completion.strip()
    once = text.count("<answer>") == text.count("</answer>") == 1 and text.endswith("</answer>")
    return float(once and bool(text[text.find("<answer>") + len("<answer>") : -len("</answer>")].strip()))


def think_answer_tags(prompt: Any, completion: str, answer: Any) -> float:
    """1 where the completion is one `<think>...</think>` and then one `<answer>...</answer>`, nothing else; else 0."""
    text = completion.strip()
    head, close, rest = text.partition("</think>")
    thought = text.count("<think>") == text.count("</think>") == 1 and head.startswith("<think>") and bool(close)
    fits = thought and rest.strip().startswith("<answer>") and "<answer>" not in head
    return float(fits and answer_tag(prompt, rest, answer) == 1.0)


REWARDS: dict[str, Scorer] = {
    "answer_tag": answer_tag,
    "think_answer_tags": think_answer_tags,
}
"""Rewards that come with the program; every other name is a task's own score or the path of a user's function."""


class Judge:
    """The scorers of a task, as the scorer's process holds them."""

    def __init__(self, task: TextTask) -> None:
        """Raises UsageError where a reward's function cannot be had."""
        self._members = {source: task.member(source) for source in task.sources}
        weights = {source: dict(member.rewards or {OWN: 1.0}) for source, member in self._members.items()}
        self._weights = weights
        self._named = {source: reward_names(member) for source, member in self._members.items()}
        names = {name for each in weights.values() for name in each if name != OWN}
        self._scorers = {name: load_scorer(name) for name in sorted(names)}

    @property
    def concurrent(self) -> bool:
        """Whether completions are to be scored side by side: a scorer of theirs waits for something elsewhere."""
        own = any(OWN in self._weights[source] and member.awaits() for source, member in self._members.items())
        return own or any(awaits(scorer) for scorer in self._scorers.values())

    async def grade(self, question: Question, completion: str) -> Grade:
        """The grade of one completion. Raises NoScore, and whatever a scorer raises."""
        member, weights = self._members[question.source], self._weights[question.source]
        parts, total = {}, 0.0
        for name, weight in weights.items():
            if name == OWN:
                found = member.score(question, completion)
            else:
                found = self._scorers[name](question.prompt, completion, question.answer)
            number = as_score(await found if inspect.isawaitable(found) else found)
            total += weight * number
            if member.rewards is not None:
                parts[self._named[question.source][name]] = number
        return Grade(score=as_score(total / sum(weights.values())), parts=parts)


def reward_names(task: TextTask) -> dict[str, str]:
    """A short name for each reward in the metrics. Raises UsageError where two would be the same."""
    named: dict[str, str] = {}
    for name in task.rewards or {}:
        short = name.rpartition(":")[2] if ":" in name else name.rpartition(".")[2]
        if short in named.values():
            reason = f"two of them would be called {short!r} in the metrics"
            raise UsageError(f"task.rewards = {list(task.rewards or {})}", reason, "give one function another name")
        named[name] = short
    return named


def part_names(task: TextTask) -> tuple[str, ...]:
    """The short names of all rewards that are combined, those of every member of a mixture."""
    found = [short for source in task.sources for short in reward_names(task.member(source)).values()]
    return tuple(dict.fromkeys(found))


def awaits(scorer: Scorer) -> bool:
    """Whether a function, or an object with a call, is `async`."""
    return inspect.iscoroutinefunction(scorer) or inspect.iscoroutinefunction(type(scorer).__call__)


def check_rewards(rewards: Mapping[str, float] | None) -> None:
    """Raise UsageError for weights that make no mean. Functions are looked for by `check_scorers`."""
    if rewards is None:
        return
    if not rewards:
        raise UsageError("rewards = {}", "no reward makes no score", f"give weights, such as {{{OWN}: 1.0}}")
    for name, weight in rewards.items():
        if not 0 < weight < math.inf:
            raise UsageError(f"rewards.{name} = {weight}", "a weight is a number above 0", "give one, or leave it out")


def check_scorers(task: TextTask) -> None:
    """Raise UsageError where a reward's function cannot be imported or takes other arguments."""
    reward_names(task)
    for name in task.rewards or {}:
        if name != OWN:
            load_scorer(name)


def as_score(value: object) -> float:
    """The number that a scorer returned, where True is 1. Raises NoScore for anything but one that is finite, in
    float32 too."""
    if not isinstance(value, Real):
        item = getattr(value, "item", None)
        value = item() if callable(item) and getattr(value, "shape", None) == () else value  # a tensor of one number
    if not isinstance(value, Real):
        kind = type(value).__name__[:80]
        raise NoScore(f"scorer returned {kind}", f"the scorer returned {str(value)[:200]!r}; expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= _LARGEST:
        raise NoScore("score is not finite", f"the scorer returned {str(value)[:200]}")
    return number


def whole_path(path: str) -> str:
    """`file.py:name` with the file's place spelled out, so that processes in other folders find it too."""
    place, _, name = path.rpartition(":")
    here = Path(os.path.expanduser(place))
    return f"{here.resolve()}:{name}" if place.endswith(".py") and here.is_file() else path


def whole_paths(rewards: Mapping[str, float] | None) -> dict[str, float] | None:
    """The same for every reward that is a file's function. Raises UsageError for weights that make no mean."""
    check_rewards(rewards)
    return None if rewards is None else {whole_path(name): weight for name, weight in rewards.items()}


@lru_cache(maxsize=64)
def load_scorer(path: str) -> Scorer:
    """A function by `package.module:name`, `file.py:name`, or a name of `REWARDS`. Raises UsageError, naming what is
    not there, where it cannot be imported, is no function, or takes other arguments than three."""
    where = f"scorer {path!r}"
    if path in REWARDS:
        return REWARDS[path]
    place, colon, name = path.rpartition(":")
    if path.endswith(".py"):
        raise UsageError(where, "names a file, and no function in it", f"write {path}:score, if that is its name")
    if not colon:
        place, _, name = path.rpartition(".")
    if not place or not name.isidentifier():
        known = nearest(path, [OWN, *REWARDS])
        raise UsageError(where, "is neither a known reward nor a function's path", f"write file.py:function; {known}")
    with contextlib.redirect_stdout(sys.stderr):  # whose other output may be promised to one JSON value
        module = _load_file(where, Path(place)) if place.endswith(".py") else _load_module(where, place)
    found = getattr(module, name, None)
    if found is None:
        functions = [each for each, value in vars(module).items() if inspect.isfunction(value)]
        raise UsageError(where, f"there is no {name} in {place}", nearest(name, functions))
    fix = "write a function score(prompt, completion, answer) that returns a number"
    if not callable(found) or inspect.isclass(found):
        kind = "class" if inspect.isclass(found) else type(found).__name__
        raise UsageError(where, f"is a {kind}, not a function", fix)
    try:
        inspect.signature(found).bind("prompt", "completion", "answer")
    except TypeError as error:
        raise UsageError(where, f"does not take prompt, completion and answer ({error})", fix) from None
    except ValueError:  # a builtin without a signature: calling it will tell
        pass
    scorer: Scorer = found
    return scorer


def _load_file(where: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(where, f"there is no file {path.absolute()}", "give its path, from the folder that you are in")
    name = f"tpo_dist_scorer_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None, "a file that ends in .py has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles in it look for their module there
    with _importing(where, str(path), "correct the file"):
        spec.loader.exec_module(module)
    return module


def _load_module(where: str, name: str) -> ModuleType:
    with _importing(where, f"module {name}", "install or correct it"):
        return importlib.import_module(name)


@contextlib.contextmanager
def _importing(where: str, what: str, fix: str) -> Iterator[None]:
    """A user's code runs in the block. Raises UsageError for whatever it raises, and where it does not end."""
    try:
        with time_limit(IMPORT_SECONDS, f"{what} to be imported"):
            yield
    except TookTooLong:
        reason = f"{what} was still being imported after {IMPORT_SECONDS:g} s"
        raise UsageError(where, reason, "do what takes long in the function, not where the file is imported") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001  # it may raise anything
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UsageError(where, f"{what} cannot be imported ({said})", fix) from None
