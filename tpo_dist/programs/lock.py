"""One process at a time in the folder of a run."""

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tpo_dist.errors import UsageError

LOCK = "run.lock"
SOMEONE = "another process"
"""Whoever holds the lock and has not written down its name yet."""
_LOOKS = 5
_LOOK_SECONDS = 0.05
_log = logging.getLogger(__name__)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Inside, no other process trains the run in this folder; the lock ends with its holder, however that dies.

    Raises UsageError, naming the file and the holder, where another process has it.
    """
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise UsageError(str(path), reason, "give a folder that can be written") from None
    try:
        try:
            _lock(descriptor)
        except BlockingIOError:
            reason = f"{_said(descriptor)} is training this run and holds this lock"
            raise UsageError(str(path), reason, "let it end, or end it with Ctrl-C or SIGTERM") from None
        except OSError as error:  # some network file systems have no locks, and training there has to be possible
            _log.warning(
                "%s cannot be locked (%s); see to it that only one process trains this run", path, error.strerror
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{process_name(os.getpid(), socket.gethostname())}\n".encode())
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # which gives the lock back; the file stays, for removing it would race with a newcomer


def holder(folder: Path) -> str | None:
    """The process that trains the run in this folder, by its `process_name`; None where there is none.

    A look takes nothing away: whoever wants the lock in that instant tries again. Where the file system has no locks,
    it is whoever wrote down its name and did not end in order.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _said(descriptor)
    except OSError:
        return _said(descriptor, default="") or None
    else:
        return None
    finally:
        os.close(descriptor)


def process_name(pid: int, host: str) -> str:
    """How a process is called in `run.lock`."""
    return f"process {pid} on {host}"


def _lock(descriptor: int) -> None:
    """Take the lock. Raises BlockingIOError where another process keeps it for longer than a look at it takes."""
    for _ in range(_LOOKS):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOOK_SECONDS)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _said(descriptor: int, default: str = SOMEONE) -> str:
    return os.pread(descriptor, 300, 0).decode(errors="replace").strip() or default
