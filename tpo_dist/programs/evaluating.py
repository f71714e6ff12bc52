"""A run's newest weights, or a model as it is, before held-out questions: in this process, without Ray."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo_dist.config import RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.evaluation import Evaluation, evaluate
from tpo_dist.learner.checkpoint import list_checkpoints, load_checkpoint
from tpo_dist.metrics import Metrics
from tpo_dist.programs.folder import find_run, holds_model
from tpo_dist.programs.job import configure, load_job
from tpo_dist.programs.parts import alone, make_learner, make_sampler, make_task
from tpo_dist.programs.ready import refuse_unready
from tpo_dist.programs.words import in_words, refuse_evaluation
from tpo_dist.records import Snapshot
from tpo_dist.rollout.text_task import TokenizedTask


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be evaluated."""

    name: str
    config: RunConfig
    checkpoint: Path | None
    """Whose weights; None: those that training would begin with."""


def find_subject(target: str, job: str | None, overrides: Sequence[str], runs_dir: str, step: int | None) -> Subject:
    """A run by its folder or name, at its newest checkpoint or that of `step`; or a model folder, with the job whose
    questions it is to answer.

    Raises UsageError where there is no such run, model or checkpoint, or its task has no held-out questions.
    """
    if holds_model(Path(target)):
        if job is None:
            reason = "is a model, and says nothing of a task"
            raise UsageError(target, reason, "name the job whose questions it is to answer, with --job JOB.yaml")
        if step is not None:
            raise UsageError(f"--step {step}", f"{target} is a model, which has no steps", "leave it out")
        path = f"policy.path={json.dumps(str(Path(target).resolve()))}"
        plain = ("policy.lora_rank=null", "policy.lora_alpha=null", "policy.lora_modules=all-linear")
        subject = Subject(target, load_job(Path(job), [*overrides, path, *plain]), None)
    else:
        folder = find_run(target, runs_dir, "eval")
        if job is not None:
            raise UsageError(f"--job {job}", "a run has a job of its own", "leave it out, or name a model folder")
        subject = Subject(str(folder), configure(_settings(folder), overrides), _checkpoint(folder, step))
    if not in_words(subject.config):
        reason = f"its task {subject.config.task.name!r} has no held-out questions"
        raise UsageError(target, reason, "evaluate a run of a task in words")
    refuse_unready(subject.config, here=True)
    return subject


def run_evaluation(subject: Subject) -> Evaluation:
    """The held-out questions of the subject's task, answered by its weights. Raises whatever its parts raise."""
    config = subject.config
    task = make_task(config)
    assert isinstance(task, TokenizedTask), "find_subject() refuses others"
    refuse_evaluation(config, task, now=True)
    learner = make_learner(alone(config))
    if subject.checkpoint is not None:
        load_checkpoint(subject.checkpoint, learner)
    snapshot = learner.snapshot()
    del learner  # its optimizer's memory is the sampler's
    sampler = make_sampler(config, task, config.evaluation.temperature)
    try:
        task.start()
        return evaluate(sampler, task, config.evaluation, snapshot)
    finally:
        task.close()


def make_evaluator(config: RunConfig) -> Callable[[Snapshot], Metrics]:
    """What scores snapshots of a run on its held-out questions, with a sampler and scorers of its own."""
    task = make_task(config)
    assert isinstance(task, TokenizedTask), "resolve() refuses others"
    sampler = make_sampler(config, task, config.evaluation.temperature)
    task.start()
    return lambda snapshot: evaluate(sampler, task, config.evaluation, snapshot).metrics


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(str(folder / "config.json"), f"cannot be read ({error})", "give the folder of a run") from None
    return settings


def _checkpoint(folder: Path, step: int | None) -> Path:
    found = list_checkpoints(folder / "checkpoints")
    steps = [int(path.name.rpartition("-")[2]) for path in found]
    if not found:
        reason = "this run has no checkpoint yet"
        raise UsageError(str(folder), reason, "wait for its first, or give the model's own folder with --job")
    if step is not None and step not in steps:
        raise UsageError(f"--step {step}", f"the checkpoints of this run are of {steps}", "give one of them")
    return found[-1] if step is None else found[steps.index(step)]
