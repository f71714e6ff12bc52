"""Weights & Biases. Its key and address come from WANDB_API_KEY and WANDB_BASE_URL; WANDB_MODE=offline writes to the
run's folder, for `wandb sync`."""

import uuid
from collections.abc import Mapping

import wandb

from tpo_dist.metrics import Metrics
from tpo_dist.programs.sinks.apart import FOLDER
from tpo_dist.programs.sinks.contract import Sink, Subject
from tpo_dist.programs.sinks.identity import known_as, remember


class Wandb:
    """One run there, which a resumed one goes on with."""

    def __init__(self, subject: Subject) -> None:
        name = known_as(subject, "wandb") or uuid.uuid4().hex
        remember(subject, "wandb", name)
        self._run = wandb.init(
            project=subject.project,
            name=subject.name,
            id=name,
            resume="allow",
            config=dict(subject.config),
            dir=str(subject.folder / FOLDER),
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")  # its own count of steps only grows, and ours may go back

    def write(self, row: Mapping[str, float], metrics: Metrics) -> None:
        """One step."""
        self._run.log(dict(row))

    def go_back(self, step: int) -> None:
        """Steps that are done again show twice."""

    def close(self, status: str) -> None:
        """Mark it as finished, or as failed."""
        self._run.finish(exit_code=0 if status == "completed" else 1)


def open_sink(subject: Subject) -> Sink:
    """Raises wandb.Error where it cannot be reached or refuses the key."""
    return Wandb(subject)
