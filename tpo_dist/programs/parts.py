"""The parts of a run, built from its configuration; and the contradictions that no single part can see."""

import dataclasses
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tpo_dist.components import build, lookup
from tpo_dist.config import ComponentConfig, RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.learner.learner import Learner
from tpo_dist.objective import OBJECTIVES, Objective
from tpo_dist.objective.tpo import TPO
from tpo_dist.policies import POLICIES, ContextPolicyOptions, Policy, PolicyOptions
from tpo_dist.records import Prompts, ScoredGroups
from tpo_dist.rollout.torch_sampler import TorchSampler
from tpo_dist.rollout.worker import RolloutWorker
from tpo_dist.stream import GroupStream
from tpo_dist.tasks import TASKS, Answers, ContextTask, Task, TokenScoring


def make_task(config: RunConfig) -> Task:
    """The task. Raises UsageError for options that it refuses."""
    return build("task", lookup("task", config.task.name, TASKS), config.task.options)


def make_objective(config: RunConfig) -> Objective:
    """The objective. Raises UsageError for options that it refuses."""
    method = lookup("objective", config.objective.name, OBJECTIVES)
    return build("objective", method.kind, config.objective.options, method.options)


def make_policy(config: RunConfig) -> Policy:
    """The policy with the weights that the run starts from. Raises UsageError for options that it refuses."""
    task, options = make_task(config), _policy_options(config)
    if isinstance(task, ContextTask) and isinstance(options, ContextPolicyOptions):
        return options.build_for_contexts(task.vocab_size, task.context_count(), task.features(), config.seed)
    _refuse_mismatch(config, task, options)
    assert not isinstance(options, ContextPolicyOptions)
    return options.build(task.vocab_size, task.prompt_length + task.completion_length, config.seed)


def make_worker(config: RunConfig) -> RolloutWorker:
    """A rollout worker; it has no weights until it loads a snapshot."""
    task = make_task(config)
    token_level = config.rollout.candidates == "token"
    sampler = TorchSampler(
        make_policy(config),
        task.completion_length,
        config.seed,
        config.rollout.device,
        token_level=token_level,
        greedy=make_objective(config).needs_greedy,
    )
    return RolloutWorker(task, sampler, config.rollout.group_size, config.seed, token_level=token_level)


def make_learner(config: RunConfig) -> Learner:
    """The learner at step 0."""
    oracle = partial(_answers, make_task(config)) if config.log.oracle else None
    return Learner(make_policy(config), make_objective(config), config.learner, config.steps, oracle)


def _answers(task: Task, record: ScoredGroups) -> NDArray[np.int32]:
    assert isinstance(task, Answers), "resolve() refuses other tasks"
    prompts = Prompts(ids=record.group_ids, tokens=record.prompt_tokens, lengths=record.prompt_lengths)
    return task.answers(prompts).copy()


def make_stream(config: RunConfig, first_step: int = 0) -> GroupStream:
    """The stream between them, whose next blocks are those of `first_step`."""
    return GroupStream(
        blocks_per_step=blocks_per_step(config),
        block_size=block_size(config),
        first_step=first_step,
        steps=config.steps,
    )


def block_size(config: RunConfig) -> int:
    """Prompts that a worker takes at a time."""
    assert config.rollout.block_size is not None, "resolve() fills it in"
    return config.rollout.block_size


def blocks_per_step(config: RunConfig) -> int:
    """Blocks that make one training step."""
    return config.rollout.groups_per_step // block_size(config)


def resolve(config: RunConfig) -> RunConfig:
    """Every default filled in, every part tried. Raises UsageError for what cannot work together."""
    task, objective, policy = make_task(config), make_objective(config), _policy_options(config)
    groups = config.rollout.groups_per_step
    size = config.rollout.block_size or (groups // 4 if groups % 4 == 0 else groups)
    candidates = config.rollout.candidates or OBJECTIVES[config.objective.name].candidates
    resolved = config.model_copy(
        update={
            "task": _complete(config.task, task),
            "objective": _complete(config.objective, objective),
            "policy": _complete(config.policy, policy),
            "rollout": config.rollout.model_copy(update={"block_size": size, "candidates": candidates}),
            "learner": config.learner.model_copy(update={"epochs": config.learner.epochs or objective.epochs}),
        }
    )
    _refuse_mismatch(resolved, task, policy)
    if candidates == "token":
        _refuse_token_level(resolved, task, objective)
    if config.log.oracle and not isinstance(task, Answers):
        reason = f"task {config.task.name!r} does not know its right answers"
        raise UsageError("log.oracle = true", reason, "leave it false")
    if config.learner.early_stop.distance is not None and not isinstance(objective, TPO):
        reason = f"objective {config.objective.name!r} has no target to meet"
        raise UsageError("learner.early_stop.distance", reason, "use early_stop.kl")
    _refuse_contradictions(resolved, objective)
    if isinstance(task, ContextTask):
        make_policy(resolved)  # contexts without features, or data that is missing, show now
    return resolved


def _refuse_token_level(config: RunConfig, task: Task, objective: Objective) -> None:
    if not isinstance(task, TokenScoring):
        raise UsageError(
            "rollout.candidates = 'token'",
            f"task {config.task.name!r} cannot score single tokens",
            "choose sequence, or a task with rewards for tokens, such as token_reversal",
        )
    task.refuse_alternatives()
    if objective.needs_greedy:
        raise UsageError(
            "rollout.candidates = 'token'",
            f"objective {config.objective.name!r} compares whole completions with the greedy one",
            "choose sequence",
        )


def _refuse_mismatch(config: RunConfig, task: Task, policy: PolicyOptions | ContextPolicyOptions) -> None:
    """Numbered contexts take a policy made for them, and token sequences take one that reads sequences."""
    where, named = f"policy.name = {config.policy.name!r}", f"task {config.task.name!r}"
    if isinstance(policy, ContextPolicyOptions) and not isinstance(task, ContextTask):
        names = ", ".join(name for name, kind in POLICIES.items() if not issubclass(kind, ContextPolicyOptions))
        raise UsageError(where, f"it reads the number of a context, and {named} asks with sequences", f"give {names}")
    if isinstance(task, ContextTask) and not isinstance(policy, ContextPolicyOptions):
        names = " or ".join(name for name, kind in POLICIES.items() if issubclass(kind, ContextPolicyOptions))
        raise UsageError(where, f"it reads sequences, and {named} asks with the number of a context", f"give {names}")


def _refuse_contradictions(config: RunConfig, objective: Objective) -> None:
    rollout, learner, groups = config.rollout, config.learner, config.rollout.groups_per_step
    if rollout.group_size < objective.min_group_size:
        raise UsageError(
            f"rollout.group_size = {rollout.group_size}",
            f"objective {config.objective.name!r} compares the candidates of one prompt with each other",
            f"give {objective.min_group_size} or more, or an objective for single samples (ppo, dg, reinforce)",
        )
    if rollout.groups_per_step % block_size(config):
        raise UsageError(
            f"rollout.block_size = {rollout.block_size}",
            f"a step is made of whole blocks, and it does not divide rollout.groups_per_step = {groups}",
            "choose a divisor",
        )
    if rollout.workers > blocks_per_step(config):
        raise UsageError(
            f"rollout.workers = {rollout.workers}",
            f"a step has {blocks_per_step(config)} blocks of {rollout.block_size} prompts, fewer than workers",
            "lower rollout.workers or rollout.block_size",
        )
    if learner.schedule.warmup_steps >= config.steps:
        raise UsageError(
            f"learner.schedule.warmup_steps = {learner.schedule.warmup_steps}",
            f"the run ends after steps = {config.steps}, before the learning rate is reached",
            "lower it or raise steps",
        )
    if config.cluster.address is not None and config.cluster.num_cpus is not None:
        raise UsageError(
            f"cluster.num_cpus = {config.cluster.num_cpus}",
            f"it sizes a cluster started here, but cluster.address = {config.cluster.address!r} joins one",
            "drop one of the two",
        )
    for role, device, gpus in (("learner", learner.device, learner.gpus), ("rollout", rollout.device, rollout.gpus)):
        if device.split(":")[0] not in ("cpu", "cuda"):
            raise UsageError(f"{role}.device = {device!r}", "is not a device this program knows", "give cpu or cuda")
        if device.startswith("cuda") and gpus == 0:
            raise UsageError(
                f"{role}.device = {device!r}", f"Ray hides GPUs from it while {role}.gpus = 0", f"set {role}.gpus=1"
            )


def _policy_options(config: RunConfig) -> PolicyOptions | ContextPolicyOptions:
    return build("policy", lookup("policy", config.policy.name, POLICIES), config.policy.options)


def _complete(section: ComponentConfig, component: object) -> ComponentConfig:
    """The section with every option of the component spelled out."""
    assert dataclasses.is_dataclass(component)
    assert not isinstance(component, type)
    return ComponentConfig(name=section.name, **dataclasses.asdict(component))
