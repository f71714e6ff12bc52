"""The ranks of a learner: processes that share the weights and the work, and do everything together.

Rank 0 is the process of the learner itself. It starts the others (`rank.py`), tells them each call over a socket, takes
part in it, and hears how it went there. All are on one machine: they meet on the loopback device.

A wait for the others ends: every collective after `seconds`, and at once where a process is gone. What is left of the
team is then of no use; the learner begins again from its newest checkpoint.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed.device_mesh import init_device_mesh

from tpo_dist.errors import RunFailed
from tpo_dist.learner.other_rank import OtherRank, describe
from tpo_dist.policies.contract import Policy

_log = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0
"""After a call failed here: for the others to say what they know of it."""
_STUCK_SECONDS = 60.0
"""A process that is still in a call so long after another rank's death hangs in a collective, and ends itself."""


class RankLost(RunFailed):
    """A rank of the learner died, failed or fell silent; the message says which, in what call, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rank stands."""

    rank: int
    size: int
    port: int
    """Of the store on the loopback device where the ranks meet."""
    device: str
    """torch device of the run, such as cpu or cuda; each rank takes the GPU of its own number."""
    seconds: float
    """For each collective."""


class Team:
    """All ranks, seen from one of them; alone, there is nothing to share."""

    rank, size = 0, 1

    def device(self, named: str) -> torch.device:
        """The device of this rank."""
        return torch.device(named)

    def place(self, policy: Policy, device: torch.device) -> Policy:
        """The policy on its device, its weights divided between the ranks."""
        return policy.to(device)

    def total(self, values: Tensor) -> Tensor:
        """The sum over the ranks, each of which has computed some of the values and has 0 for the others."""
        return values

    def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What `call(learner, …)` gives here, once every rank has done it; the first argument is each rank's own
        learner. Raises what it raises, and RankLost where another rank does not come along."""
        return call(*arguments)

    def close(self) -> None:
        """End the other ranks."""


ALONE = Team()


class Member(Team):
    """One rank of several. The process joins the group that torch's collectives run in, of which there is one."""

    def __init__(self, place: Place, store: Store | None = None) -> None:
        """Waits until all ranks have joined. `store`: rank 0's own."""
        self.rank, self.size, self._named = place.rank, place.size, place.device
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        wait = timedelta(seconds=place.seconds)
        backend = "cpu:gloo,cuda:nccl" if place.device.startswith("cuda") else "gloo"
        if place.device.startswith("cuda"):
            torch.cuda.set_device(place.rank)
        store = store or TCPStore("127.0.0.1", place.port, is_master=False, timeout=wait)
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=wait)
        self._mesh = init_device_mesh(place.device.partition(":")[0], (place.size,))

    def device(self, named: str) -> torch.device:
        """The GPU of this rank's number, or the CPU."""
        return torch.device(named, self.rank) if named.startswith("cuda") else torch.device(named)

    def place(self, policy: Policy, device: torch.device) -> Policy:
        """The policy, each of its weights in as many pieces as there are ranks, one on each device."""
        from tpo_dist.learner.sharding import shard  # slow to import, and rarely used

        shard(policy, self._mesh)
        return policy

    def total(self, values: Tensor) -> Tensor:
        """One all-reduce; exact, as each value comes from one rank."""
        values = values.contiguous()
        dist.all_reduce(values)
        return values


class Leader(Member):
    """Rank 0: starts the others and tells them what to do."""

    def __init__(self, size: int, device: str, threads: int, seconds: float, start_seconds: float, make: Any) -> None:
        """`make(team)` gives a rank its learner, and can be pickled. `seconds`: for each collective and each call,
        `start_seconds`: until the processes are there. Raises RankLost where they are not in time, or fail."""
        self._seconds, self._busy, self._gpus = seconds, "", device.startswith("cuda")
        self._ended, self._watcher = threading.Event(), threading.Thread(target=self._watch, daemon=True)
        wait = timedelta(seconds=seconds)
        store = TCPStore("127.0.0.1", 0, is_master=True, timeout=wait, wait_for_workers=False)
        places = [Place(rank=rank, size=size, port=store.port, device=device, seconds=seconds) for rank in range(size)]
        self._others = {place.rank: OtherRank(threads) for place in places[1:]}
        try:
            for rank, other in self._others.items():
                other.say((places[rank], make), start_seconds)
            self._hear_all("its start", start_seconds)  # imports; a process that cannot even do that is found here
            with self._watched("its start"):
                super().__init__(places[0], store)
        except BaseException:
            self.close()
            raise
        self._watcher.start()

    @property
    def pids(self) -> dict[int, int]:
        """The process of each other rank."""
        return {rank: other.process.pid for rank, other in self._others.items()}

    def ready(self) -> None:
        """Wait until every rank has its learner. Raises RankLost."""
        try:
            self._hear_all("building its learner", self._seconds)
        except BaseException:
            self.close()
            raise

    def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """As `Team.run`. After a failure that the ranks do not share, the team is closed."""
        if self._ended.is_set():
            raise RankLost("the ranks of this learner have been ended")
        what = call.__name__.strip("_")
        try:
            with self._watched(what):
                for other in self._others.values():
                    other.say((call, arguments[1:]), self._seconds)
                result = call(*arguments)
                self._hear_all(what, self._seconds)
                return result
        except BaseException as error:
            if not isinstance(error, Exception) or not self._agreed:
                self.close()
                raise
            for other in self._others.values():
                other.say(None, self._seconds)
            raise

    @contextlib.contextmanager
    def _watched(self, what: str) -> Any:
        """A call that all take part in: what fails here because of another rank is said to be that rank's."""
        self._busy, self._agreed = what, False
        try:
            yield
        except RankLost:
            raise
        except Exception as error:
            if (why := self._blame(what, error)) is not None:
                raise RankLost(why) from error
            raise
        finally:
            self._busy = ""

    def _blame(self, what: str, error: Exception) -> str | None:
        """Which other rank an error comes from; None where it is this one's own, and the others saw it too."""
        silent: list[str] = []
        alike = 0
        failed: list[tuple[bool, str]] = []
        for rank, other in self._others.items():
            try:
                trouble = other.hear(_GRACE_SECONDS)
            except TimeoutError:
                silent.append(str(rank))
            except OSError:
                return f"rank {rank} of the learner {other.ending()} during {what}"
            else:
                if trouble == describe(error):
                    alike += 1
                elif trouble is not None:
                    met = trouble[0] in ("RuntimeError", "DistBackendError")  # what others see of a rank in trouble
                    failed.append((met, f"rank {rank} of the learner failed during {what}: {trouble[1]}"))
        collective = isinstance(error, RuntimeError)  # as torch's raise
        if silent and collective and all(met for met, _ in failed):
            return f"waited {self._seconds:g} s for rank {', '.join(silent)} of the learner in {what} ({error})"
        self._agreed = alike == len(self._others)
        return min(failed)[1] if failed else None

    def _hear_all(self, what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        for rank, other in self._others.items():
            try:
                trouble = other.hear(max(0.1, end - time.monotonic()))
            except TimeoutError:
                raise RankLost(f"waited {seconds:g} s for rank {rank} of the learner in {what}") from None
            except OSError:
                raise RankLost(f"rank {rank} of the learner {other.ending()} during {what}") from None
            if trouble is not None:
                raise RankLost(f"rank {rank} of the learner failed during {what}: {trouble[1]}")

    def _watch(self) -> None:
        """GPUs' collectives do not end by themselves when a process is gone: see that this one does not hang there."""
        while all(other.process.poll() is None for other in self._others.values()):
            if self._ended.wait(1.0):
                return
        call = self._busy
        if not self._ended.wait(_STUCK_SECONDS) and call and self._busy:
            _log.error("a rank of the learner died during %s, and this process hangs in it: it ends itself", call)
            os._exit(1)

    def close(self) -> None:
        """End the other ranks; there is no further call."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._watcher.is_alive():
            self._watcher.join()
        whole = all(other.process.poll() is None for other in self._others.values())
        for other in self._others.values():
            other.end()
        if dist.is_initialized() and (whole or not self._gpus):  # NCCL would wait for the dead
            dist.destroy_process_group()
