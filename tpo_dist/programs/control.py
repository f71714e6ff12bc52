"""Talking to a run through files in its folder: no Ray is needed in the other terminal.

driver --status.json, each second--> `tpo-dist status`, `tpo-dist scale`
driver <--fleet.json, one wish------ `tpo-dist scale`, which waits until a status says that the wish was heard
driver --faults.jsonl, a line each-> whoever wants to know what broke
"""

import errno
import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tpo_dist.errors import UsageError
from tpo_dist.programs.folder import write_whole
from tpo_dist.programs.lock import process_name
from tpo_dist.supervision import State

STATUS, WISH, FAULTS = "status.json", "fleet.json", "faults.jsonl"

Count = Annotated[int, Field(ge=0)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WorkerStatus(_Message):
    """One rollout worker."""

    name: str
    pid: int | None = None
    node: str | None = None
    state: State
    block: int | None = None
    """The one it holds."""
    seconds: float
    """In this state."""
    version: int | None = None
    """Of the snapshot that it has loaded."""
    blocks: Count = 0
    """Handed in so far."""
    restarts: Count = 0


class RolloutStatus(_Message):
    """The fleet."""

    wanted: Count
    alive: Count
    """Processes that are up, the retiring ones among them."""
    auto: bool = False
    """The size follows the learner's idle share."""
    workers: tuple[WorkerStatus, ...] = ()


class StreamStatus(_Message):
    """Blocks by state, counted over the run, and the pace."""

    pid: int | None = None
    queued: Count
    in_flight: Count
    ready: Count
    trained: Count
    failed: Count
    reissued: Count = 0
    dropped: Count = 0
    failed_groups: dict[str, int] = {}
    """By cause."""
    groups_per_second: float | None = None
    workers_idle: float | None = None
    """Share of the workers' time, 0 to 1."""


class LearnerStatus(_Message):
    """The process that trains."""

    pid: int | None = None
    node: str | None = None
    state: Literal["starting", "waiting", "training", "restarting", "done"]
    waits_for: str | None = None
    seconds: float
    """In this state."""
    idle_share: float | None = None
    """Share of its time, 0 to 1, spent waiting for groups."""
    restarts: Count = 0


class Status(_Message):
    """`status.json`: what a driver says of its run about every second."""

    run: str
    status: Literal["starting", "running", "stopping", "completed", "interrupted", "failed"]
    pid: int
    host: str
    updated: float
    """Seconds since the epoch, by the driver's clock."""
    step: Count
    """Steps finished."""
    steps: Count
    version: int
    """Newest published; -1 before the first."""
    max_staleness: Count
    rollouts: RolloutStatus
    stream: StreamStatus
    learner: LearnerStatus
    faults: dict[str, int] = {}
    """How often what happened, by kind."""
    wish_id: str | None = None
    """The newest wish for another fleet that the driver has taken note of."""
    last_wish_error: str | None = None
    """Why it does not obey that wish. None: it does."""


class Wish(_Message):
    """`fleet.json`: how many rollout workers somebody asked for."""

    id: str
    rollouts: Annotated[int, Field(ge=1)] | Literal["auto"]
    at: float
    """Seconds since the epoch."""
    asked_by: str


class Fault(_Message):
    """One line of `faults.jsonl`: something broke, and what became of it."""

    at: Annotated[float, Field(ge=0, lt=1e11)]
    """When it was noticed, in seconds since the epoch."""
    role: str
    """worker, stream, learner, node …"""
    name: str
    what: str
    """Short and countable, such as killed, hung, died, poisoned."""
    reason: str
    detected_seconds: float | None = None
    """From when it broke, as far as that is known, until it was noticed."""
    recovered_seconds: float | None = None
    """From when it was noticed until another one was at work. None: nothing came back."""
    step: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """Steps finished by then."""


def write_status(folder: Path, status: Mapping[str, Any]) -> None:
    """`status.json`, whole: the fields of `Status`; pid, host and updated are those of this process and moment.

    Raises ValidationError for what is no status, OSError where the disk is full.
    """
    own = {"pid": os.getpid(), "host": socket.gethostname(), "updated": time.time()}
    write_whole(folder / STATUS, Status.model_validate({**own, **status}).model_dump_json(indent=2) + "\n")


def read_status(folder: Path) -> Status | None:
    """What the driver said last; None where none ever did. Raises UsageError for a file that is no status."""
    return _read(folder / STATUS, Status, "a running driver writes it anew within a second; otherwise remove it")


def request_rollouts(folder: Path, rollouts: int | Literal["auto"]) -> Wish:
    """Ask the driver for so many rollout workers, in place of what was asked for before; the wish.

    Raises UsageError where the folder cannot be written.
    """
    asked_by = process_name(os.getpid(), socket.gethostname())
    wish = Wish(id=uuid.uuid4().hex, rollouts=rollouts, at=time.time(), asked_by=asked_by)
    path, own = folder / WISH, folder / f".{WISH}.{wish.id}"  # of its own: several may ask at the same time
    try:
        own.write_text(wish.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(own, path)
    except OSError as error:
        own.unlink(missing_ok=True)
        raise UsageError(str(path), f"cannot be written ({error.strerror})", "ask as the user who trains it") from None
    return wish


def read_wish(folder: Path) -> Wish | None:
    """The newest wish, obeyed or not; None where nobody asked. Raises UsageError for a file that is no wish."""
    return _read(folder / WISH, Wish, "remove it, and ask again with tpo-dist scale")


def forget_wish(folder: Path) -> None:
    """For a driver that starts: what was asked of the one before it is not asked of it.

    To be called with the lock held and before the first status is written: `tpo-dist scale` asks only after that.
    """
    (folder / WISH).unlink(missing_ok=True)


class FaultLog:
    """Appends to `faults.jsonl`; a line that a killed process left torn is cut off."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the file cannot be written."""
        self._path = folder / FAULTS
        _cut_torn_line(self._path)

    def append(self, fault: Fault) -> None:
        """Write one fault, for good. Raises OSError where the disk is full; then nothing of it is left."""
        line = fault.model_dump_json().encode() + b"\n"
        with self._path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            if file.write(line) < len(line):
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))


def read_faults(folder: Path) -> list[Fault]:
    """Every fault so far, oldest first; a line that is being written is left out.

    Raises UsageError for any other line that is no fault.
    """
    path = folder / FAULTS
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [
        _parse(f"{path}, line {number}", line, Fault, "remove that line") for number, line in enumerate(lines, start=1)
    ]


def _cut_torn_line(path: Path) -> None:
    with path.open("a+b") as file:
        file.seek(0)
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)


_Kind = TypeVar("_Kind", bound=_Message)


def _read(path: Path, kind: type[_Kind], fix: str) -> _Kind | None:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(str(path), f"cannot be read ({error.strerror})", "see its permissions") from None
    return _parse(str(path), text, kind, fix)


def _parse(where: str, text: bytes, kind: type[_Kind], fix: str) -> _Kind:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        torn = "is empty" if not text.strip() else "is torn, or no JSON"
        raise UsageError(where, torn, fix) from None
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UsageError(where, f"is of another kind or version ({key}: {first['msg']})", fix) from None
