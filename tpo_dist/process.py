"""What a process that computes should set up for itself."""

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)
SAY_SECONDS = 10.0
"""After so long it is first said what a start waits for, which is no warning yet."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep what tensors free instead of giving it back and asking again (no effect elsewhere).

    Training allocates and frees the same megabytes in every pass; giving them back costs thousands of page faults a
    step, up to a tenth of the time.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)  # the largest that glibc accepts
        mallopt(_M_TRIM_THRESHOLD, 1024**3)


class TookTooLong(BaseException):
    """Code of a user's is not done in time; no Exception, which such code may catch."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raises TookTooLong in the block after `seconds`, and warns before that it waits for `what`. It interrupts Python
    and system calls; in a thread other than the first, where there are no signals, it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first = min(SAY_SECONDS, seconds / 2)
    warned = False

    def ring(*_: object) -> None:
        nonlocal warned
        if warned:
            raise TookTooLong
        warned = True
        _log.warning("waiting for %.3g s of %.3g s for %s", first, seconds, what)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, first, seconds - first)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def memory_bytes() -> int:
    """Memory that this process may use at most: the machine's, or its control group's where that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


def show_token() -> None:
    """A token that was set is meant to be shown: Ray heeds it only where RAY_AUTH_MODE says so as well.

    To be called before Ray is imported.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
