"""What the driver warns of: a line in the view, all of it in the run's folder."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOG = "run.log"


@contextmanager
def warnings_to(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, warnings of this process go to `run.log` in full, such as stacks, and by their first line to `say`."""
    logger = logging.getLogger("tpo_dist")
    file = _File(folder / LOG, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers = (file, _Saying(say))
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


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk takes no notes; what matters is said as well."""


class _Saying(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        first, _, rest = record.getMessage().partition("\n")
        self._say(f"{first} (in full in {LOG})" if rest else first)
