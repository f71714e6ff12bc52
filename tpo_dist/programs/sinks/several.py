"""All sinks of a run. One that fails is warned of once, and counted; training goes on."""

import logging
from collections.abc import Callable, Mapping
from functools import partial

from tpo_dist.metrics import Metrics
from tpo_dist.programs.run import Run
from tpo_dist.programs.sinks import SINKS
from tpo_dist.programs.sinks.contract import Sink, Subject, without_passwords

_log = logging.getLogger(__name__)


class Sinks:
    """The sinks that `log.sinks` names."""

    def __init__(self, run: Run, step: int) -> None:
        """`step`: the last that counts. Begins the run in each of them."""
        config = run.config
        subject = Subject(
            name=run.folder.name,
            folder=run.folder,
            project=config.log.project,
            config=config.model_dump(mode="json"),
            step=step,
        )
        self.failures: dict[str, int] = {}
        """Steps, or beginnings and ends, that did not arrive, by sink."""
        self._open: dict[str, Sink] = {}
        for name in config.log.sinks:
            self._dare(name, partial(self._begin, name, subject))

    def _begin(self, name: str, subject: Subject) -> None:
        self._open[name] = SINKS[name].open(subject, partial(self._failed, name))

    def write(self, row: Mapping[str, float], metrics: Metrics) -> None:
        """One step to each."""
        for name, sink in self._open.items():
            self._dare(name, partial(sink.write, row, metrics))

    def go_back(self, step: int) -> None:
        """What came after that step did not happen."""
        for name, sink in self._open.items():
            self._dare(name, partial(sink.go_back, step))

    def close(self, status: str) -> None:
        """The run is over; each sink is closed once."""
        while self._open:
            name, sink = self._open.popitem()
            self._dare(name, partial(sink.close, status))

    def _dare(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 (whatever a sink raises, training goes on)
            self._failed(name, str(error) or type(error).__name__)

    def _failed(self, name: str, reason: str) -> None:
        self.failures[name] = self.failures.get(name, 0) + 1
        if self.failures[name] == 1:
            told = without_passwords(reason)
            _log.warning("the sink %s fails, and training goes on without it: %s", name, told)
