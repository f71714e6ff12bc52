"""Groups whose scoring failed, kept on disk so that a person can see what broke the scorer and try it again.

One file for each failed draw, `quarantine/draw-NNNNNNNNNN.json` in the run's folder:

    draw               number of the prompt draw
    cause              one of few short texts, to count by: "scorer raised ValueError", "score is not finite", ...
    detail             lines of the traceback, or what was wrong
    prompt             token ids of the prompt
    candidates         token ids of each candidate
    greedy             token ids of the greedy completion; null where the objective asks for none
    snapshot_version   weights that sampled it
    snapshot_digest    their checksum
    words              where prompts are in words: source, question, answer and completions, as a person reads them

The first 1000 draws are kept; `quarantine/more.json` counts the failures after them, by cause.
"""

import fcntl
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

KEPT = 1000
"""Draws with a file of their own."""
_DETAIL_START, _DETAIL_END = 2000, 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFailure:
    """One group that could not be scored: it is no group, and never a score of 0."""

    draw: int
    """The prompt draw."""
    cause: str
    """What to count it by: one of few short texts."""
    detail: str
    """Traceback, or what was wrong; bounded by `shorten`."""
    record: Mapping[str, Any]
    """What was to be scored, ready for JSON: prompt, candidates, greedy, snapshot_version, snapshot_digest, words."""


def shorten(text: str) -> str:
    """The start and the end of a long text, 4000 characters in all: a traceback says most there."""
    if len(text) <= _DETAIL_START + _DETAIL_END:
        return text
    cut = len(text) - _DETAIL_START - _DETAIL_END
    return f"{text[:_DETAIL_START]}\n... {cut} characters left out ...\n{text[-_DETAIL_END:]}"


def write_quarantine(folder: Path, failure: GroupFailure) -> Path | None:
    """Keep a failure in the quarantine of the run in `folder`; its file, or None where it was only counted.

    Several processes may write at once. The first failure of a run is logged as a warning. Where the disk
    cannot be written, that is logged too and costs no more than the file: the run goes on.
    """
    place = folder / "quarantine"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with (place / ".lock").open("w") as lock:
            with suppress(OSError):  # some network file systems have no locks; then a count may be lost
                fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, however that comes
            return _write(place, failure)
    except (OSError, ValueError) as error:
        _log.warning("the failed group of draw %d (%s) is not kept: %s (%s)", failure.draw, failure.cause, place, error)
        return None


def _write(place: Path, failure: GroupFailure) -> Path | None:
    path = place / f"draw-{failure.draw:010d}.json"
    kept = sum(1 for _ in place.glob("draw-*.json"))
    if kept >= KEPT and not path.exists():
        _count_more(place / "more.json", failure.cause)
        return None
    fields = {"draw": failure.draw, "cause": failure.cause, "detail": failure.detail.splitlines(), **failure.record}
    _write_whole(path, _value(fields) + "\n")
    if kept == 0:
        _log.warning(
            "the group of draw %d failed (%s) and is left out of training: %s; those after it are kept without a word",
            failure.draw,
            failure.cause,
            path,
        )
    return path


def _count_more(path: Path, cause: str) -> None:
    counts: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["by_cause"] if path.exists() else {}
    counts[cause] = counts.get(cause, 0) + 1
    _write_whole(path, json.dumps({"failures": sum(counts.values()), "by_cause": counts}, indent=2) + "\n")


def _value(value: Any, margin: str = "") -> str:
    """Each key takes a line, a list of texts or of lists a line for each, everything else one line."""
    inner = margin + "  "
    if isinstance(value, Mapping) and value:
        lines = (f"{inner}{json.dumps(key)}: {_value(each, inner)}" for key, each in value.items())
        return "{\n" + ",\n".join(lines) + f"\n{margin}}}"
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        return "[\n" + ",\n".join(f"{inner}{json.dumps(each, ensure_ascii=False)}" for each in value) + f"\n{margin}]"
    return json.dumps(value, ensure_ascii=False)


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # half a surrogate pair stays JSON
    os.replace(temporary, path)
