"""Waits that end: each has a deadline, warns when it nears, and says for what it waits and who owes it."""

import asyncio
import logging
from collections.abc import Callable

_WARN_AT = 0.8  # of the deadline
_log = logging.getLogger(__name__)


class DeadlineExceeded(TimeoutError):
    """A wait lasted longer than it may; the message says for what, and who owes it."""


class Bell:
    """Wakes everyone who waits for something to change; all of them run in one event loop, so nothing is locked."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something changed: whoever waits looks again."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, ready: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
        """Return once `ready()` holds. Raises DeadlineExceeded with `what()` after `seconds`; a warning goes before."""
        if ready():
            return
        soon = _WARN_AT * seconds

        def warn() -> None:
            _log.warning("waiting for %.3g s of %.3g s for %s", soon, seconds, what())

        timer = asyncio.get_running_loop().call_later(soon, warn)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self._event.wait()
                    if ready():
                        return
        except TimeoutError:
            raise DeadlineExceeded(f"waited {seconds:g} s for {what()}") from None
        finally:
            timer.cancel()
