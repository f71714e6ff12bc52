"""Finished runs on disk: one file each, written whole or not at all, found again by what was run."""

import functools
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

from tpo_dist.studies.definition import Setting

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class RunFile:
    """One setting under one seed, and the file that holds its curves once it is done."""

    setting: Setting
    seed: int
    path: Path

    @property
    def finished(self) -> bool:
        """Files appear under their name only when they are complete."""
        return self.path.exists()

    def read(self) -> pl.DataFrame:
        """`step` and every metric, a row for each step."""
        return pl.read_parquet(self.path, glob=False)  # a folder may have brackets in its name

    def commit(self) -> str:
        """Of the code that ran it."""
        return pl.read_parquet_metadata(self.path).get("commit", "unknown")

    def write(self, curves: Mapping[str, NDArray[Any]]) -> None:
        """Store the curves. Raises OSError where it cannot be written; nothing half-written stays."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            pl.DataFrame(dict(curves)).write_parquet(partial, metadata={"commit": commit() or "unknown"})
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)


def run_files(folder: Path, settings: Sequence[Setting], seeds: Sequence[int]) -> list[RunFile]:
    """The runs of these settings and seeds. Equal settings of different studies share their runs."""
    files = []
    for setting in settings:
        digest = fingerprint(setting)
        name = "-".join(str(value) for value in setting.labels.values()).replace("/", "_").replace(" ", "_")
        files += [RunFile(setting, seed, folder / digest / f"seed-{seed:04d}.parquet") for seed in seeds]
        _describe(folder / digest, name, setting)
    return files


def set_aside_damaged(files: Sequence[RunFile]) -> list[Path]:
    """Rename what cannot be read as a run, so that it is run again; the paths. Machines that lose power leave such."""
    damaged = []
    for file in {file.path: file for file in files if file.finished}.values():
        try:
            sound = "step" in file.read().columns
        except (OSError, pl.exceptions.PolarsError):
            sound = False
        if not sound:
            os.replace(file.path, file.path.with_name(f"{file.path.name}.damaged"))
            damaged.append(file.path)
    return damaged


def fingerprint(setting: Setting) -> str:
    """Of everything that decides a run but its seed, as the study writes it: what is left to defaults is not in it, so
    that a new option with its default keeps finished runs valid. `_FORMAT` changes where a default's meaning does."""
    options = {key: value for key, value in setting.options.items() if value is not None}
    identity = {"format": _FORMAT, "engine": setting.engine, "options": options, "steps": setting.steps}
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()


def _describe(folder: Path, name: str, setting: Setting) -> None:
    """A note beside the runs, for people who look into the folder."""
    path = folder / "setting.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        described = {"first_asked_as": name, **{k: v for k, v in asdict(setting).items() if k != "paper"}}
        path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


@functools.cache
def commit() -> str | None:
    """Of the working tree that this package is run from; None for an installed one."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()
