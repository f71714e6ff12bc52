"""Where prompts come from and how candidates are scored. Adding a task is one file and one line here."""

from tpo_dist.tasks.contexts import ContextTask
from tpo_dist.tasks.contract import Answers, Scores, Task, TokenScoring
from tpo_dist.tasks.digit_bandit import DigitBandit
from tpo_dist.tasks.judged_reversal import JudgedReversal
from tpo_dist.tasks.tabular_bandit import TabularBandit
from tpo_dist.tasks.token_reversal import TokenReversal

TASKS: dict[str, type[Task]] = {
    "token_reversal": TokenReversal,
    "judged_reversal": JudgedReversal,
    "tabular_bandit": TabularBandit,
    "digit_bandit": DigitBandit,
}

__all__ = [
    "TASKS",
    "Answers",
    "ContextTask",
    "DigitBandit",
    "JudgedReversal",
    "Scores",
    "TabularBandit",
    "Task",
    "TokenReversal",
    "TokenScoring",
]
