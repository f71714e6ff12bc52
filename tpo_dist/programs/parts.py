"""The parts of a run, built from its configuration."""

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tpo_dist.blocks import Journal
from tpo_dist.components import build, lookup
from tpo_dist.config import RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.history import History
from tpo_dist.learner.learner import Learner
from tpo_dist.learner.team import ALONE, Leader, Team
from tpo_dist.objective import OBJECTIVES, Objective
from tpo_dist.policies import POLICIES, ContextPolicyOptions, Policy, PolicyOptions, SamplingPolicy, TextPolicyOptions
from tpo_dist.policies.tokenizer import load_tokenizer
from tpo_dist.process import memory_bytes
from tpo_dist.programs.words import in_words, tokenized
from tpo_dist.records import Prompts, ScoredGroups
from tpo_dist.rollout import SAMPLERS
from tpo_dist.rollout.contract import Sampler, StreamingSampler
from tpo_dist.rollout.generation import Adapters, Generation, TextSampling
from tpo_dist.rollout.in_turn import InTurn
from tpo_dist.rollout.text_task import TokenizedTask
from tpo_dist.rollout.torch_sampler import TorchSampler
from tpo_dist.rollout.worker import RolloutWorker
from tpo_dist.stream import GroupStream
from tpo_dist.tasks import TASKS, TEXT_TASKS, Answers, ContextTask, Task, TextTask
from tpo_dist.weight_group import Wire

AnyPolicyOptions = PolicyOptions | ContextPolicyOptions | TextPolicyOptions

_HASHED_BYTES = 8 * 1024**2
"""Weights up to this size are hashed for every block unless the configuration says otherwise.

For the default policy (0.4 MB) that adds 1 to 2 % to sampling 16 prompts x 32 candidates of 10 tokens, 5 % at 5 tokens.
"""


_LANGUAGE_MODEL = "causal_lm"


def task_options(config: RunConfig) -> Task | TextTask:
    """The task as its options describe it. Raises UsageError for those that it refuses."""
    known: dict[str, type[Any]] = {**TASKS, **TEXT_TASKS}
    found: Task | TextTask = build("task", lookup("task", config.task.name, known), config.task.options, others=known)
    return found


def make_task(config: RunConfig) -> Task:
    """The task, in tokens. Raises UsageError for options that it refuses, and where a task in words has no model whose
    tokenizer makes tokens of it."""
    options: Any = task_options(config)
    task: Task = tokenized(config, options) if in_words(config) else options
    return task


def make_objective(config: RunConfig) -> Objective:
    """The objective. Raises UsageError for options that it refuses."""
    method = lookup("objective", config.objective.name, OBJECTIVES)
    kinds = {name: each.kind for name, each in OBJECTIVES.items()}
    preset = {**method.options, **(method.in_words if in_words(config) else {})}
    return build("objective", method.kind, config.objective.options, preset, kinds)


def sampler_options(config: RunConfig) -> Any:
    """The options of the sampler. Raises UsageError for those that it refuses."""
    return build("sampler", lookup("sampler", config.sampler.name, SAMPLERS), config.sampler.options, others=SAMPLERS)


def make_policy(config: RunConfig) -> Policy:
    """The policy with the weights that the run starts from.

    Raises UsageError for options that it refuses, and for more parameters than this machine can hold.
    """
    options = policy_options(config)
    if isinstance(options, TextPolicyOptions):
        return options.load(config.rollout.temperature, config.seed)
    task = make_task(config)
    refuse_mismatch(config, task, options)
    if isinstance(options, ContextPolicyOptions):
        assert isinstance(task, ContextTask)
        return options.build_for_contexts(task.vocab_size, task.context_count(), task.features(), config.seed)
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
    task, token_level = make_task(config), config.rollout.candidates == "token"
    if isinstance(task, TokenizedTask):
        task.start()
    sampler = make_sampler(config, task)
    if streams(config) and not isinstance(sampler, StreamingSampler):
        sampler = InTurn(sampler)
    return RolloutWorker(task, sampler, config.rollout.group_size, config.seed, token_level=token_level)


def make_sampler(config: RunConfig, task: Task, temperature: float | None = None) -> Sampler:
    """The sampler. `temperature`: another than that of training, 0 for greedy; only for language models.

    Raises UsageError where its device, or a package that it needs, is not here.
    """
    _require_device("rollout", config.rollout.device)
    options = sampler_options(config)
    if isinstance(options, TextSampling):
        return options.build(generation_of(config, task, temperature))
    assert temperature is None, "policies of our own have no temperature"
    policy = make_policy(config)
    assert isinstance(policy, SamplingPolicy), "language models are refused above"
    size = sum(parameter.nbytes for parameter in policy.parameters())
    verify = config.rollout.verify_weights or ("block" if size <= _HASHED_BYTES else "load")
    return TorchSampler(
        policy,
        task.completion_length,
        config.seed,
        config.rollout.device,
        token_level=config.rollout.candidates == "token",
        greedy=make_objective(config).needs_greedy,
        verify_blocks=verify == "block",
    )


def generation_of(config: RunConfig, task: Task, temperature: float | None = None) -> Generation:
    """What a sampler of language models needs to know of the run. `temperature`: another than that of training."""
    model = config.policy.options
    rank, alpha = model.get("lora_rank"), model.get("lora_alpha")
    scale = 1.0 if rank is None or alpha is None else alpha / rank
    path, revision = model["path"], model.get("revision")
    fetches = config.weights.transport == "collective" and temperature is None  # evaluators get their snapshots whole
    return Generation(
        path=path,
        revision=revision,
        dtype=model.get("dtype", "float32"),
        adapters=None if rank is None else Adapters(rank, scale),
        device=config.rollout.device,
        temperature=config.rollout.temperature if temperature is None else temperature,
        max_prompt_tokens=task.prompt_length,
        max_tokens=task.completion_length,
        end_tokens=load_tokenizer(path, revision).end_tokens,
        stop=tuple(config.text.stop),
        seed=config.seed,
        greedy=make_objective(config).needs_greedy,
        wire=Wire(_backend(config), config.deadlines.weights_seconds) if fetches else None,
    )


def _backend(config: RunConfig) -> Literal["gloo", "nccl"]:
    """Of a process group of the learner's rank 0 and a worker."""
    return "nccl" if config.learner.device != "cpu" and config.rollout.device != "cpu" else "gloo"


def make_learner(config: RunConfig) -> Learner:
    """The learner at step 0, with the processes of its other ranks. Raises UsageError where its device is not here, and
    RankLost where a rank does not come up. A process has one learner of several ranks at a time: close it."""
    _require_device("learner", config.learner.device, config.learner.ranks)
    ranks, threads, waits = config.learner.ranks, config.learner.threads, config.deadlines
    if ranks == 1:
        return _learner(config, ALONE)
    make = partial(_learner, config)
    team = Leader(ranks, config.learner.device, threads, waits.update_seconds, waits.start_seconds, make)
    try:
        learner = make(team)
        team.ready()
    except BaseException:
        team.close()
        raise
    return learner


def alone(config: RunConfig) -> RunConfig:
    """The same with a learner of one rank, which reads the checkpoints of any number."""
    return config.model_copy(update={"learner": config.learner.model_copy(update={"ranks": 1})})


def _learner(config: RunConfig, team: Team) -> Learner:
    """That of one rank."""
    oracle = partial(_answers, make_task(config)) if config.log.oracle else None
    remember = config.stream.max_staleness + 2  # those that may still arrive, and one more
    policy, objective = make_policy(config), make_objective(config)
    settings, sampling = (config.learner, config.steps, oracle), (config.log.groups, config.log.groups_every)
    return Learner(policy, objective, *settings, remember=remember, sampling=sampling, team=team)


def _answers(task: Task, record: ScoredGroups) -> NDArray[np.int32]:
    assert isinstance(task, Answers), "resolve() refuses other tasks"
    prompts = Prompts(ids=record.group_ids, tokens=record.prompt_tokens, lengths=record.prompt_lengths)
    return task.answers(prompts).copy()


def make_stream(config: RunConfig, history: History | None = None, journal: Journal | None = None) -> GroupStream:
    """The stream between them. `history`: what went before; `journal`: where it says what happens."""
    return GroupStream(
        blocks_per_step=blocks_per_step(config),
        block_size=block_size(config),
        steps=config.steps,
        max_staleness=config.stream.max_staleness,
        publish_every=config.learner.publish_every,
        drop_older_than=config.stream.drop_older_than,
        attempts=config.faults.attempts,
        journal=journal,
        history=history,
    )


def block_size(config: RunConfig) -> int:
    """Prompts that a worker takes at a time."""
    assert config.rollout.block_size is not None, "resolve() fills it in"
    return config.rollout.block_size


def blocks_per_step(config: RunConfig) -> int:
    """Blocks that make one training step."""
    return config.rollout.groups_per_step // block_size(config)


def streams(config: RunConfig) -> bool:
    """Whether a worker has several blocks under way at a time."""
    return concurrency(config) > 1


def concurrency(config: RunConfig) -> int:
    """Blocks that a worker has under way at a time."""
    assert config.rollout.concurrency is not None, "resolve() fills it in"
    return config.rollout.concurrency


def _require_device(role: str, device: str, ranks: int = 1) -> None:
    """Asked where the part is made: the driver's machine may have no GPU where the learner's has."""
    count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device != "cpu" and int(device.partition(":")[2] or 0) + ranks > count:
        reason = f"torch {torch.__version__} can use {count} CUDA devices here"
        where = f"{role}.device = {device!r}" + (f" with {role}.ranks = {ranks}" if ranks > 1 else "")
        raise UsageError(where, reason, f"give {role}.device=cpu, or a machine with that GPU")


def policy_options(config: RunConfig) -> AnyPolicyOptions:
    """The options of the policy. Raises UsageError for those that it refuses."""
    return build("policy", lookup("policy", config.policy.name, POLICIES), config.policy.options)


def refuse_sampler(config: RunConfig) -> None:
    """A language model has a sampler of its own, and no other policy takes one; UsageError."""
    text = isinstance(sampler_options(config), TextSampling)
    where, policy = f"sampler.name = {config.sampler.name!r}", config.policy.name
    if text and policy != _LANGUAGE_MODEL:
        reason = f"it samples language models, and policy {policy!r} is a network of ours, which draws for itself"
        raise UsageError(where, reason, f"give sampler.name=policy, or policy.name={_LANGUAGE_MODEL} with policy.path")
    if policy == _LANGUAGE_MODEL and not text:
        names = " or ".join(name for name, kind in SAMPLERS.items() if hasattr(kind, "build"))
        raise UsageError(where, f"policy {policy!r} cannot draw for itself", f"give sampler.name={names}")
    spread, gpus = getattr(sampler_options(config), "tensor_parallel", 1), config.rollout.gpus
    if spread > 1 and (config.rollout.device == "cpu" or spread > gpus):
        reason = f"a worker has rollout.gpus = {gpus:g}, on rollout.device = {config.rollout.device!r}"
        fix = f"give rollout.device=cuda and rollout.gpus={spread}, or leave it out"
        raise UsageError(f"sampler.tensor_parallel = {spread}", reason, fix)
    if text and config.rollout.verify_weights == "block":
        reason = f"sampler {config.sampler.name!r} checks weights when it has loaded them"
        raise UsageError("rollout.verify_weights = 'block'", reason, "leave it out")


def refuse_mismatch(config: RunConfig, task: Task | TextTask, policy: AnyPolicyOptions) -> None:
    """Numbered contexts take a policy made for them, token sequences take one that reads sequences, and words take a
    language model; UsageError."""
    where, named = f"policy.name = {config.policy.name!r}", f"task {config.task.name!r}"
    if in_words(config) and not isinstance(policy, TextPolicyOptions):
        fix = f"give policy.name={_LANGUAGE_MODEL} with policy.path"
        raise UsageError(where, f"it reads no words, and {named} asks with them", fix)
    if isinstance(policy, TextPolicyOptions) and not in_words(config):
        reason = f"it is a language model, and {named} asks without words"
        raise UsageError(where, reason, f"give another policy, or one of the tasks {', '.join(TEXT_TASKS)}")
    if isinstance(policy, ContextPolicyOptions) and not isinstance(task, ContextTask):
        names = ", ".join(name for name, kind in POLICIES.items() if not issubclass(kind, ContextPolicyOptions))
        raise UsageError(where, f"it reads the number of a context, and {named} asks with sequences", f"give {names}")
    if isinstance(task, ContextTask) and not isinstance(policy, ContextPolicyOptions):
        names = " or ".join(name for name, kind in POLICIES.items() if issubclass(kind, ContextPolicyOptions))
        raise UsageError(where, f"it reads sequences, and {named} asks with the number of a context", f"give {names}")
