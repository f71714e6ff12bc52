"""One process at a time in the folder of a run."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tpo_dist.errors import UsageError

LOCK = "run.lock"
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
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 300).decode(errors="replace").strip() or "another process"
            reason = f"{holder} is training this run and holds this lock"
            raise UsageError(str(path), reason, "let it end, or end it with Ctrl-C or SIGTERM") from None
        except OSError as error:  # some network file systems have no locks, and training there has to be possible
            _log.warning(
                "%s cannot be locked (%s); see to it that only one process trains this run", path, error.strerror
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # which gives the lock back; the file stays, for removing it would race with a newcomer
