"""The metrics that a distributed run exports. Their names are stable: dashboards and alarms of users hang on them."""

from dataclasses import dataclass
from typing import Literal

PREFIX = "ray_"
"""What Ray puts before every name on its way to Prometheus."""
TAGS = ("run", "role")
"""What every metric is tagged with: the run's folder name, and whose number it is."""

Kind = Literal["gauge", "counter", "histogram"]
Role = Literal["driver", "learner", "stream", "rollout"]
Unit = Literal["1", "share", "seconds", "nats", "tokens", "steps", "publications", "groups", "groups/s", "blocks"]
Panel = tuple[str, str]
"""Section and title of the panel that shows it."""


@dataclass(frozen=True, slots=True)
class Exported:
    """One metric."""

    name: str
    kind: Kind
    unit: Unit
    role: Role
    meaning: str
    panel: Panel
    row: str | None = None
    """The number of `metrics.jsonl` that it is. None: it is no number of a step."""
    tags: tuple[str, ...] = ()
    """Beside those that every metric has."""
    bounds: tuple[float, ...] = ()
    """Of a histogram's bins, the last of which is open."""
    steady: bool = False
    """A counter that grows all the time is shown by its pace; one of seldom events by their number."""

    @property
    def prometheus(self) -> str:
        """Its name in Prometheus."""
        return PREFIX + self.name


def _of_step(name: str, unit: Unit, meaning: str, panel: Panel, row: str | None = None) -> Exported:
    """A number of each step, of the learner's."""
    return Exported(f"tpo_dist_{name}", "gauge", unit, "learner", meaning, panel, row=row or name)


_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0)
_LAGS = (0.5, 1.5, 2.5, 3.5, 4.5, 6.5, 8.5, 12.5, 16.5, 32.5)  # between whole numbers, for Ray refuses 0

_RUN = ("Run", "Steps")
_REWARD = ("Learning", "Reward and error")
_SIGNAL = ("Learning", "Groups without signal")
_TARGET = ("Learning", "Distance to the target")
_UPDATE = ("Learning", "Loss and gradient")
_LENGTH = ("Learning", "Completions")
_POLICIES = ("Learning", "Between policies")
_STEP = ("Pace", "Step time")
_PARTS = ("Pace", "Where the seconds of a step go")
_GROUPS = ("Pace", "Groups")
_IDLE = ("Pace", "Idle shares")
_STALE = ("Stream", "Staleness")
_QUEUE = ("Stream", "Blocks by state")
_AGAIN = ("Stream", "Blocks made again, dropped or failed")
_FAILED = ("Stream", "Failed groups by cause")
_FLEET = ("Processes", "Rollout workers")
_STATES = ("Processes", "Rollout workers by state")
_FAULTS = ("Processes", "Faults by kind")
_STATUS = ("Processes", "Status")

EXPORTED: tuple[Exported, ...] = (
    Exported("tpo_dist_step", "gauge", "steps", "driver", "steps finished", _RUN),
    Exported("tpo_dist_steps", "gauge", "steps", "driver", "steps of the whole run", _RUN),
    _of_step("reward", "1", "mean score of a step's candidates", _REWARD),
    _of_step("error", "1", "1 less the mean score", _REWARD),
    _of_step("zero_variance", "share", "groups whose candidates all score alike", _SIGNAL),
    _of_step("all_fail", "share", "groups in which no candidate scores above 0", _SIGNAL),
    _of_step("target_distance", "1", "sum over a group of |q - p|, before the step", _TARGET),
    _of_step("target_kl", "nats", "KL divergence from p to the target q, before the step", _TARGET),
    _of_step("loss", "1", "loss before the step's first update", _UPDATE, "loss_first"),
    _of_step("grad_norm", "1", "gradient norm of the first update, before it is clipped", _UPDATE, "grad_norm_first"),
    _of_step("completion_length", "tokens", "mean length of completions", _LENGTH),
    _of_step("cut_off", "share", "completions that reached the longest length allowed", _LENGTH),
    _of_step("reference_kl", "nats", "KL divergence per token from the reference model", _POLICIES),
    _of_step("mismatch_token", "nats", "gap per token between the log-probs of learner and sampling engine", _POLICIES),
    _of_step(
        "ratio_ess", "share", "effective sample size of the ratios between policy and sampling snapshot", _POLICIES
    ),
    Exported(
        "tpo_dist_step_seconds",
        "histogram",
        "seconds",
        "learner",
        "wall time of a training step",
        _STEP,
        bounds=_SECONDS,
    ),
    _of_step("sample_seconds", "seconds", "workers' time spent sampling the groups of a step", _PARTS),
    _of_step("score_seconds", "seconds", "workers' time spent scoring them", _PARTS),
    _of_step("wait_seconds", "seconds", "learner's time spent waiting for them", _PARTS),
    _of_step("train_seconds", "seconds", "learner's time spent training on them", _PARTS),
    Exported(
        "tpo_dist_steps_trained_total", "counter", "steps", "learner", "steps trained by this driver", _RUN, steady=True
    ),
    Exported(
        "tpo_dist_groups_trained_total",
        "counter",
        "groups",
        "learner",
        "groups trained by this driver",
        _GROUPS,
        row="groups_trained",
        steady=True,
    ),
    _of_step("groups_per_second", "groups/s", "good groups handed in, over the last step", _GROUPS),
    _of_step("learner_idle_share", "share", "share of a step that the learner waited for groups", _IDLE),
    Exported(
        "tpo_dist_rollout_idle_share",
        "gauge",
        "share",
        "rollout",
        "share of the workers' time spent waiting for work",
        _IDLE,
        row="workers_idle_share",
    ),
    Exported(
        "tpo_dist_staleness",
        "histogram",
        "publications",
        "stream",
        "snapshots by which the learner was ahead of the one that sampled a group",
        _STALE,
        row="staleness",
        bounds=_LAGS,
    ),
    Exported(
        "tpo_dist_staleness_max",
        "gauge",
        "publications",
        "stream",
        "of the stalest group of a step",
        _STALE,
        row="staleness_max",
    ),
    Exported("tpo_dist_version", "gauge", "steps", "stream", "newest snapshot that the workers may have", _RUN),
    Exported(
        "tpo_dist_blocks", "gauge", "blocks", "stream", "blocks queued, in flight or ready", _QUEUE, tags=("state",)
    ),
    Exported("tpo_dist_blocks_reissued_total", "counter", "blocks", "stream", "given out once more", _AGAIN),
    Exported(
        "tpo_dist_blocks_dropped_total", "counter", "blocks", "stream", "finished, and dropped for their age", _AGAIN
    ),
    Exported("tpo_dist_blocks_failed_total", "counter", "blocks", "stream", "failed for good", _AGAIN),
    Exported(
        "tpo_dist_groups_failed_total",
        "counter",
        "groups",
        "stream",
        "could not be scored, or lost their workers",
        _FAILED,
        tags=("cause",),
    ),
    Exported("tpo_dist_workers_wanted", "gauge", "1", "rollout", "rollout workers asked for", _FLEET),
    Exported("tpo_dist_workers_alive", "gauge", "1", "rollout", "rollout workers whose process is up", _FLEET),
    Exported("tpo_dist_workers", "gauge", "1", "rollout", "rollout workers in each state", _STATES, tags=("state",)),
    Exported(
        "tpo_dist_faults_total",
        "counter",
        "1",
        "driver",
        "processes that died, hung or were refused",
        _FAULTS,
        tags=("kind",),
    ),
    Exported(
        "tpo_dist_learner_restarts_total", "counter", "1", "driver", "times that the learner began again", _FAULTS
    ),
    Exported(
        "tpo_dist_status",
        "gauge",
        "1",
        "driver",
        "1 for what the run does: starting, running or stopping",
        _STATUS,
        tags=("status",),
    ),
)
"""Every metric, in the order of the dashboard."""
