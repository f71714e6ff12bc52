"""What a run in words has beside the others: the tokenizer, scorers in processes, held-out questions."""

from functools import lru_cache

import numpy as np

from tpo_dist.config import RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.policies.tokenizer import load_tokenizer
from tpo_dist.rollout.scorer_pool import ScorerPool
from tpo_dist.rollout.text_task import TokenizedTask
from tpo_dist.tasks import TEXT_TASKS, Task, TextTask, build_text_task
from tpo_dist.tasks.text import HELD_OUT

_LOOKED_AT = 128
"""Held-out questions that are asked for before a run, at most."""


def in_words(config: RunConfig) -> bool:
    """Whether the run's task asks in words, so that only a language model can answer."""
    return config.task.name in TEXT_TASKS


def tokenized(config: RunConfig, words: TextTask) -> TokenizedTask:
    """The task as tokens of the run's model; its scorers do not run yet. Raises UsageError where the model has no
    tokenizer, or reads too little."""
    path, revision = config.policy.options.get("path"), config.policy.options.get("revision")
    if not isinstance(path, str):
        reason = f"task {config.task.name!r} asks in words, and this policy reads none"
        fix = "give policy.name=causal_lm policy.path=FOLDER"
        raise UsageError(f"policy.name = {config.policy.name!r}", reason, fix)
    pool = ScorerPool(config.task.name, config.task.options, config.seed, config.scoring)
    return TokenizedTask(words, load_tokenizer(path, revision), config.text, config.seed, pool)


def refuse_questions(config: RunConfig) -> None:
    """Raise UsageError where a question cannot be asked: data that is missing, a scorer that cannot be imported, a
    prompt that is too long. It reads all data, once in a process."""
    model = config.policy.options
    settings = config.model_dump_json(include={"task", "text", "seed"})
    _check(settings, str(model["path"]), model.get("revision"))


@lru_cache(maxsize=64)
def _check(settings: str, path: str, revision: str | None) -> None:
    config = RunConfig.model_validate_json(settings)
    words = build_text_task(config.task.name, config.task.options)
    pool = ScorerPool(config.task.name, config.task.options, config.seed, config.scoring)
    TokenizedTask(words, load_tokenizer(path, revision), config.text, config.seed, pool).check()


def refuse_evaluation(config: RunConfig, task: Task, *, now: bool = False) -> None:
    """Raise UsageError for evaluations that there cannot be. `now`: of one that is asked for by itself."""
    evaluation = config.evaluation
    if evaluation.samples > 1 and evaluation.temperature == 0:
        reason = "greedy completions of one question are all the same"
        fix = "give evaluation.temperature above 0, or evaluation.samples=1"
        raise UsageError(f"evaluation.samples = {evaluation.samples}", reason, fix)
    if evaluation.every_steps is None and not now:
        return
    where = f"task.name = {config.task.name!r}" if now else f"evaluation.every_steps = {evaluation.every_steps}"
    if not isinstance(task, TokenizedTask):
        raise UsageError(where, f"task {config.task.name!r} has no held-out questions", "leave it out")
    count = task.words.held_out_count()
    if count == 0:
        fix = "set task.held_out_rows or task.held_out_split" + ("" if now else ", or leave it out")
        if config.task.name == "mixture":
            fix = f"give every part of task.tasks some: {fix.replace('task.', '')}"
        raise UsageError(where, "the task has no held-out questions", fix)
    if count is not None and count < evaluation.questions:
        where = f"evaluation.questions = {evaluation.questions}"
        raise UsageError(where, f"the task has {count} held-out questions", f"give at most {count}")
    if count is None:  # made by program; all others are looked at with those of training
        task.prompts(config.seed, HELD_OUT + np.arange(min(evaluation.questions, _LOOKED_AT)))
