"""TensorBoard events in the run's folder."""

from collections.abc import Mapping

import numpy as np

from tpo_dist.metrics import Histogram, Metrics
from tpo_dist.programs.sinks.contract import Subject


class TensorBoard:
    """`tensorboard/`, with histograms."""

    def __init__(self, subject: Subject) -> None:
        self._folder = str(subject.folder / "tensorboard")
        self._begin(subject.step)

    def _begin(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and not everyone wants it

        self._writer = SummaryWriter(self._folder, purge_step=step + 1)

    def write(self, row: Mapping[str, float], metrics: Metrics) -> None:
        """One step."""
        step = int(row["step"])
        for name, number in row.items():
            if name != "step":
                self._writer.add_scalar(name, number, step)
        for name, metric in metrics.items():
            if isinstance(metric, Histogram) and metric.observations:
                self._writer.add_histogram(f"{name}/histogram", np.array(metric.observations), step)

    def go_back(self, step: int) -> None:
        """Later steps are hidden."""
        self._writer.close()
        self._begin(step)

    def close(self, status: str) -> None:
        """Write what is left."""
        self._writer.close()
