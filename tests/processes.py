"""Finding real processes by what they run, so that tests can kill them."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def pids_running(text: str) -> list[int]:
    """Processes whose command line (or Ray's title for it) contains the text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in command:
                found.append(int(folder.name))
    return found


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> object:
    """The first true value of the condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:g} s for {what}")
