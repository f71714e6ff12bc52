"""vLLM's processes end with the one that they work for, also where that is killed: nothing else tells them."""

import contextlib
import os
import select
import signal
import threading

OWNER = "TPO_DIST_VLLM_OWNER"
"""The environment variable through which they know its process id."""


def follow_owner() -> None:
    """End this process, which holds vLLM's model or a part of it, when its owner ends; nothing in other processes."""
    owner, above = int(os.environ.get(OWNER, "0")), os.getppid()
    if owner in (0, os.getpid()):
        return
    try:
        handle = os.pidfd_open(owner)
    except ProcessLookupError:
        os._exit(1)
    # Where several processes share the model, vLLM's engine is between them and the owner, and does not import this.
    engine = None if above == owner else above
    threading.Thread(target=_end_with, args=(handle, engine), daemon=True, name="owner").start()


def _end_with(owner: int, engine: int | None) -> None:
    watch = select.poll()
    watch.register(owner, select.POLLIN)
    watch.poll()  # for as long as the owner lives
    if engine is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(engine, signal.SIGKILL)
    os._exit(1)
