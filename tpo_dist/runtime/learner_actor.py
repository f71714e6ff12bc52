"""The learner in a process of its own: a thin Ray shell, no logic of its own."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from tpo_dist.blocks import Settled, Taken
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.learner.checkpoint import Checkpointer, Saved, load_checkpoint
from tpo_dist.learner.learner import Learner
from tpo_dist.metrics import Mean, Metrics, Sum, as_row
from tpo_dist.records import ScoredGroups, concatenate
from tpo_dist.runlog import log_lines
from tpo_dist.runtime.messages import (
    GRACE_SECONDS,
    SMALL_BYTES,
    Step,
    Whereabouts,
    ask,
    pack,
    set_up_process,
    unpack,
    whereabouts,
)

_log = logging.getLogger(__name__)


class LearnerShell:
    """The learner in a process of its own.

    Consumes blocks, produces snapshots and checkpoints; waits for the workers' blocks of each step.
    """

    def __init__(
        self,
        threads: int,
        make_learner: Callable[[], Learner],
        checkpointer: Checkpointer,
        start: Path | None,
        sign: Path | None = None,
    ) -> None:
        """`start`: the checkpoint to begin at. `sign`: a file in the run's folder as the driver has it."""
        set_up_process(threads)
        self._make_learner, self._start, self._sign = make_learner, start, sign
        self._checkpointer = checkpointer
        self._asked: Any = None
        self._newest: tuple[int, str, list[Any]] | None = None

    def ready(self) -> tuple[Whereabouts, int, Settled]:
        """Build the learner, at its checkpoint if it has one; where it stands. Raises whatever that raises, and
        UsageError where the run's folder is not here."""
        if self._sign is not None and not self._sign.exists():
            raise _not_shared(self._sign.parent)
        self._learner = self._make_learner()
        if self._start is not None:
            load_checkpoint(self._start, self._learner)
        self._saved_version = self._learner.version
        if self._sign is not None:
            log_lines(self._sign.parent, "learner", lambda: self._learner.version)
        return whereabouts("learner"), self._learner.version, Settled.from_json(self._learner.settled)

    def train(self, stream: Any, until: int, seconds: float) -> Iterator[Step]:
        """Train until so many steps are done or the stream is closed, whichever is first; report after each step.

        `seconds` bounds the wait for the groups of a step. The last step is followed by a checkpoint, and so is the
        closing of the stream, or a wait that fails.
        """
        if self._learner.version < until:
            self._ask(stream, seconds)
        finished = time.perf_counter()
        while self._learner.version < until:
            started = finished  # what lies between two steps belongs to the later one
            waiting = time.perf_counter()
            found = self._wait_for_groups(stream, seconds)
            if found is None:
                return
            blocks, settled, seen = found
            arrived = time.perf_counter()
            metrics, waited = {**self.update(blocks), **seen}, arrived - waiting
            self._learner.settled = settled.to_json()
            last = self._learner.version == until
            if last:
                advancing = stream.advance.remote(self._learner.version - 1, *self._snapshot())
            else:
                self._ask(stream, seconds)  # the next groups come while this step is saved and told of
            so_far = time.perf_counter() - started
            self._learner.rows.append(as_row(self._learner.version, _with_waits(metrics, waited, so_far), so_far))
            saved = self._save(last=last)
            finished = time.perf_counter()
            whole = finished - started
            if last:
                ask(advancing, GRACE_SECONDS, "the stream to note the last step")
            told = _with_waits(metrics, waited, whole)
            yield self._learner.version, told, whole, saved.path, saved.problem, self._learner.sample

    def update(self, blocks: list[ScoredGroups]) -> Metrics:
        """One training step on these groups."""
        return self._learner.update(concatenate(blocks))

    def _wait_for_groups(self, stream: Any, seconds: float) -> tuple[list[ScoredGroups], Settled, Metrics] | None:
        """The blocks of the next step; where there are none, a checkpoint of the last one."""
        try:
            while True:
                taken, seen = ask(self._asked, seconds + GRACE_SECONDS, "the groups of its next step")
                if taken is None:
                    break
                blocks = self._accept(stream, taken, seconds)
                if blocks is not None:
                    return blocks, taken.settled, seen
                self._ask(stream, seconds)
        except (RayError, TimeoutError):
            try:
                self._save_progress()
            except RunFailed as second:
                _log.error("%s", second)  # the run ends for the first reason
            raise
        self._save_progress()
        return None

    def _accept(self, stream: Any, taken: Taken, seconds: float) -> list[ScoredGroups] | None:
        """The groups of a step; None where some were lost or are refused, and have been sent back."""
        blocks: list[ScoredGroups] = []
        for position, found in enumerate(fetch(taken.payloads, seconds)):
            blame: list[str] = []
            stamps: list[tuple[int, str]] = []
            if isinstance(found, RayError):
                reason: str | None = f"the groups were lost on the way ({type(found).__name__})"
            else:
                reason = self._learner.refusal(found)
                blame = [] if reason is None else [taken.workers[position]]
                stamps = _stamps(found)
                blocks.append(found)
            if reason is not None:
                refusing = stream.refuse.remote([taken.blocks[position]], blame, reason, stamps)
                ask(refusing, GRACE_SECONDS, "the stream")
                return None
        return blocks

    def _save(self, *, last: bool) -> Saved:
        saved = self._checkpointer.after_step(self._learner, last=last)
        if saved.path is not None:
            self._saved_version = self._learner.version
        return saved

    def _save_progress(self) -> None:
        if self._learner.version > self._saved_version:
            self._save(last=True)

    def _snapshot(self) -> tuple[int, str, list[Any]]:
        """The newest published snapshot, made where it is due."""
        version = self._learner.version
        if self._newest is None or (self._newest[0] != version and self._learner.publishes(version)):
            snapshot = self._learner.current()
            content = pack(snapshot) if snapshot.nbytes <= SMALL_BYTES else ray.put(snapshot)
            self._newest = snapshot.version, snapshot.digest, [content]
        return self._newest

    def _ask(self, stream: Any, seconds: float) -> None:
        """Ask for the groups of the next step, which says that the last one is trained, and brings the snapshot."""
        self._asked = stream.take.remote(self._learner.version, seconds, *self._snapshot())


def _not_shared(folder: Path) -> UsageError:
    """What it saved there would be lost to the run, and it would begin at step 0 again after its death."""
    return UsageError(
        f"the learner on node {os.uname().nodename}",
        f"does not see the run's folder {folder} as the driver has it, and has to keep its checkpoints there",
        "give a runs_dir that every node shares under the same path, or set learner.node=driver to keep the learner "
        "where the driver is",
    )


def _stamps(groups: ScoredGroups) -> list[tuple[int, str]]:
    """Version and digest of the snapshots that sampled the groups."""
    digests = (digest.decode(errors="backslashreplace") for digest in groups.snapshot_digests.tolist())
    return sorted(set(zip(groups.snapshot_versions.tolist(), digests, strict=True)))


def _with_waits(metrics: Metrics, waited: float, whole: float) -> Metrics:
    """`waited`: for groups, of the `whole` step (seconds)."""
    return {**metrics, "wait_seconds": Sum(waited), "learner_idle_share": Mean(waited / whole)}


def fetch(payloads: list[Any], seconds: float) -> list[ScoredGroups | RayError]:
    """The groups of blocks, in order, all parcels at once; what became of those whose maker or node died."""
    references = list(dict.fromkeys(payload[0] for payload in payloads if not isinstance(payload, bytes)))
    try:
        parcels = dict(zip(references, ray.get(references, timeout=seconds), strict=True))
    except RayError:
        parcels = {reference: _get(reference, seconds) for reference in references}
    return [_open(payload, parcels) for payload in payloads]


def _get(reference: Any, seconds: float) -> Any:
    try:
        return ray.get(reference, timeout=seconds)
    except RayError as error:
        return error


def _open(payload: Any, parcels: dict[Any, Any]) -> Any:
    if isinstance(payload, bytes):
        return unpack(payload)
    reference, place = payload
    parcel = parcels[reference]
    return parcel if isinstance(parcel, RayError) else parcel[place]


LearnerActor: Any = ray.remote(LearnerShell)
