"""Acting on a process of the run, wherever its node is: its stacks, and its end."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tpo_dist.runtime.messages import Whereabouts, began, boot_id

_SECONDS = 20.0
_log = logging.getLogger(__name__)


def log_stacks(of: Whereabouts, why: str) -> None:
    """Log the stacks of a silent process, without waiting for them: they take seconds."""
    threading.Thread(target=_log_stacks, args=(of, why), name="stacks", daemon=True).start()


def _log_stacks(of: Whereabouts, why: str) -> None:
    try:
        text = stacks_of(of.pid, of.stacks_fd) if _is_here(of) else _on_node(of, _stacks)
    except Exception as error:  # noqa: BLE001
        text = f"none ({error})"  # a thread of its own has nobody else to tell
    _log.warning("%s: the stacks of process %d on %s:\n%s", why, of.pid, of.host, text.strip())


def kill(of: Whereabouts) -> None:
    """SIGKILL, which ends even a process that is stopped or holds its interpreter; nobody waits for it."""
    if _is_here(of):
        with contextlib.suppress(OSError):
            if is_there(of):
                os.kill(of.pid, signal.SIGKILL)
    else:
        _kill.options(scheduling_strategy=NodeAffinitySchedulingStrategy(of.node, soft=False)).remote(of.pid)


def is_there(of: Whereabouts) -> bool:
    """Whether the process still exists; assumed of one on another machine."""
    return not _is_here(of) or began(of.pid) == of.began


def _is_here(of: Whereabouts) -> bool:
    return of.host == os.uname().nodename and of.boot == boot_id()


def _on_node(of: Whereabouts, action: Any) -> str:
    where = NodeAffinitySchedulingStrategy(of.node, soft=False)
    try:
        answer: str = ray.get(action.options(scheduling_strategy=where).remote(of.pid, of.stacks_fd), timeout=_SECONDS)
    except RayError as error:
        return f"its node does not answer ({type(error).__name__})"
    return answer


def stacks_of(pid: int, stacks_fd: int) -> str:
    """The stacks of a process on this machine, or why there are none."""
    spy = Path(sys.executable).with_name("py-spy")
    command = str(spy) if spy.exists() else shutil.which("py-spy")
    if command is not None:
        seen = subprocess.run(
            [command, "dump", "--nonblocking", "--pid", str(pid)],
            capture_output=True,
            text=True,
            timeout=_SECONDS / 2,
            check=False,
        )
        if seen.returncode == 0:
            return seen.stdout
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGUSR2)  # where py-spy may not look, the process writes its stacks itself
        time.sleep(0.5)
        written = Path(f"/proc/{pid}/fd/{stacks_fd}").read_text(encoding="utf-8", errors="replace")
        return written or "it wrote nothing: the process is stopped"
    return "the process is gone"


@ray.remote(num_cpus=0, max_retries=0)
def _stacks(pid: int, stacks_fd: int) -> str:
    return stacks_of(pid, stacks_fd)


@ray.remote(num_cpus=0, max_retries=0)
def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
