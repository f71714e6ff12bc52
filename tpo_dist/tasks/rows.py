"""Rows of a data set: a file, a folder with a file for each split, or one of Hugging Face's hub; and their order.

Files: `.jsonl` (one object a line), `.json` (a list of objects), `.csv`, `.parquet`.
"""

import json
import os
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_dist.components import nearest
from tpo_dist.errors import UsageError
from tpo_dist.randomness import draw_uniforms
from tpo_dist.tasks.text import INSTALL

Row = dict[str, Any]
_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")


@lru_cache(maxsize=8)
def load_rows(
    path: str, split: str, needed: tuple[str, ...], kept: tuple[str, ...] | None = None, subset: str | None = None
) -> tuple[Row, ...]:
    """Every row of a split, each with the `needed` fields; of a row, the `kept` fields stay, or all of them.

    `path`: a file (then `split` says nothing), a folder that holds `SPLIT.jsonl` or the like, or a name on the hub.
    Raises UsageError where there is no such thing, it cannot be read, it has no rows, or a row lacks a field.
    """
    place = Path(path)
    if place.is_dir():
        rows = _read(_split_file(place, split))
    elif is_file(path):
        rows = _read(place)
    else:
        rows = _from_hub(path, split, subset)
    if not rows:
        raise UsageError(f"task.path = {path!r}", f"has no rows in {split}", "give a data set with rows")
    for number, row in enumerate(rows, start=1):
        _refuse_missing(row, {*needed, *(kept or ())}, f"{path}, row {number} of {split}")
    return tuple(rows if kept is None else ({name: row[name] for name in kept} for row in rows))


def is_file(path: str) -> bool:
    """Whether it names a file, there or not; a folder and a data set on the hub have splits, a file has none."""
    place = Path(path)
    return not place.is_dir() and (place.is_file() or place.suffix in _ENDINGS)


def whole_place(path: str) -> str:
    """The path of a file or folder that is here, spelled out so that processes elsewhere find it; else as it is."""
    here = Path(os.path.expanduser(path))
    return str(here.resolve()) if here.exists() else path


def shuffled(seed: int, draw: int, count: int) -> int:
    """The row of this draw: each row once in every `count` draws, in another order each time."""
    epoch, place = divmod(draw, count)
    return int(_order(seed, epoch, count)[place])


@lru_cache(maxsize=16)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.intp]:
    return np.argsort(draw_uniforms(seed, "order", np.array([epoch]), count)[0], kind="stable")


def _split_file(folder: Path, split: str) -> Path:
    for ending in _ENDINGS:
        if (folder / f"{split}{ending}").is_file():
            return folder / f"{split}{ending}"
    wanted = ", ".join(f"{split}{ending}" for ending in _ENDINGS)
    raise UsageError(f"task.path = {str(folder)!r}", f"this folder has none of {wanted}", "give a folder that has one")


def _read(path: Path) -> Sequence[Row]:
    try:
        if path.suffix == ".jsonl":
            return _json_lines(path)
        if path.suffix == ".json":
            return _objects(json.loads(path.read_text(encoding="utf-8")), str(path))
        if path.suffix in (".csv", ".parquet"):
            import polars

            read: Any = polars.read_csv if path.suffix == ".csv" else polars.read_parquet
            return list(read(path, glob=False).to_dicts())  # brackets in a path are letters, no pattern
    except FileNotFoundError:
        raise UsageError(f"task.path = {str(path)!r}", "there is no such file", "give one that exists") from None
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001  # polars has errors of its own for each way in which a file is broken
        reason = f"cannot be read ({' '.join(str(error).split())[:200]})"
        raise UsageError(f"task.path = {str(path)!r}", reason, f"give a whole {path.suffix} file") from None
    raise UsageError(
        f"task.path = {str(path)!r}", "is no kind of file that is read here", f"give one of {', '.join(_ENDINGS)}"
    )


def _json_lines(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                rows += _objects([json.loads(line)], where)
            except (ValueError, RecursionError) as error:
                if isinstance(error, UsageError):
                    raise
                raise UsageError(where, f"is not JSON ({error})", "correct or remove that line") from None
    return rows


def _objects(values: Any, where: str) -> list[Row]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise UsageError(where, "does not hold objects with fields", 'write objects such as {"prompt": ..., ...}')
    return values


def _refuse_missing(row: Row, fields: Collection[str], where: str) -> None:
    for name in sorted(fields):
        if row.get(name) is None:
            raise UsageError(where, f"has no field {name!r}", nearest(name, row))


def _from_hub(name: str, split: str, subset: str | None) -> Sequence[Row]:
    fix = "give the path of a file or folder, or a data set's name on the hub, and see that the hub can be reached"
    try:
        from datasets import load_dataset
    except ImportError as error:
        reason = f"is no file or folder here, and the hub is read with datasets, which is not installed ({error})"
        raise UsageError(f"task.path = {name!r}", reason, INSTALL) from None
    try:
        found = load_dataset(name, subset, split=split)
    except Exception as error:  # noqa: BLE001  # datasets raises of all kinds, offline or for a wrong name
        reason = f"is no file or folder here, and cannot be had of the hub ({' '.join(str(error).split())[:200]})"
        raise UsageError(f"task.path = {name!r}", reason, fix) from None
    return [dict(row) for row in found]
