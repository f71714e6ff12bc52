"""The folder of a run: finding it, and writing files in it whole."""

import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tpo_dist.errors import UsageError
from tpo_dist.metrics import Metrics, values

LEDGER = "ledger.db"
"""The ledger of a run, in its folder."""
_SIGN = ".driver-"

EVALUATIONS = "evaluations.jsonl"
"""Scores on held-out questions, one line for each snapshot that was evaluated."""


def find_run(name: str, runs_dir: str, what: str = "--resume") -> Path:
    """The folder of the run of that name, or in that folder. Raises UsageError, which begins with `what`, for none."""
    for folder in (Path(name), Path(runs_dir) / name):
        if holds_model(folder):
            raise UsageError(f"{what} {name}", "this folder holds a model, and no run", "name a run's folder")
        if (folder / "config.json").is_file():
            return folder.resolve()
    known = runs_in(runs_dir)
    fix = f"the newest here is {known[-1].name}" if known else f"there are no runs in {runs_dir}"
    raise UsageError(f"{what} {name}", "there is no such run", fix)


def holds_model(folder: Path) -> bool:
    """Whether a folder's config.json is a model's, and no run's."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # the last: brackets in brackets
        return False
    return isinstance(config, dict) and "model_type" in config


def runs_in(runs_dir: str) -> list[Path]:
    """Folders of the runs there, in the order in which they were last started or resumed."""
    started = []
    for config in Path(runs_dir).glob("*/config.json"):
        with suppress(FileNotFoundError):  # a start that failed takes its folder away again
            started.append((config.stat().st_mtime, config.parent))
    return [folder for _, folder in sorted(started)]


def short_path(path: Path) -> str:
    """Relative to the working folder where it lies below it."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the folder in which Ray started a submitted job goes with the job's last actor
        return str(path)
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def write_whole(path: Path, text: str) -> None:
    """Write a file in one piece: whoever reads it sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def note_evaluation(folder: Path, version: int, metrics: Metrics) -> None:
    """Write what a snapshot scored; a number that is not finite is left out."""
    numbers = {name: number for name, number in values(metrics).items() if math.isfinite(number)}
    with (folder / EVALUATIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": version, **numbers}) + "\n")


@contextmanager
def sign_in(folder: Path) -> Iterator[Path]:
    """Inside, the folder holds a file of a name that was never used: who finds it looks into this folder, not a copy.

    To be called with the lock held. Raises UsageError where the folder cannot be written.
    """
    path = folder / f"{_SIGN}{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_SIGN}*"):  # of a driver that was killed
            left.unlink()
        path.touch()
    except OSError as error:
        fix = "make room there, or give a folder that can be written"
        raise UsageError(str(folder), f"cannot be written ({error.strerror})", fix) from None
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink()
