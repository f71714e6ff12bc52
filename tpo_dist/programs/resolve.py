"""Every default of a run filled in, and the contradictions refused that no single part can see."""

import dataclasses
import re

from tpo_dist.config import ComponentConfig, LearnerConfig, RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.objective import OBJECTIVES, Objective
from tpo_dist.objective.tpo import LONG, PAPER_LENGTH, TPO
from tpo_dist.policies import TextPolicyOptions
from tpo_dist.policies.causal_lm import CausalLMOptions
from tpo_dist.programs.parts import (
    AnyPolicyOptions,
    block_size,
    blocks_per_step,
    concurrency,
    make_objective,
    make_policy,
    make_task,
    policy_options,
    refuse_mismatch,
    refuse_sampler,
    sampler_options,
    task_options,
)
from tpo_dist.programs.sinks import refuse_sinks
from tpo_dist.programs.words import in_words, refuse_evaluation, refuse_questions
from tpo_dist.rollout import Streaming
from tpo_dist.tasks import Answers, ContextTask, Task, TokenScoring

_LANES = 16
"""Blocks that a worker has under way where the sampler streams: enough to keep an engine's batch full."""


def resolve(config: RunConfig) -> RunConfig:
    """Every default filled in, every part tried. Raises UsageError for what cannot work together."""
    refuse_sinks(config.log.sinks)
    options, objective, policy = task_options(config), make_objective(config), policy_options(config)
    sampler = sampler_options(config)
    streams = issubclass(type(sampler), Streaming)
    size = config.rollout.block_size or _block_size(config, streams=streams)
    lanes = config.rollout.concurrency or (_LANES if streams else 2 if in_words(config) else 1)
    candidates = config.rollout.candidates or OBJECTIVES[config.objective.name].candidates
    resolved = config.model_copy(
        update={
            "task": _complete(config.task, options),
            "objective": _complete(config.objective, objective),
            "policy": _complete(config.policy, policy),
            "sampler": _complete(config.sampler, sampler),
            "rollout": config.rollout.model_copy(
                update={"block_size": size, "candidates": candidates, "concurrency": lanes}
            ),
            "learner": config.learner.model_copy(update={"epochs": config.learner.epochs or objective.epochs}),
        }
    )
    refuse_sampler(resolved)
    refuse_mismatch(resolved, options, policy)
    task = make_task(resolved)
    if isinstance(objective, TPO) and objective.group_distribution is None:
        short = candidates == "token" or task.completion_length <= PAPER_LENGTH
        objective = dataclasses.replace(objective, group_distribution="sequence" if short else LONG)
        resolved = resolved.model_copy(update={"objective": _complete(config.objective, objective)})
    if candidates == "token":
        _refuse_token_level(resolved, task, objective)
    if config.log.oracle and not isinstance(task, Answers):
        reason = f"task {config.task.name!r} does not know its right answers"
        raise UsageError("log.oracle = true", reason, "leave it false")
    if config.learner.early_stop.distance is not None and not isinstance(objective, TPO):
        reason = f"objective {config.objective.name!r} has no target to meet"
        raise UsageError("learner.early_stop.distance", reason, "use early_stop.kl")
    _refuse_contradictions(resolved, objective)
    _refuse_learning(resolved, policy)
    _refuse_fleet(resolved)
    _refuse_transport(resolved)
    if in_words(resolved):
        refuse_questions(resolved)
    refuse_evaluation(resolved, task)
    if isinstance(task, ContextTask):
        make_policy(resolved)  # contexts without features, or data that is missing, show now
    return resolved


def _block_size(config: RunConfig, *, streams: bool) -> int:
    """Where nothing is said: single prompts for samplers that stream, else as many as a language model does at once."""
    groups, workers = config.rollout.groups_per_step, config.rollout.workers
    if streams:
        return 1
    if in_words(config) and workers != "auto" and groups % workers == 0:
        return groups // workers
    return groups // 4 if groups % 4 == 0 else groups


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
            fix = f"set {role}.gpus=1, or {role}.device=cpu"
            raise UsageError(f"{role}.device = {device!r}", f"it is given no GPU while {role}.gpus = 0", fix)


def _refuse_learning(config: RunConfig, policy: AnyPolicyOptions) -> None:
    """What the learner cannot do with this policy."""
    learner, text = config.learner, config.text
    if learner.micro_batch_tokens is not None and learner.micro_batch_candidates is not None:
        raise UsageError(
            f"learner.micro_batch_tokens = {learner.micro_batch_tokens}",
            "learner.micro_batch_candidates cuts the same batch by another measure",
            "drop one of the two",
        )
    if not isinstance(policy, TextPolicyOptions):
        plain = LearnerConfig()
        for key in ("ranks", "old_logprobs", "mismatch_groups"):
            if getattr(learner, key) != getattr(plain, key):
                reason = f"policy {config.policy.name!r} is a small network, which draws for itself in one process"
                raise UsageError(f"learner.{key} = {getattr(learner, key)!r}", reason, "leave it out")
        return
    _refuse_ranks(config)
    if learner.old_logprobs == "recompute" and learner.correction.name != "none":
        raise UsageError(
            "learner.old_logprobs = 'recompute'",
            f"learner.correction.name = {learner.correction.name!r} needs the sampler's log-probs, to compare them "
            "with the learner's own, which take their place by that already",
            "drop one of the two",
        )
    longest = text.max_prompt_tokens + text.max_completion_tokens
    if learner.micro_batch_tokens is not None and learner.micro_batch_tokens < longest:
        raise UsageError(
            f"learner.micro_batch_tokens = {learner.micro_batch_tokens}",
            f"one prompt and one completion may have {longest} tokens, and no sequence is cut",
            f"give {longest} or more, or lower text.max_prompt_tokens or text.max_completion_tokens",
        )
    if isinstance(policy, CausalLMOptions) and policy.attention == "flex" and learner.device == "cpu":
        reason = "FlexAttention has no backward pass on a CPU, and learner.device = 'cpu'"
        raise UsageError("policy.attention = 'flex'", reason, "give sdpa, or learner.device=cuda")


def _refuse_ranks(config: RunConfig) -> None:
    """What several ranks of a learner cannot do."""
    learner, where = config.learner, f"learner.ranks = {config.learner.ranks}"
    if learner.ranks == 1:
        return
    if learner.optimizer.name == "muon":
        reason = "Muon orthogonalises whole matrices, of which each rank has a part (learner.optimizer.name = 'muon')"
        raise UsageError(where, reason, "give learner.optimizer.name=adamw, or learner.ranks=1")
    if ":" in learner.device:
        reason = f"each rank has a GPU of its own, and learner.device = {learner.device!r} is one of them"
        raise UsageError(where, reason, "give learner.device=cuda and learner.gpus=1")
    if learner.device == "cuda" and learner.gpus != 1:
        reason = f"each rank has one whole GPU, and learner.gpus, which is for each, is {learner.gpus:g}"
        raise UsageError(where, reason, "give learner.gpus=1")


def _refuse_fleet(config: RunConfig) -> None:
    rollout, stream = config.rollout, config.stream
    blocks = blocks_per_step(config) * config.learner.publish_every * (stream.max_staleness + 1)
    if rollout.workers == "auto" and rollout.min_workers > rollout.max_workers:
        reason = f"it is above rollout.max_workers = {rollout.max_workers}"
        raise UsageError(f"rollout.min_workers = {rollout.min_workers}", reason, "lower one or raise the other")
    if rollout.workers != "auto" and rollout.workers > blocks:
        raise UsageError(
            f"rollout.workers = {rollout.workers}",
            f"at most {blocks} blocks of {rollout.block_size} prompts are under way at a time, fewer than workers",
            "lower rollout.workers or rollout.block_size, or raise stream.max_staleness",
        )
    if concurrency(config) > 1 and not in_words(config):
        reason = "a worker of tasks of our own finishes a block before it begins another"
        raise UsageError(f"rollout.concurrency = {concurrency(config)}", reason, "leave it out; see rollout.workers")
    if stream.drop_older_than is not None and stream.drop_older_than >= stream.max_staleness:
        raise UsageError(
            f"stream.drop_older_than = {stream.drop_older_than}",
            f"no group gets staler than stream.max_staleness = {stream.max_staleness}",
            "give less, or leave it out",
        )


def _refuse_transport(config: RunConfig) -> None:
    """What weights that come by a process group cannot do."""
    if config.weights.transport == "store":
        return
    where, fix = "weights.transport = 'collective'", "leave it out: weights.transport=store serves every sampler"
    learner, rollout, waits = config.learner, config.rollout, config.deadlines
    if config.sampler.name != "vllm":
        reason = f"sampler {config.sampler.name!r} takes its weights from the object store"
        raise UsageError(where, reason, f"{fix}, or give sampler.name=vllm")
    if config.sampler.options.get("engine") != "inproc":
        reason = f"vLLM's engine {config.sampler.options.get('engine')!r} reads weights from a file in memory"
        raise UsageError(where, reason, f"{fix}, or give sampler.engine=inproc")
    if (rank := config.policy.options.get("lora_rank")) is not None:
        reason = f"adapters travel alone (policy.lora_rank = {rank}), and are too small to gain by it"
        raise UsageError(where, reason, fix)
    if learner.device != "cpu" and rollout.device != "cpu" and min(learner.gpus, rollout.gpus) < 1:
        reason = (
            "NCCL takes one process of a group on each GPU, and two may share one where learner.gpus = "
            f"{learner.gpus:g} and rollout.gpus = {rollout.gpus:g}"
        )
        raise UsageError(where, reason, "give learner.gpus=1 and rollout.gpus=1, or weights.transport=store")
    if waits.weights_seconds >= waits.block_seconds:
        reason = f"a worker is killed after deadlines.block_seconds = {waits.block_seconds:g}, before its wait ends"
        where = f"deadlines.weights_seconds = {waits.weights_seconds:g}"
        raise UsageError(where, reason, "lower it, or raise deadlines.block_seconds")


def _complete(section: ComponentConfig, component: object) -> ComponentConfig:
    """The section with every option of the component spelled out."""
    assert dataclasses.is_dataclass(component)
    assert not isinstance(component, type)
    return ComponentConfig(name=section.name, **dataclasses.asdict(component))
