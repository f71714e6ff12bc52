"""A run on disk: `runs/NAME-TIMESTAMP/` with its configuration, metrics, checkpoints, plots and summary."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

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
        _write_config(folder, config)
    except OSError as error:
        fix = "give a folder that can be written with runs_dir=PATH"
        raise UsageError(f"runs_dir = {config.runs_dir!r}", f"cannot be written ({error.strerror})", fix) from None
    return Run(config, folder)


def resume_run(name: str, overrides: Sequence[str], runs_dir: str) -> Run:
    """The run of that folder or folder name, from its newest checkpoint.

    Raises UsageError where there is no such run, it has no checkpoint, the newest one is damaged, or it is finished.
    """
    folder = _find(name, runs_dir)
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(str(folder / "config.json"), f"cannot be read ({error})", "give the folder of a run") from None
    config = configure(settings, overrides)
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        raise UsageError(f"--resume {name}", "this run has no checkpoint to go on from", "start its job again")
    step = int(read_state(checkpoints[-1])["step"])
    if step >= config.steps:
        reason = f"this run has finished its {config.steps} steps"
        raise UsageError(f"--resume {name}", reason, f"raise the number to go on, such as steps={2 * config.steps}")
    _write_config(folder, config)
    return Run(config, folder, checkpoints[-1], step)


def _find(name: str, runs_dir: str) -> Path:
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


def _write_config(folder: Path, config: RunConfig) -> None:
    text = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
