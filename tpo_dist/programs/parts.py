"""The parts of a run, built from its configuration; and the contradictions that no single part can see."""

import dataclasses
import re

import torch

from tpo_dist.components import build, lookup
from tpo_dist.config import ComponentConfig, RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.learner.learner import Learner
from tpo_dist.objective import OBJECTIVES, Objective
from tpo_dist.policies import POLICIES, Policy, PolicyOptions
from tpo_dist.process import memory_bytes
from tpo_dist.rollout.torch_sampler import TorchSampler
from tpo_dist.rollout.worker import RolloutWorker
from tpo_dist.stream import GroupStream
from tpo_dist.tasks import TASKS, Task, TokenScoring


def make_task(config: RunConfig) -> Task:
    """The task. Raises UsageError for options that it refuses."""
    return build("task", lookup("task", config.task.name, TASKS), config.task.options, others=TASKS)


def make_objective(config: RunConfig) -> Objective:
    """The objective. Raises UsageError for options that it refuses."""
    method = lookup("objective", config.objective.name, OBJECTIVES)
    kinds = {name: each.kind for name, each in OBJECTIVES.items()}
    return build("objective", method.kind, config.objective.options, method.options, kinds)


def make_policy(config: RunConfig) -> Policy:
    """The policy with the weights that the run starts from.

    Raises UsageError for options that it refuses, and for more parameters than this machine can hold.
    """
    task, options = make_task(config), _policy_options(config)
    context = task.prompt_length + task.completion_length
    size, memory = 4 * options.count(task.vocab_size, context), memory_bytes()
    if 3 * size > memory:  # float32 weights, their gradients and a moment at least
        raise UsageError(
            "the policy for this task",
            f"its parameters alone take {size / 2**30:,.1f} GiB, and training them at least three times that, "
            f"where there are {memory / 2**30:,.1f} GiB of memory",
            "make the policy or the task's vocabulary smaller",
        )
    return options.build(task.vocab_size, context, config.seed)


def make_worker(config: RunConfig) -> RolloutWorker:
    """A rollout worker; it has no weights until it loads a snapshot. Raises UsageError where its device is not here."""
    _require_device("rollout", config.rollout.device)
    task = make_task(config)
    token_level = config.rollout.candidates == "token"
    sampler = TorchSampler(
        make_policy(config),
        task.completion_length,
        config.seed,
        config.rollout.device,
        token_level=token_level,
        greedy=getattr(make_objective(config), "needs_greedy", False),
    )
    return RolloutWorker(task, sampler, config.rollout.group_size, config.seed, token_level=token_level)


def make_learner(config: RunConfig) -> Learner:
    """The learner at step 0. Raises UsageError where its device is not here."""
    _require_device("learner", config.learner.device)
    return Learner(make_policy(config), make_objective(config), config.learner, config.steps)


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
    if candidates == "token":
        _refuse_token_level(resolved, task, objective)
    _refuse_contradictions(resolved, objective)
    return resolved


def _refuse_token_level(config: RunConfig, task: Task, objective: Objective) -> None:
    if not isinstance(task, TokenScoring):
        raise UsageError(
            "rollout.candidates = 'token'",
            f"task {config.task.name!r} cannot score single tokens",
            "choose sequence, or a task with rewards for tokens, such as token_reversal",
        )
    task.refuse_alternatives()
    if getattr(objective, "needs_greedy", False):
        raise UsageError(
            "rollout.candidates = 'token'",
            f"objective {config.objective.name!r} compares whole completions with the greedy one",
            "choose sequence",
        )


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
        if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", device):
            reason = "is not a device this program knows"
            raise UsageError(f"{role}.device = {device!r}", reason, "give cpu or cuda, or one GPU as cuda:0")
        if device.startswith("cuda") and gpus == 0:
            raise UsageError(
                f"{role}.device = {device!r}", f"Ray hides GPUs from it while {role}.gpus = 0", f"set {role}.gpus=1"
            )


def _require_device(role: str, device: str) -> None:
    """Asked where the part is made: the driver's machine may have no GPU where the learner's has."""
    count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device != "cpu" and int(device.partition(":")[2] or 0) >= count:
        reason = f"torch {torch.__version__} can use {count} CUDA devices here"
        raise UsageError(f"{role}.device = {device!r}", reason, f"give {role}.device=cpu, or a machine with that GPU")


def _policy_options(config: RunConfig) -> PolicyOptions:
    return build("policy", lookup("policy", config.policy.name, POLICIES), config.policy.options)


def _complete(section: ComponentConfig, component: object) -> ComponentConfig:
    """The section with every option of the component spelled out."""
    assert dataclasses.is_dataclass(component)
    assert not isinstance(component, type)
    return ComponentConfig(name=section.name, **dataclasses.asdict(component))
