"""Trackio. It writes below TRACKIO_DIR, its own folder in the home directory where nothing is said, for `trackio show`;
with TRACKIO_SPACE_ID or TRACKIO_SERVER_URL it writes there, with the key that is in the environment."""

from collections.abc import Mapping

import trackio

from tpo_dist.metrics import Metrics
from tpo_dist.programs.sinks.contract import Sink, Subject


class Trackio:
    """One run there, which a resumed one goes on with."""

    def __init__(self, subject: Subject) -> None:
        self._run = trackio.init(
            subject.project,
            name=subject.name,
            config=dict(subject.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def write(self, row: Mapping[str, float], metrics: Metrics) -> None:
        """One step."""
        self._run.log({name: number for name, number in row.items() if name != "step"}, step=int(row["step"]))

    def go_back(self, step: int) -> None:
        """Steps that are done again show twice."""

    def close(self, status: str) -> None:
        """Write what is left."""
        trackio.finish()


def open_sink(subject: Subject) -> Sink:
    """Raises ValueError for a name that it does not take as a project's."""
    return Trackio(subject)
