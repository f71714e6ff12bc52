"""The whole run as frozen models: what you write is what runs, and what you did not write has its default here.

A section with a `name` (task, policy, objective) takes the options of the component of that name; they are checked
against the component itself before anything starts (`programs/resolve.py`).
"""

from pydantic import Field

from tpo_dist.config.learning import (
    CorrectionConfig,
    EarlyStopConfig,
    EvaluationConfig,
    LearnerConfig,
    OptimizerConfig,
    RolloutConfig,
    ScheduleConfig,
    ScoringConfig,
    StreamConfig,
    TextConfig,
)
from tpo_dist.config.operation import (
    CheckpointConfig,
    ClusterConfig,
    DeadlineConfig,
    FaultConfig,
    LogConfig,
    WeightsConfig,
)
from tpo_dist.config.section import ComponentConfig, Count, Section

__all__ = [
    "CheckpointConfig",
    "ClusterConfig",
    "ComponentConfig",
    "CorrectionConfig",
    "DeadlineConfig",
    "EarlyStopConfig",
    "EvaluationConfig",
    "FaultConfig",
    "LearnerConfig",
    "LogConfig",
    "OptimizerConfig",
    "RolloutConfig",
    "RunConfig",
    "ScheduleConfig",
    "ScoringConfig",
    "StreamConfig",
    "TextConfig",
    "WeightsConfig",
]


class RunConfig(Section):
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
    weights: WeightsConfig = WeightsConfig()
    learner: LearnerConfig = LearnerConfig()
    cluster: ClusterConfig = ClusterConfig()
    text: TextConfig = TextConfig()
    scoring: ScoringConfig = ScoringConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    deadlines: DeadlineConfig = DeadlineConfig()
    faults: FaultConfig = FaultConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
