"""What the driver warns of: a line in the view, all of it in the run's folder."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tpo_dist.runlog import LOG, lines_to


@contextmanager
def warnings_to(folder: Path, say: Callable[[str], None], step: Callable[[], int]) -> Iterator[None]:
    """Inside, warnings of this process go to `run.log` as JSON, such as stacks, and by their first line to `say`.

    `step`: steps finished.
    """
    logger = logging.getLogger("tpo_dist")
    handlers = (lines_to(folder, "driver", step), _Saying(say))
    before = logger.propagate
    logger.propagate = False
    for handler in handlers:
        handler.setLevel(logging.WARNING)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = before


class _Saying(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        first, _, rest = record.getMessage().partition("\n")
        self._say(f"{first} (in full in {LOG})" if rest else first)
