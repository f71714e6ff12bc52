"""What a task in words is: questions by number, and a scorer of completions.

Nothing here knows of tokens: `rollout/text_task.py` makes an ordinary task of it, and `tasks/scorer_process.py` runs
its scorer where it may be killed.
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from tpo_dist.errors import UsageError

HELD_OUT = 1 << 40
"""Draws from this number on are held-out questions: no run trains so many, so none is trained on."""

Message = Mapping[str, str]
"""`role` (system, user, assistant) and `content`, as chat templates take them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One prompt, and what its scorer needs to know."""

    prompt: str | tuple[Message, ...]
    """What is asked: a text, or the messages so far."""
    answer: Any
    """Whatever the scorer compares with; it stays in the process that made the question."""
    source: str
    """Which of the task's `sources` asked it."""


class TextTask(Protocol):
    """A source of questions and a scorer. Implementations are frozen dataclasses whose fields are the options.

    Question `i` is a pure function of (options, seed, i), so the scorer's process makes it again instead of being
    sent it. Making one of these reads no data and imports nothing heavy; `check` does.
    """

    @property
    def rewards(self) -> Mapping[str, float] | None:
        """Weights of the rewards that make a score (`tasks/rewards.py`); None: the task's own score alone."""
        ...

    @property
    def sources(self) -> tuple[str, ...]:
        """The names that questions come under: one, or those of a mixture."""
        ...

    @property
    def system_prompt(self) -> str | None:
        """What is said before each question, unless `text.system_prompt` says otherwise."""
        ...

    def member(self, source: str) -> "TextTask":
        """The task that asks under this name: itself, or one of a mixture."""
        ...

    def awaits(self) -> bool:
        """Whether `score` gives awaitables, as a judge elsewhere does; then completions are scored side by side."""
        ...

    def check(self) -> None:
        """Raise UsageError where data, packages or parameters are not what the options promise."""
        ...

    def held_out_count(self) -> int | None:
        """How many held-out questions there are; None: as many as one likes."""
        ...

    def question_count(self) -> int | None:
        """How many different questions training has; None: as many as one likes."""
        ...

    def question(self, seed: int, draw: int) -> Question:
        """The question of this draw."""
        ...

    def held_out(self, index: int) -> Question:
        """A question that no draw asks, the same for every seed. Raises UsageError where there are not so many."""
        ...

    def turns(self) -> tuple[int, ...]:
        """The draws from which on questions are of another kind, such as harder ones; 0 is the first."""
        ...

    def score(self, question: Question, completion: str) -> float | Awaitable[float]:
        """One number for a completion, higher is better, 1 is solved. May raise, hang or crash: its process is
        watched."""
        ...


class OneSource:
    """What tasks share that are no mixture, and whose scorers compute instead of waiting."""

    __slots__ = ()

    def member(self, source: str) -> Any:
        """Itself."""
        return self

    def awaits(self) -> bool:
        """No."""
        return False

    def turns(self) -> tuple[int, ...]:
        """None but the first: questions are of one kind."""
        return (0,)


def ask(task: TextTask, seed: int, draw: int) -> Question:
    """The question of a draw, or the held-out question that its number stands for."""
    return task.question(seed, draw) if draw < HELD_OUT else task.held_out(draw - HELD_OUT)


def require(module: str, package: str | None = None) -> Any:
    """A module of an optional package. Raises UsageError that names the extra where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        name = package or module.partition(".")[0]
        raise UsageError(f"import {name}", f"it is needed here and not installed ({error})", INSTALL) from None


INSTALL = "pip install 'tpo-dist[llm]'"
"""How the packages for language models come to this machine."""


def refuse_no_held_out(index: int, count: int, fix: str) -> None:
    """Raise UsageError where held-out question `index` is beyond the `count` that there are."""
    if index >= count:
        reason = f"this task has {count} held-out questions" if count else "this task has no held-out questions"
        raise UsageError(f"held-out question {index}", reason, fix)
