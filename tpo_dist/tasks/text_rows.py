"""A user's own questions, row by row, with a user's own scorer: `score(prompt, completion, answer) -> float`."""

from dataclasses import dataclass
from typing import Any

from tpo_dist.errors import UsageError
from tpo_dist.tasks.rewards import awaits, check_scorers, load_scorer, whole_path, whole_paths
from tpo_dist.tasks.rows import Row, is_file, load_rows, shuffled, whole_place
from tpo_dist.tasks.text import OneSource, Question, refuse_no_held_out

_ROLES = ("system", "user", "assistant", "tool", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRows(OneSource):
    """Each row a prompt, a text or a list of messages, and whatever the scorer needs to know of it."""

    path: str
    """A .jsonl, .json, .csv or .parquet file, a folder with one for each split, or a data set's name on the hub."""
    scorer: str
    """The function: file.py:name or package.module:name, plain or async; or answer_tag, think_answer_tags."""
    prompt_field: str = "prompt"
    """Of a row; the prompt is a text, or a list of messages with role and content."""
    answer_field: str | None = "answer"
    """Of a row; null: the scorer gets the whole row."""
    split: str = "train"
    """Which rows are trained on, where the path is no single file."""
    held_out_split: str | None = None
    """Which rows are held out, where the path is no single file; null: none, or those of held_out_rows."""
    held_out_rows: int = 0
    """So many rows at the end are held out and never trained on."""
    subset: str | None = None
    """The configuration of a data set on the hub, where it has several."""
    system: str | None = None
    """Said before each prompt."""
    rewards: dict[str, float] | None = None
    """Weights of the rewards that make the score: task is this task's own, the others answer_tag, think_answer_tags, or
    functions by path (file.py:name); null: this task's own"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", whole_place(self.path))
        object.__setattr__(self, "scorer", whole_path(self.scorer))
        object.__setattr__(self, "rewards", whole_paths(self.rewards))
        if self.held_out_rows < 0:
            reason = "there cannot be fewer than none"
            raise UsageError(f"held_out_rows = {self.held_out_rows}", reason, "give 0 or more")
        if self.held_out_rows and self.held_out_split is not None:
            reason = f"held_out_split = {self.held_out_split!r} already says which rows are held out"
            raise UsageError(f"held_out_rows = {self.held_out_rows}", reason, "give one of the two")

    @property
    def sources(self) -> tuple[str, ...]:
        """text."""
        return ("text",)

    @property
    def system_prompt(self) -> str | None:
        """As given."""
        return self.system

    def awaits(self) -> bool:
        """Whether the scorer is `async`."""
        return awaits(load_scorer(self.scorer))

    def check(self) -> None:
        """Raise UsageError where the scorer cannot be imported, or a row is no question."""
        load_scorer(self.scorer)
        check_scorers(self)
        self._refuse_same_rows()
        rows = self._rows(self.split)
        if self.held_out_rows >= len(rows):
            where = f"task.held_out_rows = {self.held_out_rows}"
            raise UsageError(where, f"there are {len(rows)} rows, and none would be left to train on", "hold out fewer")
        for split in (self.split, self.held_out_split):
            for number, row in enumerate(self._rows(split) if split is not None else (), start=1):
                _refuse_prompt(row[self.prompt_field], f"{self.path}, row {number}, field {self.prompt_field!r}")

    def held_out_count(self) -> int | None:
        """The rows of that split, or those set aside."""
        return len(self._rows(self.held_out_split)) if self.held_out_split is not None else self.held_out_rows

    def question_count(self) -> int | None:
        """The rows that are trained on."""
        return len(self._rows(self.split)) - self.held_out_rows

    def question(self, seed: int, draw: int) -> Question:
        """A row that is not held out; each once in every epoch."""
        rows = self._rows(self.split)
        return self._ask(rows[shuffled(seed, draw, len(rows) - self.held_out_rows)])

    def held_out(self, index: int) -> Question:
        """A row that is held out. Raises UsageError where there are not so many."""
        count = self.held_out_count()
        assert count is not None
        refuse_no_held_out(index, count, "set task.held_out_rows, or task.held_out_split, or ask for fewer")
        if self.held_out_split is not None:
            return self._ask(self._rows(self.held_out_split)[index])
        rows = self._rows(self.split)
        return self._ask(rows[len(rows) - self.held_out_rows + index])

    def score(self, question: Question, completion: str) -> Any:
        """Whatever the user's function gives, an awaitable where it is `async`."""
        return load_scorer(self.scorer)(question.prompt, completion, question.answer)

    def _refuse_same_rows(self) -> None:
        where = f"task.held_out_split = {self.held_out_split!r}"
        if self.held_out_split is not None and is_file(self.path):
            reason = f"{self.path} is one file, of which all rows would be trained on and held out"
            raise UsageError(where, reason, "give task.held_out_rows, or a folder with a file for each split")
        if self.held_out_split == self.split:
            raise UsageError(where, "these rows are trained on", "name another split, or give task.held_out_rows")

    def _rows(self, split: str) -> tuple[Row, ...]:
        fields = None if self.answer_field is None else (self.prompt_field, self.answer_field)
        return load_rows(self.path, split, (self.prompt_field,), fields, self.subset)

    def _ask(self, row: Row) -> Question:
        prompt = row[self.prompt_field]
        asked = prompt if isinstance(prompt, str) else tuple(prompt)
        answer = row if self.answer_field is None else row[self.answer_field]
        return Question(prompt=asked, answer=answer, source="text")


def _refuse_prompt(prompt: Any, where: str) -> None:
    """Raise UsageError for anything but a text, or messages of which the last is not the assistant's."""
    if isinstance(prompt, str) and prompt.strip():
        return
    fix = "give a text, or messages such as [{role: user, content: ...}]"
    if not isinstance(prompt, list | tuple) or not prompt:
        raise UsageError(where, f"is a {type(prompt).__name__} that asks nothing", fix)
    for message in prompt:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise UsageError(where, "has a message without content", fix)
        if message.get("role") not in _ROLES:
            raise UsageError(
                where, f"has a message of role {message.get('role')!r}", f"give one of {', '.join(_ROLES)}"
            )
    if prompt[-1]["role"] == "assistant":
        reason = "ends with what the assistant said, and it would be asked to say something else"
        raise UsageError(where, reason, "end with a message of the user")
