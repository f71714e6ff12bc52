"""What the processes of a run say to each other, and how they ask with a deadline."""

import faulthandler
import os
import pickle
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError

from tpo_dist.blocks import BlockSummary, Lease
from tpo_dist.learner.sample import GroupSample
from tpo_dist.metrics import Metrics
from tpo_dist.process import keep_freed_memory
from tpo_dist.quarantine import GroupFailure

Step = tuple[int, Metrics, float, str | None, str | None, tuple[GroupSample, ...]]
"""Steps done, metrics, seconds, checkpoint written, why one was not, and a few groups: what the learner reports after
each step."""

SMALL_BYTES = 65_536
"""Groups up to this size travel by value: cheaper than a reference, and they outlive the worker that made them."""

GRACE_SECONDS = 60.0
"""Beyond a wait's own deadline, for a stream that is being restarted to answer."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a process of the run lives."""

    name: str
    pid: int
    node: str
    """Ray's id of the node."""
    host: str
    boot: str
    """Of the machine: tells apart hosts of one name, and finds that two nodes are one machine."""
    stacks_fd: int
    """Its descriptor of the file that its stacks go to."""
    began: str
    """When it did, as its machine counts: another process may get its number."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A finished block on its way to the stream."""

    lease: Lease
    summary: BlockSummary
    small: bytes | None = None
    """The groups, packed, where they travel by value and so need no worker to live on; the stream does not look at
    them."""
    place: int | None = None
    """Else their place in the parcel, the one object that has all large groups of a turn. Neither where every group
    failed."""
    failures: tuple[GroupFailure, ...] = ()
    """For the quarantine."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A worker hands in the blocks that it has made, if any, and asks for the next ones."""

    worker: str
    loaded: tuple[int, str]
    """Version and digest of the weights that it has: it gets a snapshot only where it needs another."""
    deliveries: tuple[Delivery, ...]
    most: int
    """How many blocks it would take on at once."""
    seconds: float
    """How long it waits for a lease."""


def pack(message: Any) -> bytes:
    """For short messages: Ray passes bytes as they are; its own pickling takes ten times as long for small objects."""
    return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)


def unpack(packed: bytes) -> Any:
    """What a process of this run packed. Arrays that were read-only still are."""
    return pickle.loads(packed)  # noqa: S301 (from a process of this run, which runs what we give it)


def receive(content: Any, seconds: float) -> Any:
    """What came packed or, where it is large, as a reference. Raises RayError as Ray does."""
    return unpack(content) if isinstance(content, bytes) else ray.get(content, timeout=seconds)


def milestone_due(version: int, last: int, every: int | None) -> bool:
    """Whether a published version is one that an evaluator gets: the first at or after each multiple of `every`.
    `last`: the newest such; -1 before the first."""
    return every is not None and (last < 0 or version // every > last // every)


def ask(reference: Any, seconds: float, what: str) -> Any:
    """The answer to a call. Raises TimeoutError, naming what was waited for, after `seconds`; RayError as Ray does."""
    try:
        return ray.get(reference, timeout=seconds)
    except GetTimeoutError:
        raise TimeoutError(f"waited {seconds:g} s for {what}, and its process does not answer") from None


def whereabouts(name: str) -> Whereabouts:
    """Of the process that calls."""
    context = ray.get_runtime_context()
    pid, host = os.getpid(), os.uname().nodename
    return Whereabouts(name, pid, context.get_node_id(), host, boot_id(), _stacks_fd, began(pid))


def boot_id() -> str:
    """Of this machine, or container's process table, since it was started."""
    pids = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return (boot.read_text().strip() if boot.exists() else "") + pids


def began(pid: int) -> str:
    """When a process of this machine began, in the kernel's ticks; empty where there is no such process."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else fields[18]  # see proc_pid_stat(5); a zombie is gone but for its number


def set_up_process(threads: int) -> None:
    """Threads and memory of a process of a run, and stacks on SIGUSR2, which even a process that hangs can write."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    global _stacks_fd
    with tempfile.TemporaryFile() as file:  # without a name, so that nothing is left of it
        _stacks_fd = os.dup(file.fileno())
    faulthandler.register(signal.SIGUSR2, file=_stacks_fd, all_threads=True, chain=False)


_stacks_fd = -1
