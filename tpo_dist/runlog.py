"""`run.log`: what the processes of a run warn of, one JSON object a line. People read it as text on the terminal."""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

LOG = "run.log"


class _Lines(logging.Formatter):
    def __init__(self, run: str, role: str, step: Callable[[], int]) -> None:
        super().__init__()
        self._run, self._role, self._step = run, role, step

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "run": self._run,
            "role": self._role,
            "step": self._step(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _File(logging.FileHandler):
    """The run's log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk takes no notes; what matters is said as well."""

    def close(self) -> None:
        """Close it, with or without what a full disk did not take."""
        with suppress(OSError):
            super().close()


def lines_to(folder: Path, role: str, step: Callable[[], int]) -> logging.Handler:
    """Appends warnings to the run's log, in full, such as stacks. `step`: steps finished, asked for at each line.

    Several processes may append to it: each line is one write.
    """
    handler = _File(folder / LOG, encoding="utf-8", delay=True)
    handler.setFormatter(_Lines(folder.name, role, step))
    handler.setLevel(logging.WARNING)
    return handler


def log_lines(folder: Path, role: str, step: Callable[[], int]) -> None:
    """For a process of the run, whose standard error Ray shows to people: what it warns of goes there too, as text."""
    logger = logging.getLogger("tpo_dist")
    for handler in list(logger.handlers):
        if isinstance(handler, _File):  # of the run before it
            logger.removeHandler(handler)
            handler.close()
    logger.addHandler(lines_to(folder, role, step))
    assert logging.lastResort is not None
    logger.addHandler(logging.lastResort)
