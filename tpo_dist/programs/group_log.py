"""`groups.jsonl`: a few groups now and then for people to look at, never more than its bound.

The first line is {"format": 1, "every": N}; every other line is a group (`Reader.row`), in the order of steps, and only
steps 1, 1 + N, 1 + 2N, … have any. N is 1, and `log.groups_every` alone decides, until the file outgrows
`log.groups_mb`; then N doubles until it fits again, and what is left is spread over the whole run. Nothing is held in
memory but the groups of one step.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from tpo_dist.learner.sample import GroupSample
from tpo_dist.programs.legible import Reader

GROUPS = "groups.jsonl"
"""In the folder of a run."""
FORMAT = 1
_STEP = re.compile(rb'\{"step": (\d{1,18}),')
_SPARSEST = 1 << 40
_log = logging.getLogger(__name__)


class GroupLog:
    """Writes the groups of one run.

    It is no part of training: where the disk cannot be written, a warning says so once, and the run goes on without.
    """

    def __init__(self, folder: Path, reader: Reader, most_bytes: int) -> None:
        self._path, self._reader, self._most = folder / GROUPS, reader, most_bytes
        self._file: BinaryIO | None = None
        self._every, self._size = 1, 0
        self._given_up = False

    def go_back(self, step: int) -> None:
        """What came after that step did not happen: its groups are dropped. Also how a process begins to write."""
        if self._path.exists():
            self._attempt(lambda: self._rewrite(lambda number: number <= step))

    def write(self, step: int, groups: Sequence[GroupSample]) -> None:
        """The groups of a step, where it is one that is kept."""
        if groups and (step - 1) % self._every == 0:
            self._attempt(lambda: self._append(step, groups))

    def close(self) -> None:
        """Close the file; a later write or `go_back` opens it again."""
        if self._file is not None:
            self._attempt(self._file.close)
            self._file = None

    def _append(self, step: int, groups: Sequence[GroupSample]) -> None:
        if self._file is None:
            self._rewrite(lambda number: number < step)
        assert self._file is not None
        lines = b"".join(json.dumps(self._reader.row(step, group)).encode() + b"\n" for group in groups)
        self._file.write(lines)
        self._file.flush()
        self._size += len(lines)
        while self._size > self._most and self._every < _SPARSEST:
            self._every *= 2
            self._rewrite(lambda number: (number - 1) % self._every == 0)

    def _rewrite(self, keep: Callable[[int], bool]) -> None:
        """The file anew with the groups of those steps, line by line; torn and strange lines go."""
        self.close()
        partial = self._path.with_name(f".{GROUPS}.partial")
        with partial.open("wb") as new:
            if self._path.exists():
                with self._path.open("rb") as old:
                    self._every = max(self._every, _every(old.readline()))
                    new.write(_head(self._every))
                    new.writelines(line for line in old if (step := step_of(line)) is not None and keep(step))
            else:
                new.write(_head(self._every))
        os.replace(partial, self._path)
        self._file = self._path.open("ab")
        self._size = self._path.stat().st_size

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self._given_up:
            return
        try:
            action()
        except OSError as error:
            self._given_up = True
            _log.warning("%s cannot be written (%s); the run goes on without", self._path, error.strerror or error)
            if self._file is not None:
                with suppress(OSError):
                    self._file.close()


def step_of(line: bytes) -> int | None:
    """The step of a whole line of `groups.jsonl`; None for one that is torn or no group."""
    found = _STEP.match(line)
    return int(found[1]) if found is not None and line.endswith(b"}\n") else None


def _head(every: int) -> bytes:
    return json.dumps({"format": FORMAT, "every": every}).encode() + b"\n"


def _every(line: bytes) -> int:
    """Of a first line; 1 where it says nothing sensible."""
    try:
        every = json.loads(line)["every"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 1
    return every if type(every) is int and 1 <= every <= _SPARSEST else 1
