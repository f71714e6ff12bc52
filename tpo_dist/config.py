"""The whole run as frozen models: what you write is what runs, and what you did not write has its default here.

A section with a `name` (task, policy, objective) takes the options of the component of that name; they are checked
against the component itself before anything starts (`programs/resolve.py`).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ComponentConfig(BaseModel):
    """A component by name; every other key of the section is an option of that component."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    name: str = Field(description="which one")

    @property
    def options(self) -> dict[str, Any]:
        """The component's own options, as written."""
        return dict(self.model_extra or {})


class OptimizerConfig(_Section):
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


class ScheduleConfig(_Section):
    """The learning rate over the steps of the run."""

    name: Literal["constant", "linear", "cosine"] = Field("constant", description="shape of the decay after warm-up")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up from 0")
    final_fraction: float = Field(0.0, ge=0, le=1, description="learning rate at the last step, over `lr`")


class CorrectionConfig(_Section):
    """Weights for tokens that another policy sampled than the learner's at the start of the batch."""

    name: Literal["none", "tis", "icepop", "vtrace"] = Field("none", description="which one; none trusts the sampler")
    cap: float = Field(2.0, gt=0, description="tis: largest weight of a token")
    low: float = Field(0.5, ge=0, le=1, description="icepop: smallest ratio that counts")
    high: float = Field(5.0, ge=1, description="icepop: largest ratio that counts")
    c_bar: float = Field(1.0, gt=0, le=1, description="vtrace: largest factor of a token")


class EarlyStopConfig(_Section):
    """When the epochs of a batch end before their number."""

    kl: float | None = Field(
        None, gt=0, description="KL from the snapshot (nats per group) above which no step follows"
    )
    distance: float | None = Field(
        None, gt=0, description="mean sum|p - q| below which the target counts as met, and no step follows"
    )


class LearnerConfig(_Section):
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
        "before the first epoch (only where groups are of its current weights)",
    )
    micro_batch_tokens: Count | None = Field(
        None, description="causal_lm: tokens per forward and backward pass, prompts included; null: no bound"
    )
    ranks: Count = Field(1, description="causal_lm: processes that share the weights and the work (FSDP)")
    threads: Count = Field(1, description="torch threads of the learner")
    node: Literal["any", "driver"] = Field(
        "any", description="any: wherever there is room, all nodes share runs_dir; driver: the driver's node"
    )
    cpus: float = Field(0.5, ge=0, description="Ray CPUs reserved for the learner")
    gpus: float = Field(0.0, ge=0, description="Ray GPUs reserved for the learner")


class RolloutConfig(_Section):
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


class StreamConfig(_Section):
    """The stream between rollout workers and learner."""

    max_staleness: int = Field(
        1, ge=0, description="snapshots that the learner may be ahead of the one that sampled a group; 0: synchronous"
    )
    drop_older_than: int | None = Field(
        None, ge=0, description="finished groups staler than this are dropped, which favours short prompts; null: never"
    )


class FaultConfig(_Section):
    """What a run survives before it gives up."""

    worker_restarts: int = Field(20, ge=0, description="rollout workers replaced within the window")
    learner_restarts: int = Field(5, ge=0, description="restarts of the learner within the window")
    stream_restarts: int = Field(10, ge=0, description="restarts of the stream in the whole run")
    window_seconds: Seconds = Field(600.0, description="over which restarts are counted")
    backoff_seconds: Seconds = Field(0.5, description="pause before the second restart in a row; doubles each time")
    backoff_limit_seconds: Seconds = Field(30.0, description="longest such pause")
    attempts: Count = Field(3, description="workers that may die or hang with a block before its groups fail")
    failed_fraction: float = Field(
        0.5, ge=0, le=1, description="share of failed groups, over the last 20 steps' worth, above which the run ends"
    )


class ClusterConfig(_Section):
    """Where Ray runs."""

    address: str | None = Field(None, description="Ray cluster to join, or auto; null: start one here")
    num_cpus: Count | None = Field(None, description="CPUs of the cluster started here; null: this machine's")
    object_store_mb: int | None = Field(512, ge=80, description="object store of the cluster started here, in MB")
    placement: Literal["PACK", "SPREAD"] = Field(
        "PACK", description="whether learner and workers fill nodes one by one, or spread over them"
    )


class DeadlineConfig(_Section):
    """How long each wait may last before it ends with an error that says what it waited for."""

    connect_seconds: Seconds = Field(30.0, description="joining a Ray cluster")
    place_seconds: Seconds = Field(60.0, description="Ray granting the resources that were asked for")
    start_seconds: Seconds = Field(120.0, description="learner and workers starting up")
    block_seconds: Seconds = Field(
        300.0, description="one block at a worker, or its first weights; then it is killed and replaced"
    )
    groups_seconds: Seconds = Field(900.0, description="the groups of one step arriving at the learner")
    update_seconds: Seconds = Field(600.0, description="one training step, seen from the driver and from idle workers")


class CheckpointConfig(_Section):
    """What a run keeps on disk to go on from."""

    every_steps: Count = Field(100, description="steps between checkpoints; the last step always has one")
    keep: Count = Field(2, description="checkpoints kept, the newest ones")


class TextConfig(_Section):
    """How tasks in words become tokens, and back."""

    max_prompt_tokens: Count = Field(512, description="longest prompt; longer ones are refused before the run")
    max_completion_tokens: Count = Field(256, description="longest completion")
    chat: bool | None = Field(
        None, description="whether prompts go through the chat template; null: where the tokenizer has one"
    )
    system_prompt: str | None = Field(None, description="said before each question; null: the task's own, if any")
    chat_options: dict[str, Any] = Field({}, description="arguments of the chat template, such as enable_thinking")
    stop: list[str] = Field([], description="texts that end a completion, beside the model's own end tokens")


class ScoringConfig(_Section):
    """Where completions in words are scored: processes beside the sampler, which may be killed."""

    processes: Count = Field(1, description="scorer processes of each rollout worker")
    seconds: Seconds = Field(10.0, description="for one completion; then the scorer is killed and the group fails")
    memory_mb: Count | None = Field(2048, description="address space that a scorer may take beyond its own start")
    retries: int = Field(1, ge=0, description="further attempts at a completion whose scorer crashed, hung or raised")


class EvaluationConfig(_Section):
    """Held-out questions, answered by snapshots while training goes on."""

    every_steps: Count | None = Field(None, description="steps between evaluations, the first before training")
    questions: Count = Field(64, description="held-out questions, the same each time")
    samples: Count = Field(1, description="completions of each, for pass@k")
    temperature: float = Field(0.0, ge=0, description="of these completions; 0: greedy")


class LogConfig(_Section):
    """What a run writes for people."""

    tensorboard: bool = Field(True, description="write TensorBoard events")
    plot: bool = Field(True, description="draw the learning curve when the run ends")
    oracle: bool = Field(
        False, description="measure misalignment with the gradient of an oracle that knows the right answers"
    )


class RunConfig(_Section):
    """One run: what to learn, with how much of what, and where."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="first part of the run's folder name")
    seed: int = Field(0, ge=0, lt=2**63, description="of the weights, the prompts and the samples")
    steps: Count = Field(300, description="training steps")
    runs_dir: str = Field("runs", description="folder that holds the folders of runs")
    task: ComponentConfig = ComponentConfig(name="token_reversal")
    policy: ComponentConfig = ComponentConfig(name="transformer")
    sampler: ComponentConfig = ComponentConfig(name="policy")
    objective: ComponentConfig = ComponentConfig(name="tpo")
    rollout: RolloutConfig = RolloutConfig()
    stream: StreamConfig = StreamConfig()
    learner: LearnerConfig = LearnerConfig()
    cluster: ClusterConfig = ClusterConfig()
    text: TextConfig = TextConfig()
    scoring: ScoringConfig = ScoringConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    deadlines: DeadlineConfig = DeadlineConfig()
    faults: FaultConfig = FaultConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
