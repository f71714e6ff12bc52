"""What is learned, and how: learner, rollout workers, the stream between them, tasks in words."""

from typing import Any, Literal

from pydantic import Field

from tpo_dist.config.section import Amount, Count, Seconds, Section


class OptimizerConfig(Section):
    """How gradients become steps."""

    name: Literal["muon", "adamw"] = Field("muon", description="muon: Muon for matrices, Adam for the rest; adamw")
    lr: float = Field(1e-3, gt=0, le=1e18, description="learning rate before the schedule")
    momentum: float = Field(0.95, ge=0, lt=1, description="muon: momentum of the matrices")
    damping: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="muon: steps shrink with the gradient, against its root mean square over "
        "about 1 / (1 - damping) steps, such as 0.999; null: full steps, as in the paper",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam: decay of the first moment")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam: decay of the second moment")
    eps: float = Field(1e-8, gt=0, description="Adam: added to the root of the second moment")
    weight_decay: float = Field(0.0, ge=0, description="adamw: decoupled weight decay")


class ScheduleConfig(Section):
    """The learning rate over the steps of the run."""

    name: Literal["constant", "linear", "cosine"] = Field("constant", description="shape of the decay after warm-up")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up from 0")
    final_fraction: float = Field(0.0, ge=0, le=1, description="learning rate at the last step, over `lr`")


class CorrectionConfig(Section):
    """Weights for tokens that another policy sampled than the learner's at the start of the batch."""

    name: Literal["none", "tis", "icepop", "vtrace"] = Field("none", description="which one; none trusts the sampler")
    cap: float = Field(2.0, gt=0, description="tis: largest weight of a token")
    low: float = Field(0.5, ge=0, le=1, description="icepop: smallest ratio that counts")
    high: float = Field(5.0, ge=1, description="icepop: largest ratio that counts")
    c_bar: float = Field(1.0, gt=0, le=1, description="vtrace: largest factor of a token")


class EarlyStopConfig(Section):
    """When the epochs of a batch end before their number."""

    kl: float | None = Field(
        None, gt=0, description="KL from the snapshot (nats per group) above which no step follows"
    )
    distance: float | None = Field(
        None, gt=0, description="mean sum|p - q| below which the target counts as met, and no step follows"
    )


class LearnerConfig(Section):
    """The process that trains."""

    epochs: Count | None = Field(None, description="gradient epochs per batch; null: the objective's own number")
    publish_every: Count = Field(1, description="steps between the snapshots that rollout workers get")
    micro_batch_candidates: Count | None = Field(
        None, description="candidates per forward and backward pass, gradients stay exact; null: the whole batch"
    )
    max_grad_norm: float | None = Field(None, gt=0, description="gradients are scaled down to this norm; null: never")
    reference: Literal["snapshot", "initial"] = Field(
        "snapshot", description="what a KL holds on to: the rollout snapshot, or the first weights"
    )
    reference_kl: float = Field(
        0.0, ge=0, description="weight of a KL to that policy (k3, mean over tokens) beside any objective's own"
    )
    correction: CorrectionConfig = CorrectionConfig()
    early_stop: EarlyStopConfig = EarlyStopConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    device: str = Field("cpu", description="torch device of the learner, such as cpu or cuda")
    old_logprobs: Literal["engine", "recompute"] = Field(
        "engine",
        description="log-probs of the policy that sampled: as the sampler gives them, or computed anew by the learner "
        "before the first epoch, each token's by the frozen weights that drew it",
    )
    mismatch_groups: int | None = Field(
        None,
        ge=0,
        description="causal_lm: of a step that has only groups of older weights, so many are computed anew by the "
        "frozen weights that drew them, to see how far the sampler is off; null: 1 where a snapshot has up to 1 GB, "
        "else 0",
    )
    micro_batch_tokens: Count | None = Field(
        None, description="causal_lm: tokens per forward and backward pass, prompts included; null: no bound"
    )
    ranks: Count = Field(
        1, description="causal_lm: processes of one node that share weights, optimizer state and work (FSDP2)"
    )
    threads: Count = Field(1, description="torch threads of each rank")
    node: Literal["any", "driver"] = Field(
        "any", description="any: wherever there is room, all nodes share runs_dir; driver: the driver's node"
    )
    cpus: float = Field(0.5, ge=0, description="Ray CPUs reserved for each rank of the learner")
    gpus: float = Field(0.0, ge=0, description="Ray GPUs reserved for each rank of the learner")
    resources: dict[str, Amount] = Field(
        {}, description="further Ray resources of its node, such as {learner: 0.001} for one of that role"
    )


class RolloutConfig(Section):
    """The processes that turn prompts into scored groups."""

    workers: Count | Literal["auto"] = Field(
        2, description="rollout workers; auto: as many as keep the learner fed, between min_workers and max_workers"
    )
    min_workers: Count = Field(1, description="workers: auto never goes below")
    max_workers: Count = Field(8, description="workers: auto never goes above")
    groups_per_step: Count = Field(64, description="prompts drawn per training step")
    group_size: Count = Field(32, description="candidates per prompt (K)")
    temperature: float = Field(1.0, gt=0, description="logits are divided by it, in sampling and in training alike")
    candidates: Literal["sequence", "token"] | None = Field(
        None, description="sequence: whole completions; token: single tokens along one; null: the objective's own"
    )
    block_size: Count | None = Field(
        None,
        description="prompts a worker takes at a time; null: 1 with vllm, with other language models a worker's "
        "part of a step, else a quarter of groups_per_step, if that divides it",
    )
    concurrency: Count | None = Field(
        None,
        description="blocks that a worker has under way; null: 16 with vllm, 2 for other language models, else 1",
    )
    verify_weights: Literal["load", "block"] | None = Field(
        None, description="when weights are hashed: once loaded, or for every block; null: block up to 8 MB"
    )
    device: str = Field("cpu", description="torch device of the workers, such as cpu or cuda")
    threads: Count = Field(1, description="torch threads of each worker")
    cpus: float = Field(0.5, ge=0, description="Ray CPUs reserved for each worker")
    gpus: float = Field(0.0, ge=0, description="Ray GPUs reserved for each worker")
    resources: dict[str, Amount] = Field(
        {}, description="further Ray resources of a worker's node, such as {rollout: 0.001} for one of that role"
    )


class StreamConfig(Section):
    """The stream between rollout workers and learner."""

    max_staleness: int = Field(
        1, ge=0, description="snapshots that the learner may be ahead of the one that sampled a group; 0: synchronous"
    )
    drop_older_than: int | None = Field(
        None, ge=0, description="finished groups staler than this are dropped, which favours short prompts; null: never"
    )


class TextConfig(Section):
    """How tasks in words become tokens, and back."""

    max_prompt_tokens: Count = Field(512, description="longest prompt; longer ones are refused before the run")
    max_completion_tokens: Count = Field(256, description="longest completion")
    chat: bool | None = Field(
        None, description="whether prompts go through the chat template; null: where the tokenizer has one"
    )
    system_prompt: str | None = Field(None, description="said before each question; null: the task's own, if any")
    chat_options: dict[str, Any] = Field({}, description="arguments of the chat template, such as enable_thinking")
    stop: list[str] = Field([], description="texts that end a completion, beside the model's own end tokens")


class ScoringConfig(Section):
    """Where completions in words are scored: processes beside the sampler, which may be killed."""

    processes: Count = Field(1, description="scorer processes of each rollout worker")
    seconds: Seconds = Field(10.0, description="for one completion; then the scorer is killed and the group fails")
    memory_mb: Count | None = Field(2048, description="address space that a scorer may take beyond its own start")
    retries: int = Field(1, ge=0, description="further attempts at a completion whose scorer crashed, hung or raised")


class EvaluationConfig(Section):
    """Held-out questions, answered by snapshots while training goes on."""

    every_steps: Count | None = Field(None, description="steps between evaluations, the first before training")
    questions: Count = Field(64, description="held-out questions, the same each time")
    samples: Count = Field(1, description="completions of each, for pass@k")
    temperature: float = Field(0.0, ge=0, description="of these completions; 0: greedy")
