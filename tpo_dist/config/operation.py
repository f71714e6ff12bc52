"""How a run is kept going, where it runs, and what it leaves behind."""

from typing import Literal

from pydantic import Field

from tpo_dist.config.section import Count, Seconds, Section


class FaultConfig(Section):
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


class ClusterConfig(Section):
    """Where Ray runs."""

    address: str | None = Field(None, description="Ray cluster to join, or auto; null: start one here")
    num_cpus: Count | None = Field(None, description="CPUs of the cluster started here; null: this machine's")
    object_store_mb: int | None = Field(512, ge=80, description="object store of the cluster started here, in MB")
    placement: Literal["PACK", "SPREAD"] = Field(
        "PACK", description="whether learner and workers fill nodes one by one, or spread over them"
    )


class WeightsConfig(Section):
    """How snapshots get from the learner to the rollout workers."""

    transport: Literal["store", "collective"] = Field(
        "store",
        description="store: through Ray's object store; collective: by a process group of the learner and each worker, "
        "gloo, or NCCL where both have GPUs (only vllm, all weights)",
    )


class DeadlineConfig(Section):
    """How long each wait may last before it ends with an error that says what it waited for."""

    connect_seconds: Seconds = Field(
        30.0, description="joining a Ray cluster, or starting one here, which is tried twice at least"
    )
    place_seconds: Seconds = Field(60.0, description="Ray granting the resources that were asked for")
    start_seconds: Seconds = Field(120.0, description="learner and workers starting up")
    block_seconds: Seconds = Field(
        300.0, description="one block at a worker, or its first weights; then it is killed and replaced"
    )
    groups_seconds: Seconds = Field(900.0, description="the groups of one step arriving at the learner")
    update_seconds: Seconds = Field(600.0, description="one training step, seen from the driver and from idle workers")
    weights_seconds: Seconds = Field(
        120.0, description="weights.transport=collective: a worker and the learner meeting, and weights on their way"
    )


class CheckpointConfig(Section):
    """What a run keeps on disk to go on from."""

    every_steps: Count = Field(100, description="steps between checkpoints; the last step always has one")
    keep: Count = Field(2, description="checkpoints kept, the newest ones")


class LogConfig(Section):
    """What a run writes for people."""

    sinks: list[str] = Field(
        ["tensorboard"], description="where its steps are shown beside its folder: tensorboard, wandb, mlflow, trackio"
    )
    project: str = Field(
        "tpo-dist", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of W&B and Trackio; experiment of MLflow"
    )
    plot: bool = Field(True, description="draw the learning curve when the run ends")
    groups: int = Field(
        4, ge=0, description="groups of a step that groups.jsonl keeps, for tpo-dist report and view; 0: none"
    )
    groups_every: Count = Field(10, description="steps from one of which groups are kept to the next")
    groups_mb: Count = Field(64, description="size of groups.jsonl, in MB, above which it is thinned out by half")
    oracle: bool = Field(
        False, description="measure misalignment with the gradient of an oracle that knows the right answers"
    )
