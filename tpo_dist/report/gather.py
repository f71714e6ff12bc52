"""Everything that the folder of a run tells, as far as it can be read: what cannot is named, and the rest goes on."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tpo_dist.audit import Audit, audit
from tpo_dist.config import RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.programs.control import Fault, read_faults
from tpo_dist.programs.folder import EVALUATIONS, LEDGER
from tpo_dist.programs.group_log import GROUPS
from tpo_dist.programs.observe import Observed, observe
from tpo_dist.report.groups import GroupFile

_SECRET = re.compile(r"(?:^|[._])(?:token|secret|password|passwd|api_?key|credentials?)$", re.IGNORECASE)
_HIDDEN = "(not shown: its name is that of a secret)"
_LONGEST_NAME = 80
_MOST_STEPS = 2**53  # as far as a browser counts
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One look at a run."""

    folder: Path
    observed: Observed | None
    """Status and step; None where its files contradict themselves."""
    settings: Mapping[str, Any]
    """`config.json` by flat key, defaults included; no secrets."""
    rows: tuple[Mapping[str, float], ...]
    """`metrics.jsonl`."""
    faults: tuple[Fault, ...]
    evaluations: tuple[Mapping[str, float], ...]
    ledger: Audit | None
    groups: GroupFile
    problems: tuple[str, ...]
    """What is missing or damaged, a sentence each."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name


def gather(folder: Path, groups: GroupFile | None = None) -> Picture:
    """Look through the folder of a run, finished, broken or under way. `groups`: what an earlier look took in."""
    problems: list[str] = []
    no_rows: tuple[Mapping[str, float], ...] = ()
    no_faults: tuple[Fault, ...] = ()

    def attempt(what: str, read: Callable[[], _Found], otherwise: _Found) -> _Found:
        try:
            return read()
        except (UsageError, OSError, ValueError, RecursionError) as error:
            problems.append(f"{what}: {error}")
            return otherwise

    groups = groups or GroupFile(folder / GROUPS)
    attempt(GROUPS, groups.refresh, None)
    nothing: dict[str, Any] = {}
    settings = attempt("config.json", lambda: _settings(folder / "config.json"), nothing)
    rows = attempt("metrics.jsonl", lambda: _rows(folder / "metrics.jsonl", problems), no_rows)
    if groups.damaged:
        problems.append(f"{GROUPS}: {_lines(groups.damaged)} no groups, and left out")
    if not groups.entries:
        kept = settings.get("log.groups", 0)
        why = "none was trained yet" if kept and not rows else "log.groups is 0" if kept == 0 else "the file is missing"
        problems.append(f"{GROUPS}: there are no groups to look at ({why})")
    if not rows:
        problems.append("metrics.jsonl: no step has been recorded")
    return Picture(
        folder=folder,
        observed=attempt("status", lambda: observe(folder), None),
        settings=settings,
        rows=rows,
        faults=attempt("faults.jsonl", lambda: tuple(read_faults(folder)), no_faults),
        evaluations=attempt(EVALUATIONS, lambda: _optional_rows(folder / EVALUATIONS, problems), no_rows),
        ledger=attempt(LEDGER, lambda: audit(folder / LEDGER), None),
        groups=groups,
        problems=tuple(problems),
    )


def differing(pictures: list[Picture]) -> set[str]:
    """The keys whose values are not the same in all runs."""
    keys = {key for picture in pictures for key in picture.settings}
    return {key for key in keys if len({json.dumps(picture.settings.get(key)) for picture in pictures}) > 1}


def _settings(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("holds no keys with values")
    known = list(RunConfig.model_fields)
    order = sorted(found, key=lambda key: known.index(key) if key in known else len(known))
    flat = dict(_flat({key: found[key] for key in order}))
    return {key: _HIDDEN if _SECRET.search(key) and value is not None else value for key, value in flat.items()}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, dict) and value and len(prefix) < 400:
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, value))
    return pairs


def _optional_rows(path: Path, problems: list[str]) -> tuple[Mapping[str, float], ...]:
    return _rows(path, problems) if path.exists() else ()


def _rows(path: Path, problems: list[str]) -> tuple[Mapping[str, float], ...]:
    """Rows of numbers, each with a step; others are counted and left out. Raises OSError where there is no file."""
    rows, damaged = [], 0
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < _MOST_STEPS:
            rows.append({name: number for name, number in row.items() if _is_metric(name, number)})
        else:
            damaged += 1
    if damaged:
        problems.append(f"{path.name}: {_lines(damaged)} torn or no rows, and left out")
    return tuple(rows)


def _is_metric(name: str, number: Any) -> bool:
    return len(name) <= _LONGEST_NAME and type(number) in (int, float) and abs(number) <= sys.float_info.max


def _lines(count: int) -> str:
    return f"{count} line{' is' if count == 1 else 's are'}"
