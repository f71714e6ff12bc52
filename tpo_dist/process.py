"""What a process that computes should set up for itself."""

import ctypes
import os
import sys
from pathlib import Path

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
