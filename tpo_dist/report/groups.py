"""The groups of a run, read back: an index of all of them, and the rows of some.

`groups.jsonl` holds what a policy wrote, and may have passed through other hands: each line is checked before anything
of it is used, and what is no group is counted and left out. Only the index is held in memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tpo_dist.records import StopReason

STOPS = tuple(reason.name.lower() for reason in StopReason)
_LONGEST_LINE = 32 * 1024**2
_SNIPPET = 96  # characters of a prompt in the index

Text = Annotated[str, Field(max_length=50_000)]
Number = Annotated[int, Field(ge=0, lt=2**53)]  # as far as a browser counts
Numbers = tuple[float | None, ...]


class GroupRow(BaseModel):
    """One line of `groups.jsonl`: a group before and after the step that trained it; see `GroupSample`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    step: Number
    draw: Number
    source: Annotated[str, Field(max_length=200)]
    position: Number | None
    prompt: Text
    answer: Text | None
    texts: tuple[Text, ...]
    lengths: tuple[Number, ...]
    scores: Numbers
    stops: tuple[Literal["length", "stop", "fixed"], ...]
    logps_old: Numbers
    logps_after: Numbers
    p_old: Numbers
    p_after: Numbers
    q: Numbers | None
    advantages: Numbers | None
    distance: float | None
    zero_variance: bool
    version: Number
    staleness: Number

    @model_validator(mode="after")
    def _of_one_size(self) -> Self:
        columns = (self.lengths, self.scores, self.stops, self.logps_old, self.logps_after, self.p_old, self.p_after)
        sizes = {len(column) for column in (*columns, self.q or self.p_old, self.advantages or self.p_old)}
        if sizes != {len(self.texts)} or not self.texts:
            raise ValueError(f"columns of {sorted(sizes)} entries for {len(self.texts)} candidates")
        return self


class Entry(NamedTuple):
    """What the index knows of a group."""

    offset: int
    step: int
    draw: int
    source: str
    zero_variance: bool
    distance: float | None
    """sum|q - p_old|."""
    missed: float | None
    """sum|q - p_after|."""
    moved: float
    """sum|p_after - p_old|."""
    stops: int
    """Bit i is set where a candidate ended by `STOPS[i]`."""
    mean: float
    """Of the scores."""
    snippet: str
    """How the prompt begins."""


class GroupFile:
    """`groups.jsonl` of a run, which may be growing, or be rewritten, while it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: list[Entry] = []
        self.damaged = 0
        """Lines that are no group."""
        self.generation = 0
        """Goes up whenever the entries are others than before, not only more."""
        self._inode, self._end = -1, 0

    def refresh(self) -> None:
        """Take in what was written since. A missing file is empty; raises OSError for one that cannot be read."""
        try:
            with self._path.open("rb") as file:
                self._take_in(file)
        except FileNotFoundError:
            if self.entries:
                self._forget(-1)

    def _take_in(self, file: BinaryIO) -> None:
        inode = self._path.stat().st_ino
        size = file.seek(0, 2)
        if inode != self._inode or size < self._end:
            self._forget(inode)
        file.seek(self._end)
        while line := file.readline(_LONGEST_LINE):
            if not line.endswith(b"\n"):
                if len(line) < _LONGEST_LINE:
                    return  # being written, or torn
                while not file.readline(_LONGEST_LINE).endswith(b"\n"):
                    if file.tell() == size:
                        return
                self.damaged += 1
            elif (row := parse(line)) is not None:
                self.entries.append(_entry(self._end, row))
            elif not (self._end == 0 and line.startswith(b'{"format": ')):
                self.damaged += 1
            self._end = file.tell()

    def _forget(self, inode: int) -> None:
        self.entries, self.damaged, self._inode, self._end = [], 0, inode, 0
        self.generation += 1

    def rows(self, entries: Iterable[Entry]) -> Iterator[GroupRow | None]:
        """Their rows; None for one that is not there any more."""
        with self._path.open("rb") as file:
            for entry in entries:
                file.seek(entry.offset)
                row = parse(file.readline(_LONGEST_LINE))
                yield row if row is not None and (row.step, row.draw) == (entry.step, entry.draw) else None

    def search(self, text: str) -> list[int]:
        """Positions of the groups that have a text somewhere, whatever its case."""
        needle = text.casefold()
        return [
            position
            for position, row in enumerate(self.rows(self.entries))
            if row is not None and any(needle in each.casefold() for each in (row.prompt, row.answer or "", *row.texts))
        ]


def parse(line: bytes) -> GroupRow | None:
    """A line of `groups.jsonl`; None where it is no group."""
    try:
        return GroupRow.model_validate_json(line)
    except ValidationError:
        return None


def spread(entries: Sequence[Entry], most: int) -> list[Entry]:
    """At most so many of them, evenly."""
    if len(entries) <= most:
        return list(entries)
    return [entries[i * len(entries) // most] for i in range(most)]


def index_of(entries: Sequence[Entry]) -> dict[str, Any]:
    """The index as columns, for a browser; `source` counts in `sources`."""
    sources = sorted({entry.source for entry in entries})
    number = {source: place for place, source in enumerate(sources)}
    return {
        "sources": sources,
        "step": [entry.step for entry in entries],
        "draw": [entry.draw for entry in entries],
        "source": [number[entry.source] for entry in entries],
        "zero": [int(entry.zero_variance) for entry in entries],
        "distance": [_short(entry.distance) for entry in entries],
        "missed": [_short(entry.missed) for entry in entries],
        "moved": [_short(entry.moved) for entry in entries],
        "stops": [entry.stops for entry in entries],
        "mean": [_short(entry.mean) for entry in entries],
        "snippet": [entry.snippet for entry in entries],
    }


def chunks(entries: Sequence[Entry], size: int) -> Iterator[Sequence[Entry]]:
    """Runs of so many."""
    return (entries[start : start + size] for start in range(0, len(entries), size))


def _entry(offset: int, row: GroupRow) -> Entry:
    scores = [score for score in row.scores if score is not None]
    return Entry(
        offset=offset,
        step=row.step,
        draw=row.draw,
        source=row.source,
        zero_variance=row.zero_variance,
        distance=None if row.q is None else _distance(row.q, row.p_old),
        missed=None if row.q is None else _distance(row.q, row.p_after),
        moved=_distance(row.p_after, row.p_old),
        stops=sum(1 << place for place, stop in enumerate(STOPS) if stop in row.stops),
        mean=sum(scores) / len(scores) if scores else 0.0,
        snippet=" ".join(row.prompt[: 4 * _SNIPPET].split())[:_SNIPPET],
    )


def _distance(one: Numbers, other: Numbers) -> float:
    return sum(abs((a or 0.0) - (b or 0.0)) for a, b in zip(one, other, strict=True))


def _short(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
