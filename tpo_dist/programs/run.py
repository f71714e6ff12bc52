"""A run on disk: `runs/NAME-TIMESTAMP/` with its configuration, metrics, checkpoints, plots and summary."""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tpo_dist.config import RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.learner.checkpoint import Checkpointer, list_checkpoints, read_state
from tpo_dist.metrics import Metrics
from tpo_dist.programs.job import configure


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one training step came to."""

    step: int
    """Steps finished, this one included."""
    metrics: Metrics
    seconds: float
    checkpoint: str | None
    """Folder of the checkpoint written after it, if any."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run about to start, or to go on."""

    config: RunConfig
    folder: Path
    checkpoint: Path | None = None
    """Where to go on from; None starts afresh."""
    first_step: int = 0
    """Steps done before it."""
    changes: tuple[str, ...] = ()
    """Where it goes on with another configuration: `key old -> new` for each key that differs."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set it to end after the current step, with a checkpoint."""

    @property
    def checkpointer(self) -> Checkpointer:
        """Saves under the run's own folder."""
        return Checkpointer(
            self.folder / "checkpoints", self.config.checkpoint.every_steps, self.config.checkpoint.keep
        )


def create_run(config: RunConfig) -> Run:
    """A new folder with the resolved configuration in it. Raises UsageError where it cannot be written."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    parent = Path(config.runs_dir).resolve()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = _claim(parent, f"{config.name}-{stamp}")
        write_config(folder, config)
    except OSError as error:
        fix = "give a folder that can be written with runs_dir=PATH"
        raise UsageError(f"runs_dir = {config.runs_dir!r}", f"cannot be written ({error.strerror})", fix) from None
    return Run(config, folder)


_ANOTHER_RUN = {
    "task": "what it learns would be another task",
    "policy": "its checkpoint holds the weights of another policy",
    "objective.name": "its metrics would be those of two methods",
    "rollout.candidates": "its metrics would be those of two methods",
    "learner.optimizer.name": "its checkpoint holds the state of another optimizer",
    "seed": "its draws belong to the seed, and some would be taken twice",
}
"""Keys, or sections, that --resume refuses to change, and why."""


def resume_run(name: str, overrides: Sequence[str], runs_dir: str) -> Run:
    """The run of that folder or folder name, from its newest checkpoint; nothing on disk changes.

    Raises UsageError where there is no such run, it has no checkpoint, the newest one is damaged, the overrides make
    it another run, or it is at its end.
    """
    folder = find_run(name, runs_dir)
    settings = _settings(folder / "config.json")
    before, config = configure(settings), configure(settings, overrides)
    changes = tuple(_changes(before, config))
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        raise UsageError(f"--resume {name}", "this run has no checkpoint to go on from", "start its job again")
    step = int(read_state(checkpoints[-1])["step"])
    if step >= config.steps:
        at_end = step == config.steps
        reason = f"this run has finished its {step} steps" if at_end else f"this run is at step {step} already"
        raise UsageError(f"--resume {name}", reason, f"raise the number to go on, such as steps={2 * step}")
    return Run(config, folder, checkpoints[-1], step, changes)


def find_run(name: str, runs_dir: str) -> Path:
    """The folder of the run of that name, or in that folder. Raises UsageError where there is none."""
    for folder in (Path(name), Path(runs_dir) / name):
        if (folder / "config.json").is_file():
            return folder.resolve()
    known = sorted(path.parent.name for path in Path(runs_dir).glob("*/config.json"))
    fix = f"the newest here is {known[-1]}" if known else f"there are no runs in {runs_dir}"
    raise UsageError(f"--resume {name}", "there is no such run", fix)


def _claim(parent: Path, name: str) -> Path:
    """A folder of that name that did not exist before, numbered where two runs start in the same second."""
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _settings(path: Path) -> dict[str, Any]:
    fix = "give the folder of a run"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(str(path), f"cannot be read ({error})", fix) from None
    if not isinstance(settings, dict):
        raise UsageError(str(path), f"holds a {type(settings).__name__}, not keys with values", fix)
    return settings


def _changes(before: RunConfig, after: RunConfig) -> Iterator[str]:
    """`key old -> new` for each key that differs. Raises UsageError for one that makes it another run."""
    old, new = dict(_flat(before.model_dump(mode="json"))), dict(_flat(after.model_dump(mode="json")))
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    differing.sort(key=lambda key: not key.endswith(".name"))  # another method has other options too: say the former
    for key in differing:
        for part, reason in _ANOTHER_RUN.items():
            if key == part or key.startswith(f"{part}."):
                fix = "leave it out, or start a new run with it"
                raise UsageError(f"{key} = {new.get(key)!r}", f"this run has {old.get(key)!r}, and {reason}", fix)
    for key in differing:
        yield f"{key} {json.dumps(old.get(key))} -> {json.dumps(new.get(key))}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def write_config(folder: Path, config: RunConfig) -> None:
    """`config.json`."""
    write_whole(folder / "config.json", json.dumps(config.model_dump(mode="json"), indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file in one piece: whoever reads it sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
