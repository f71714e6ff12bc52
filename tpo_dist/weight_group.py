"""Weights on their way by a process group of torch: from one process that has them to a few that take them.

Rank 0 has the weights; every other rank takes all of them. The group is made for that alone, beside any other that a
process may be in: gloo, or NCCL where each rank has a GPU of its own. Weights leave host memory and arrive there, since
their digest is taken there; NCCL carries them from GPU to GPU in between.

Every wait ends: meeting, and each transfer, after `Wire.seconds`, and a transfer at once where a connection closes. A
group that has failed is of no use any more; those who are left meet anew.
"""

import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from tpo_dist.records import Array, Snapshot
from tpo_dist.weight_buckets import Bucket, Entry, buckets, packed, unpacked

_LOOK_SECONDS = 1.0


class TransferFailed(RuntimeError):
    """The group has failed; the message says who was waited for, or is gone."""


@dataclass(frozen=True, slots=True)
class Wire:
    """How a rollout worker gets its weights from the learner, where not through Ray's object store."""

    backend: Literal["gloo", "nccl"]
    seconds: float
    """For meeting, and for each transfer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Where the ranks of a group meet. Can be pickled, and is JSON but for its class."""

    host: str
    port: int
    """Of a TCPStore that is one of theirs."""
    name: str
    """No two meetings have the same; whoever does not know it finds nothing in the store."""
    size: int
    """Ranks, the one that has the weights included."""
    backend: Literal["gloo", "nccl"]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A snapshot whose weights are still with the learner."""

    header: Snapshot
    """It has no arrays."""
    entries: tuple[Entry, ...]
    """What the arrays are, in the order in which they travel."""
    source: str
    """Of the process that has them: another one has another group."""


class Sender(Protocol):
    """The way to whoever has announced weights."""

    @property
    def host(self) -> str:
        """The address of this node for others."""
        ...

    def send(self, meeting: Meeting) -> Callable[[], None]:
        """Have the weights sent to those who meet there; what it gives waits for the end of that, and raises what went
        wrong at the other end."""
        ...


def announce(snapshot: Snapshot, source: str) -> Announcement:
    """Everything that is to be known of a snapshot but its weights."""
    entries = tuple((name, array.dtype.str, array.shape) for name, array in sorted(snapshot.arrays.items()))
    header = Snapshot(
        version=snapshot.version,
        arrays={},
        digest=snapshot.digest,
        probe_tokens=snapshot.probe_tokens,
        probe_logps=snapshot.probe_logps,
    )
    return Announcement(header=header, entries=entries, source=source)


def open_meeting(host: str, size: int, wire: Wire) -> tuple[Meeting, Store]:
    """A place to meet at this node's address, and what keeps it open: whoever drops the store closes it."""
    wait = timedelta(seconds=wire.seconds)
    with socket.create_server((host, 0)) as door:  # torch alone would listen at all addresses
        port = door.getsockname()[1]
        store = TCPStore(host, port, None, True, wait, False, False, os.dup(door.fileno()))
    name = uuid.uuid4().hex
    meeting = Meeting(host=host, port=port, name=name, size=size, backend=wire.backend, seconds=wire.seconds)
    return meeting, store


class WeightGroup:
    """One rank's end of a group. One transfer at a time."""

    def __init__(self, meeting: Meeting, rank: int, host: str, others: str) -> None:
        """Meet the others. `host`: the address of this node; `others`: what errors call them. With NCCL, the GPU is the
        current one. Raises TransferFailed where they do not come in time."""
        self._seconds, self._others = meeting.seconds, others
        self._device = torch.device("cuda", torch.cuda.current_device()) if meeting.backend == "nccl" else None
        self._group: Any = None
        self._door = socket.create_server((host, 0), backlog=1024) if rank == 0 else None  # nobody is let in
        if self._door is not None:
            weakref.finalize(self, self._door.close)
        end = time.monotonic() + meeting.seconds
        with self._failing(end, "meet"):
            wait = timedelta(seconds=meeting.seconds)
            store = PrefixStore(meeting.name, TCPStore(meeting.host, meeting.port, None, False, wait))
            self._place = meeting.host, meeting.port
            if self._door is None:
                address, port = store.get("door").decode().rsplit(" ", 1)
                self._place = address, int(port)
            else:
                store.set("door", f"{host} {self._door.getsockname()[1]}")
            self._group = _make_group(store, rank, meeting, host)
            self._wait(self._first_broadcast(end), end)

    def send(self, arrays: Mapping[str, Array]) -> None:
        """From rank 0: every array to all others. Raises TransferFailed where they do not take them in time."""
        end = time.monotonic() + self._seconds
        with self._failing(end, "take its weights"):
            under_way: list[tuple[Any, Tensor]] = []
            for bucket in buckets([(name, each.dtype.str, each.shape) for name, each in sorted(arrays.items())]):
                content = packed(bucket, arrays)
                content = content if self._device is None else content.to(self._device)
                under_way.append((self._broadcast(content, end), content))
                if len(under_way) == 2:  # while one travels, the next is packed
                    self._wait(under_way.pop(0)[0], end)
            for work, _ in under_way:
                self._wait(work, end)

    def receive(self, entries: Sequence[Entry]) -> Iterator[tuple[str, Array]]:
        """At the other ranks: these arrays, each as soon as it is here, in memory of its own. Raises TransferFailed
        where they do not come in time."""
        end = time.monotonic() + self._seconds
        with self._failing(end, "send weights"):
            coming = buckets(entries)
            expected = self._expect(coming[0], end) if coming else None
            for bucket, following in zip(coming, [*coming[1:], None], strict=True):
                assert expected is not None, "there is a bucket"
                work, content = expected
                expected = None if following is None else self._expect(following, end)
                self._wait(work, end)
                yield from unpacked(bucket, content.cpu().numpy())

    def _expect(self, bucket: Bucket, end: float) -> tuple[Any, Tensor]:
        content = torch.empty(bucket.size, dtype=torch.uint8, device=self._device)
        return self._broadcast(content, end), content

    def _first_broadcast(self, end: float) -> Any:
        """NCCL connects when it is first used, and waits without a deadline for a rank that has died meanwhile."""
        begun: list[Any] = []

        def begin() -> None:
            try:
                if self._device is not None:
                    torch.cuda.set_device(self._device)  # each thread has its own
                begun.append(self._broadcast(torch.zeros(1, dtype=torch.uint8, device=self._device), end))
            except RuntimeError as error:
                begun.append(error)

        connecting = threading.Thread(target=begin, name="joining a group", daemon=True)
        connecting.start()
        connecting.join(max(0.01, end - time.monotonic()))
        if not begun or isinstance(begun[0], RuntimeError):
            raise begun[0] if begun else RuntimeError("they do not connect")
        return begun[0]

    def _broadcast(self, content: Tensor, end: float) -> Any:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        options.timeout = timedelta(seconds=max(0.01, end - time.monotonic()))
        if self._group is None:
            raise RuntimeError("the group was left")
        return self._group.broadcast([content], options)

    def _wait(self, work: Any, end: float) -> None:
        """gloo does not always notice that a process died while the two talked: look whether it lives."""
        while True:
            left = max(0.01, end - time.monotonic())
            look = left if self._device is not None else min(left, _LOOK_SECONDS)  # NCCL gives up with its first wait
            try:
                work.wait(timedelta(seconds=look))
                return
            except RuntimeError:
                if look == left or work.is_completed():
                    raise
            self._look()

    def _look(self) -> None:
        """Rank 0 looks for the process that opened the meeting, the others for rank 0: each listens somewhere."""
        try:
            socket.create_connection(self._place, _LOOK_SECONDS).close()
        except ConnectionRefusedError:
            raise RuntimeError("its process is gone") from None
        except OSError:
            pass  # so nothing is known, and the deadline holds

    @contextmanager
    def _failing(self, end: float, what: str) -> Iterator[None]:
        """Inside, what torch raises is said in words, and ends the group."""
        try:
            yield
        except RuntimeError as error:
            late = time.monotonic() > end - 0.1  # as torch counts them
            self.close()
            if late:
                raise TransferFailed(f"waited {self._seconds:g} s for {self._others} to {what}") from error
            raise TransferFailed(f"{self._others} did not {what}: {str(error).splitlines()[0]}") from error

    def close(self) -> None:
        """Leave the group; what is under way fails at the other ends."""
        if self._door is not None:
            self._door.close()
        left, self._group = [self._group], None
        if left[0] is not None:  # gloo's end waits for what is under way, up to its deadline
            threading.Thread(target=lambda: left.pop().abort(), name="leaving a group").start()


def _make_group(store: Store, rank: int, meeting: Meeting, host: str) -> Any:
    if meeting.backend == "gloo":
        gloo: Any = dist.ProcessGroupGloo
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname=host)]
        options._timeout, options._threads = timedelta(seconds=meeting.seconds), 1
        return gloo(store, rank, meeting.size, options)
    nccl: Any = dist.ProcessGroupNCCL  # which torch has where it was built for GPUs
    options = nccl.Options()
    options._timeout = timedelta(days=1)  # each wait here has its own; NCCL's watchdog would end the process
    before = os.environ.get(_WATCHDOG)
    os.environ[_WATCHDOG] = "0"  # as above, where a rank dies; it is read while the group is made
    try:
        return nccl(store, rank, meeting.size, options)
    finally:
        if before is None:
            del os.environ[_WATCHDOG]
        else:
            os.environ[_WATCHDOG] = before


_WATCHDOG = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
