"""From what the driver knows to the values of the metrics."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from tpo_dist.metrics import Histogram, Metrics
from tpo_dist.supervision import State
from tpo_dist.watch.exported import EXPORTED

STATUSES = ("starting", "running", "stopping")
_BLOCKS = ("queued", "in_flight", "ready")
_AGAIN = ("reissued", "dropped", "failed")


class Reading(NamedTuple):
    """One metric at one moment."""

    name: str
    values: tuple[float, ...]
    """One, or all observations of a histogram."""
    tags: Mapping[str, str] = {}
    """Beside run and role."""
    so_far: bool = False
    """The value of a counter is the count so far, not what came since."""


def step_readings(metrics: Metrics, seconds: float) -> Iterator[Reading]:
    """What one training step comes to."""
    yield Reading("tpo_dist_step_seconds", (seconds,))
    yield Reading("tpo_dist_steps_trained_total", (1.0,))
    for exported in EXPORTED:
        if exported.row is None or exported.row not in metrics:
            continue
        metric = metrics[exported.row]
        if exported.kind == "histogram":
            assert isinstance(metric, Histogram), f"{exported.row} is no histogram"
            yield Reading(exported.name, metric.observations)
        else:
            yield Reading(exported.name, (metric.value,))


def status_readings(status: Mapping[str, Any]) -> Iterator[Reading]:
    """What a run looks like at one moment. `status`: the fields of `status.json`."""
    yield Reading("tpo_dist_step", (status["step"],))
    yield Reading("tpo_dist_steps", (status["steps"],))
    yield Reading("tpo_dist_version", (status["version"],))
    for word in STATUSES:
        yield Reading("tpo_dist_status", (float(status["status"] == word),), {"status": word})
    for kind, count in status["faults"].items():
        yield Reading("tpo_dist_faults_total", (count,), {"kind": kind}, so_far=True)
    yield Reading("tpo_dist_learner_restarts_total", (status["learner"]["restarts"],), so_far=True)
    yield from _stream(status["stream"])
    rollouts = status["rollouts"]
    yield Reading("tpo_dist_workers_wanted", (rollouts["wanted"],))
    yield Reading("tpo_dist_workers_alive", (rollouts["alive"],))
    states = [worker["state"] for worker in rollouts["workers"]]
    for state in get_args(State):
        yield Reading("tpo_dist_workers", (states.count(state),), {"state": state})


def _stream(stream: Mapping[str, Any]) -> Iterator[Reading]:
    for state in _BLOCKS:
        yield Reading("tpo_dist_blocks", (stream[state],), {"state": state})
    for what in _AGAIN:
        yield Reading(f"tpo_dist_blocks_{what}_total", (stream[what],), so_far=True)
    for cause, count in stream["failed_groups"].items():
        yield Reading("tpo_dist_groups_failed_total", (count,), {"cause": cause}, so_far=True)
