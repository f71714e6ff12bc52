"""What a person sees while a run trains: a live panel in a terminal, a line now and then elsewhere."""

import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tpo_dist.programs.folder import short_path
from tpo_dist.programs.run import Run

_LINE_EVERY_SECONDS = 5.0

_SECTIONS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "learning": (
        ("error", "error", "{:.4f}"),
        ("reward", "reward", "{:.4f}"),
        ("zero_variance", "zero-variance groups", "{:.0%}"),
        ("all_fail", "groups without any reward", "{:.0%}"),
        ("learning_rate", "learning rate", "{:.2e}"),
        ("grad_norm_first", "gradient norm, first epoch", "{:.3g}"),
    ),
    "target": (
        ("effective_group_size", "effective group size", "{:.2f}"),
        ("p_max", "p_max", "{:.3f}"),
        ("target_distance", "Σ|q - p_old|", "{:.2g}"),
        ("target_kl", "KL(q | p_old)", "{:.2g}"),
    ),
    "seconds": (
        ("step_seconds", "step", "{:.3f}"),
        ("sample_seconds", "sampling, all workers", "{:.3f}"),
        ("score_seconds", "scoring, all workers", "{:.3f}"),
        ("wait_seconds", "learner waiting for groups", "{:.3f}"),
        ("train_seconds", "training", "{:.3f}"),
    ),
    "stream": (
        ("staleness", "staleness (publications)", "{:.2f}"),
        ("ratio_ess", "effective sample size", "{:.0%}"),
        ("completion_length", "tokens per candidate", "{:.1f}"),
    ),
}


class View:
    """Shows one run; silent where `quiet`. `local`: one process trains it."""

    def __init__(self, run: Run, *, quiet: bool, local: bool = False) -> None:
        self._run, self._quiet, self._local = run, quiet, local
        self._console = Console(file=sys.stderr if quiet else sys.stdout, quiet=quiet, highlight=False, markup=False)
        self._progress = Progress(
            TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), console=self._console,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=run.config.steps, completed=run.first_step)
        self._live: Live | None = None
        self._line_due = 0.0
        self._notice = ""
        self._shown = False
        self._warned: set[str] = set()
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        config, workers, stale = (
            self._run.config,
            self._run.config.rollout.workers,
            self._run.config.stream.max_staleness,
        )
        who = f"{workers} rollout worker{'' if workers == 1 else 's'}"
        if self._local:
            who = "one process" + (f" (groups as stale as stream.max_staleness={stale} lets them be)" if stale else "")
        self._console.print(
            f"{config.name}: {config.objective.name} on {config.task.name}, {config.steps} steps of "
            f"{config.rollout.groups_per_step} prompts x {config.rollout.group_size} candidates, {who}",
            soft_wrap=True,
        )
        self._console.print(f"run folder: {short_path(self._run.folder)}", soft_wrap=True)
        self._console.print("starting …")
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line beside the view; safe in a signal handler."""
        self.tell(text)
        self._notice = text

    def tell(self, text: str) -> None:
        """The same, about what is soon over: gone from the view with the first step."""
        if self._live is None:
            os.write(sys.stderr.fileno(), f"{text}\n".encode())
        elif not self._shown:
            self._live.update(Text(text))

    def warn(self, text: str) -> None:
        """A line about something that may go wrong again; it is said once."""
        if text not in self._warned:
            self._warned.add(text)
            self.say(text)

    def show(self, row: Mapping[str, Any]) -> None:
        """Show a step."""
        self._shown = True
        self._progress.update(self._task, completed=row["step"])
        if self._live is not None:
            title, notice = self._run.config.name, self._notice or "Ctrl-C ends it after the step, with a checkpoint"
            self._live.update(Panel(Group(_columns(row), self._progress), title=title, subtitle=Text(notice)))
        elif time.monotonic() >= self._line_due or row["step"] == self._run.config.steps:
            self._line_due = time.monotonic() + _LINE_EVERY_SECONDS
            self._console.print(self._line(row), soft_wrap=True)

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """What came of it, and where it is."""
        error = "none measured" if summary["error"] is None else f"{summary['error']:.4f} (mean of the last 20 steps)"
        pace = "" if summary["steps_per_second"] is None else f", {summary['steps_per_second']:.2f} steps per second"
        self._console.print(f"\n{summary['status']} at step {summary['step']} of {summary['steps']}")
        self._console.print(f"  error       {error}")
        self._console.print(f"  time        {summary['seconds']:.1f} s of training{pace}")
        folder = short_path(self._run.folder)
        if summary["groups_failed"]:
            left_out = f"{summary['groups_failed']} groups, left out of training: tpo-dist ledger {folder} says why"
            self._console.print(f"  failed      {left_out}", soft_wrap=True)
        for name, file in (("curve", "learning_curve.png"), ("metrics", "metrics.jsonl"), ("board", "tensorboard")):
            if (self._run.folder / file).exists():
                self._console.print(f"  {name:11} {os.path.join(folder, file)}", soft_wrap=True)

    def _line(self, row: Mapping[str, Any]) -> str:
        step, now = row["step"], time.monotonic()
        first_step, since = self._first = self._first or (step, now)
        left = ""
        if step > first_step:  # the first step says little of the others: everything begins in it
            seconds = (self._run.config.steps - step) * (now - since) / (step - first_step)
            left = f"  about {seconds:.0f} s left"
        failed = f"  failed {row['groups_failed']:.0f}" if row.get("groups_failed") else ""
        distance = f"  Σ|q-p| {row['target_distance']:.3f}" if "target_distance" in row else ""
        return (
            f"step {step:>5}/{self._run.config.steps}  error {row['error']:.4f}  reward {row['reward']:.4f}"
            f"{distance}{failed}  {row['step_seconds']:.3f} s/step{left}"
        )


def _columns(row: Mapping[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 4))
    cells = []
    for title, entries in _SECTIONS.items():
        section = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 1, 0, 0))
        for name, label, form in entries:
            if name in row:
                section.add_row(label, form.format(row[name]))
        if section.row_count:
            cells.append(section)
    for first in range(0, len(cells), 2):
        grid.add_row(*cells[first : first + 2])
    return grid
