"""Where prompts come from and how candidates are scored. Adding a task is one file and one line here."""

from tpo_dist.tasks.contract import Answers, Scores, Task, TokenScoring
from tpo_dist.tasks.token_reversal import TokenReversal

TASKS: dict[str, type[Task]] = {
    "token_reversal": TokenReversal,
}

__all__ = ["TASKS", "Answers", "Scores", "Task", "TokenReversal", "TokenScoring"]
