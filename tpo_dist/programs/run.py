"""A run on disk: `runs/NAME-TIMESTAMP/` with its configuration, metrics, checkpoints, plots and summary."""

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tpo_dist.config import RunConfig
from tpo_dist.config.section import flat
from tpo_dist.errors import UsageError
from tpo_dist.learner.checkpoint import Checkpointer, list_checkpoints, read_state
from tpo_dist.learner.sample import GroupSample
from tpo_dist.metrics import Metrics
from tpo_dist.programs.folder import find_run, write_whole
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
    checkpoint_problem: str | None = None
    """Why none was written where one was due."""
    groups: tuple[GroupSample, ...] = ()
    """A few of its groups, for people to look at."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run about to start, or to go on."""

    config: RunConfig
    folder: Path
    checkpoint: Path | None = None
    """Where to go on from; None starts at step 0."""
    first_step: int = 0
    """Steps done before it."""
    changes: tuple[str, ...] = ()
    """Where it goes on with another configuration: `key old -> new` for each key that differs."""
    resumed: bool = False
    """Whether its folder is that of an earlier process."""
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
    "rollout.block_size": "its ledger counts blocks of that size",
    "learner.optimizer.name": "its checkpoint holds the state of another optimizer",
    "seed": "its draws belong to the seed, and some would be taken twice",
}
"""Keys, or sections, that --resume refuses to change, and why."""


def resume_run(name: str, overrides: Sequence[str], runs_dir: str) -> Run:
    """The run of that folder or folder name, from its newest checkpoint; nothing on disk changes.

    One that died before its first checkpoint begins at step 0. Raises UsageError where there is no such run, its
    checkpoints are gone, the newest one is damaged, the overrides make it another run, or it is at its end.
    """
    folder = find_run(name, runs_dir, "--resume")
    settings = _settings(folder / "config.json")
    before, config = configure(settings), configure(settings, overrides)
    changes = tuple(_changes(before, config))
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        _refuse_lost_checkpoints(name, folder, before)
        return Run(config, folder, None, 0, changes, resumed=True)
    step = int(read_state(checkpoints[-1])["step"])
    if step >= config.steps:
        at_end = step == config.steps
        reason = f"this run has finished its {step} steps" if at_end else f"this run is at step {step} already"
        raise UsageError(f"--resume {name}", reason, f"raise the number to go on, such as steps={2 * step}")
    return Run(config, folder, checkpoints[-1], step, changes, resumed=True)


def _refuse_lost_checkpoints(name: str, folder: Path, config: RunConfig) -> None:
    """A run that died before its first checkpoint begins again; one that has trained further had one. UsageError."""
    path = folder / "metrics.jsonl"
    steps = path.read_bytes().count(b"\n") if path.exists() else 0
    if steps >= min(config.checkpoint.every_steps, config.steps):
        reason = f"this run has no checkpoint to go on from, though it has trained {steps} steps"
        raise UsageError(f"--resume {name}", reason, "put its checkpoints back, or start its job again")


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
    old, new = dict(flat(before.model_dump(mode="json"))), dict(flat(after.model_dump(mode="json")))
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    differing.sort(key=lambda key: not key.endswith(".name"))  # another method has other options too: say the former
    for key in differing:
        for part, reason in _ANOTHER_RUN.items():
            if key == part or key.startswith(f"{part}."):
                fix = "leave it out, or start a new run with it"
                raise UsageError(f"{key} = {new.get(key)!r}", f"this run has {old.get(key)!r}, and {reason}", fix)
    for key in differing:
        yield f"{key} {json.dumps(old.get(key))} -> {json.dumps(new.get(key))}"


def write_config(folder: Path, config: RunConfig) -> None:
    """`config.json`."""
    write_whole(folder / "config.json", json.dumps(config.model_dump(mode="json"), indent=2) + "\n")
