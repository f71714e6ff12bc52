"""Where prompts come from and how candidates are scored. Adding a task is one file and one line here."""

from collections.abc import Mapping
from typing import Any

from tpo_dist.components import build, lookup
from tpo_dist.tasks.contexts import ContextTask
from tpo_dist.tasks.contract import Answers, Defect, GroupScores, GroupScoring, Legible, Scores, Task, TokenScoring
from tpo_dist.tasks.digit_bandit import DigitBandit
from tpo_dist.tasks.gsm8k import GSM8K
from tpo_dist.tasks.judged_reversal import JudgedReversal
from tpo_dist.tasks.mixture import Mixture
from tpo_dist.tasks.reasoning_gym import ReasoningGym
from tpo_dist.tasks.tabular_bandit import TabularBandit
from tpo_dist.tasks.text import TextTask
from tpo_dist.tasks.text_rows import TextRows
from tpo_dist.tasks.token_reversal import TokenReversal

TASKS: dict[str, type[Task]] = {
    "token_reversal": TokenReversal,
    "judged_reversal": JudgedReversal,
    "tabular_bandit": TabularBandit,
    "digit_bandit": DigitBandit,
}

TEXT_TASKS: dict[str, type[TextTask]] = {
    "gsm8k": GSM8K,
    "reasoning_gym": ReasoningGym,
    "text": TextRows,
    "mixture": Mixture,
}
"""Tasks in words; a language model answers them."""


def build_text_task(name: str, options: Mapping[str, Any], section: str = "task") -> TextTask:
    """A task in words from its options. Raises UsageError for a name that there is not and options that it refuses."""
    return build(section, lookup(section, name, TEXT_TASKS), options, others=TEXT_TASKS)


__all__ = [
    "GSM8K",
    "TASKS",
    "TEXT_TASKS",
    "Answers",
    "ContextTask",
    "Defect",
    "DigitBandit",
    "GroupScores",
    "GroupScoring",
    "JudgedReversal",
    "Legible",
    "Mixture",
    "ReasoningGym",
    "Scores",
    "TabularBandit",
    "Task",
    "TextRows",
    "TextTask",
    "TokenReversal",
    "TokenScoring",
    "build_text_task",
]
