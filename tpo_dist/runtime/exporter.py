"""The metrics of a run on their way to Prometheus: the driver hands them to Ray, whose agent there serves them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from tpo_dist.metrics import Metrics
from tpo_dist.watch.exported import EXPORTED, TAGS, Exported
from tpo_dist.watch.readings import Reading, status_readings, step_readings


class Exporter:
    """Exports what `watch/exported.py` lists. To be made by a driver that is connected to its cluster."""

    def __init__(self, run: str) -> None:
        """`run`: name of its folder."""
        self._metrics = {exported.name: _made(exported, run) for exported in EXPORTED}
        self._counted: dict[tuple[str, ...], float] = {}

    def step(self, metrics: Metrics, seconds: float) -> None:
        """One training step."""
        self._export(step_readings(metrics, seconds))

    def status(self, status: Mapping[str, Any]) -> None:
        """The run at this moment, in the fields of `status.json`."""
        self._export(status_readings(status))

    def _export(self, readings: Iterable[Reading]) -> None:
        for reading in readings:
            metric, tags = self._metrics[reading.name], dict(reading.tags)
            for value in filter(math.isfinite, reading.values):
                if isinstance(metric, Gauge):
                    metric.set(value, tags)
                elif isinstance(metric, Histogram):
                    metric.observe(value, tags)
                else:
                    self._count(metric, reading, value)

    def _count(self, counter: Counter, reading: Reading, value: float) -> None:
        if reading.so_far:
            key = (reading.name, *reading.tags.values())
            before, self._counted[key] = self._counted.get(key, 0.0), value
            value = (
                value - before if value >= before else value
            )  # the stream's process counts from 0 when it is another
        if value > 0:
            counter.inc(value, dict(reading.tags))


def _made(exported: Exported, run: str) -> Gauge | Counter | Histogram:
    keys = (*TAGS, *exported.tags)
    metric: Gauge | Counter | Histogram
    if exported.kind == "gauge":
        metric = Gauge(exported.name, exported.meaning, keys)
    elif exported.kind == "counter":
        metric = Counter(exported.name, exported.meaning, keys)
    else:
        metric = Histogram(exported.name, exported.meaning, list(exported.bounds), keys)
    metric.set_default_tags(dict(zip(TAGS, (run, exported.role), strict=True)))
    return metric
