"""GSM8K: grade-school mathematics with one number as the answer (Cobbe et al. 2021, arXiv 2110.14168)."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from tpo_dist.errors import UsageError
from tpo_dist.tasks.extraction import flexible_number, marked_number
from tpo_dist.tasks.math_answers import same_mathematics
from tpo_dist.tasks.rewards import check_scorers, whole_paths
from tpo_dist.tasks.rows import load_rows, shuffled, whole_place
from tpo_dist.tasks.text import OneSource, Question, refuse_no_held_out, require

_FIELDS = ("question", "answer")
_INSTRUCTION = 'Let\'s think step by step and output the final answer after "####".'


@dataclass(frozen=True, slots=True, kw_only=True)
class GSM8K(OneSource):
    """7,473 questions to train on, in another order each epoch, and 1,319 held out; 1 for the right number, else 0."""

    path: str = "openai/gsm8k"
    """A folder with train and test as .jsonl or .parquet, or the data set's name on the hub."""
    accept: Literal["marker", "flexible", "math"] = "marker"
    """marker: one number behind the last ####, nothing else on that line (exact match). flexible: the last number of
    that line, else of the last box, else of all. math: or whatever math-verify takes for equal, such as fractions."""
    instruction: str = _INSTRUCTION
    """Said after each question."""
    rewards: dict[str, float] | None = None
    """Weights of the rewards that make the score: task is this task's own, the others answer_tag, think_answer_tags, or
    functions by path (file.py:name); null: this task's own"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", whole_place(self.path))
        object.__setattr__(self, "rewards", whole_paths(self.rewards))

    @property
    def sources(self) -> tuple[str, ...]:
        """gsm8k."""
        return ("gsm8k",)

    @property
    def system_prompt(self) -> str | None:
        """None."""
        return None

    def check(self) -> None:
        """Raise UsageError where the data is not there, or has a row without a number behind the marker."""
        check_scorers(self)
        if self.accept == "math":
            require("math_verify", "math-verify")
        for split in ("train", "test"):
            for number, row in enumerate(self._rows(split), start=1):
                self._ask(row, f"{self.path}, row {number} of {split}")

    def held_out_count(self) -> int | None:
        """The rows of the test split."""
        return len(self._rows("test"))

    def question_count(self) -> int | None:
        """The rows of the training split."""
        return len(self._rows("train"))

    def question(self, seed: int, draw: int) -> Question:
        """A row of the training split; every row once in each epoch."""
        rows = self._rows("train")
        row = shuffled(seed, draw, len(rows))
        return self._ask(rows[row], f"{self.path}, row {row + 1} of train")

    def held_out(self, index: int) -> Question:
        """A row of the test split. Raises UsageError beyond its end."""
        rows = self._rows("test")
        refuse_no_held_out(index, len(rows), f"ask for at most {len(rows)}")
        return self._ask(rows[index], f"{self.path}, row {index + 1} of test")

    def score(self, question: Question, completion: str) -> float:
        """1 where the completion's answer is the right number, else 0."""
        found = flexible_number(completion) if self.accept == "flexible" else marked_number(completion)
        if self.accept == "math" and found is None:
            return float(same_mathematics(str(question.answer), completion))
        return float(found is not None and found == question.answer)

    def _rows(self, split: str) -> tuple[dict[str, str], ...]:
        return load_rows(self.path, split, _FIELDS, _FIELDS, "main" if self.path == "openai/gsm8k" else None)

    def _ask(self, row: dict[str, str], where: str) -> Question:
        answer: Decimal | None = marked_number(str(row["answer"]))
        if answer is None:
            reason = "its answer has no number behind ####"
            raise UsageError(where, reason, 'write answers as "... #### 18", or use the task text with a scorer')
        asked = f"{str(row['question']).strip()} {self.instruction}".strip()
        return Question(prompt=asked, answer=answer, source="gsm8k")
