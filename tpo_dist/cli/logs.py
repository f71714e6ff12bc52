"""What the driver warns of: a line in the view, all of it in the run's folder; what it merely tells, in the view."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tpo_dist.runlog import LOG, lines_to


@contextmanager
def warnings_to(
    folder: Path, say: Callable[[str], None], step: Callable[[], int], tell: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Inside, warnings of this process go to `run.log` as JSON, such as stacks, and by their first line to `say`;
    what is of level INFO goes to `tell` alone (`say`, if not given).

    `step`: steps finished.
    """
    logger = logging.getLogger("tpo_dist")
    handlers = (lines_to(folder, "driver", step), _Saying(say, tell or say))
    before = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.INFO)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = before[0]
        logger.setLevel(before[1])


class _Saying(logging.Handler):
    def __init__(self, say: Callable[[str], None], tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._say, self._tell = say, tell

    def emit(self, record: logging.LogRecord) -> None:
        first, _, rest = record.getMessage().partition("\n")
        say = self._say if record.levelno >= logging.WARNING else self._tell
        say(f"{first} (in full in {LOG})" if rest else first)
