"""Finding the processes that a test started by what they run, so that it can kill them."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def pids_running(text: str, below: int | None = None) -> list[int]:
    """Descendants of a process (None: of this one) whose command line, or Ray's title for it, contains the text.

    Never anyone else's: other trainings may run on the same machine.
    """
    parents = {pid: _parent(pid) for pid in (int(f.name) for f in Path("/proc").iterdir() if f.name.isdigit())}
    found = []
    for pid in parents:
        above = parents[pid]
        while above and above != (below or os.getpid()):
            above = parents.get(above, 0)
        if above and text in _command(pid):
            found.append(pid)
    return found


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def lives(pid: int) -> bool:
    """Whether there is such a process; one that has ended, and is still in the table, is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> object:
    """The first true value of the condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:g} s for {what}")
