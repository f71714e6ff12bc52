"""`tpo-dist status`: what a run does at this moment, seen from another terminal."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tpo_dist.errors import UsageError

if TYPE_CHECKING:
    from tpo_dist.programs.control import Status
    from tpo_dist.programs.observe import Observed

_LOOK_SECONDS = 1.0
_LINE_EVERY_SECONDS = 5.0


def status(
    run: Annotated[str | None, typer.Argument(help="Folder of a run, or its name; all runs if not given.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the run ends.")] = False,
    runs_dir: Annotated[str, typer.Option(help="Folder that holds the folders of runs.")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    """What a run does: step, workers, stream, learner, faults. Without RUN: every run, the last started one at the end.

    With --json, standard output is one object: run (folder), word (starting, running, stopping, silent, completed,
    interrupted, failed, killed, not started), running, holder (its process, or null), step, steps, age_seconds (of the
    status), status (what the process says in status.json, or null), summary (summary.json, or null). Without RUN, a
    list of objects: run, name, word, running, step, steps, error (where a file of it is damaged).
    A worker is starting, working (on the block shown, or the oldest of several), idle (it waits for the learner),
    loading (weights), retiring (it leaves once its blocks are handed in) or restarting. A run is silent where its
    process has said nothing for 10 s, and killed where that ended without a word.
    Exit code: 0, also for a run that is over; 2 mistake in what was given, 130 interrupted.
    """
    from tpo_dist.programs.folder import find_run, runs_in

    if watch and (as_json or run is None):
        reason = "it shows one run for as long as it trains" if run is None else "--json prints one value and ends"
        raise UsageError("--watch", reason, "name a RUN" if run is None else "drop one of the two")
    if run is None:
        _list(runs_in(runs_dir), runs_dir, as_json)
        return
    folder = find_run(run, runs_dir, "RUN")
    if watch:
        raise typer.Exit(_watch(folder))
    from tpo_dist.programs.observe import observe

    look = observe(folder)
    if as_json:
        print(json.dumps(_as_object(look), ensure_ascii=False))
    else:
        Console(highlight=False, markup=False).print(view(look), soft_wrap=True)


def _as_object(look: "Observed") -> dict[str, Any]:
    return {
        "run": str(look.folder),
        "word": look.word,
        "running": look.holder is not None,
        "holder": look.holder,
        "step": look.step,
        "steps": look.steps,
        "age_seconds": look.age_seconds,
        "status": None if look.status is None else look.status.model_dump(mode="json"),
        "summary": look.summary or None,
    }


def _list(folders: list[Path], runs_dir: str, as_json: bool) -> None:
    rows = [_row(folder) for folder in folders]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    if not rows:
        print(f"there are no runs in {runs_dir}")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("status")
    table.add_column("step", justify="right", no_wrap=True)
    for row in rows:
        steps = "" if row["steps"] is None else f"{row['step']} of {row['steps']}"
        table.add_row(Text(row["name"]), Text(row["word"], _STYLES.get(row["word"], "")), steps)
    Console(highlight=False, markup=False).print(table)
    for row in rows:
        if row["error"]:
            print(row["error"])


def _row(folder: Path) -> dict[str, Any]:
    from tpo_dist.programs.observe import observe

    row: dict[str, Any] = {"run": str(folder.resolve()), "name": folder.name, "word": "unreadable", "running": None}
    row |= {"step": None, "steps": None, "error": None}
    try:
        look = observe(folder)
    except UsageError as error:
        return row | {"error": str(error)}
    running = look.holder is not None
    return row | {"word": look.word, "running": running, "step": look.step, "steps": look.steps}


def _watch(folder: Path) -> int:
    """Look again and again until nobody trains the run; the exit code."""
    from tpo_dist.programs.observe import observe

    console = Console(highlight=False, markup=False)
    show = _live if console.is_terminal else _log
    try:
        with show(console) as shown:
            while (look := observe(folder)).holder is not None:
                shown(look)
                time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        print("not watched any more; the run goes on", file=sys.stderr)
        return 130
    console.print(view(look), soft_wrap=True)
    return 0


@contextmanager
def _live(console: Console) -> "Iterator[Callable[[Observed], None]]":
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda look: live.update(view(look), refresh=True)


@contextmanager
def _log(_: Console) -> "Iterator[Callable[[Observed], None]]":
    due = 0.0

    def show(look: "Observed") -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _LINE_EVERY_SECONDS
            print(line(look), flush=True)

    yield show


_STYLES = {
    "running": "green", "starting": "green", "completed": "", "stopping": "yellow", "interrupted": "yellow",
    "silent": "red", "failed": "red", "killed": "red", "unreadable": "red",
}  # fmt: skip


def view(look: "Observed") -> RenderableType:
    """A run for people."""
    head = Text.assemble((look.folder.name, "bold"), "  ", (look.word, _STYLES.get(look.word, "")))
    if look.holder is None:
        return Group(head, *_over(look))
    steps = "" if look.steps is None else f" of {look.steps}"
    if look.status is None:
        alone = f"{look.holder} says nothing of workers: it is still starting, or trains alone (--local)"
        return Group(head, Text(f"step {look.step}{steps}; {alone}"))
    parts: list[RenderableType] = [head, Text(_where(look, look.status))]
    if look.silent:
        silent = f"{look.holder} has said nothing for {look.age_seconds:.0f} s: what follows is that old"
        parts.append(Text(silent, "red"))
    return Group(*parts, _fleet(look.status), _rest(look.status))


def line(look: "Observed") -> str:
    """A run in one line, for a log."""
    head = f"{look.word}  step {look.step} of {look.steps}"
    if look.status is None:
        return head
    fleet, stream = look.status.rollouts, look.status.stream
    pace = "" if stream.groups_per_second is None else f"  {stream.groups_per_second:.1f} groups/s"
    faults = sum(look.status.faults.values())
    broke = f"  {faults} fault{'' if faults == 1 else 's'}" if faults else ""
    return f"{head}  rollouts {fleet.alive} of {fleet.wanted}{pace}  learner {look.status.learner.state}{broke}"


def _over(look: "Observed") -> list[Text]:
    lines = [f"does not run: {look.ending}"]
    if look.word == "killed":
        lines = [f"does not run: its process was killed at step {look.step} of {look.steps}, or died without a word"]
    if look.summary.get("error") is not None:
        lines.append(f"error {look.summary['error']:.4f} (mean of the last 20 steps)")
    if look.summary.get("groups_failed"):
        lines.append(f"{look.summary['groups_failed']} groups failed; tpo-dist ledger says why")
    if look.word not in ("completed", "not started"):
        lines.append(look.go_on)
    return [Text(line) for line in lines]


def _where(look: "Observed", status: "Status") -> str:
    stale = "synchronous" if status.max_staleness == 0 else f"max_staleness {status.max_staleness}"
    return f"step {look.step} of {status.steps}, version {status.version}, {stale}; {look.holder}"


def _fleet(status: "Status") -> Table:
    fleet = status.rollouts
    auto = ", auto" if fleet.auto else ""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="")
    table.title = f"\nrollouts  {fleet.alive} alive of {fleet.wanted} wanted{auto}"
    for name in ("worker", "pid", "state", "block", "for", "version", "done", "restarts", "node"):
        right = name in ("pid", "block", "for", "version", "done", "restarts")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for worker in fleet.workers:
        style = "red" if worker.state == "restarting" else "yellow" if worker.state in ("starting", "retiring") else ""
        table.add_row(
            Text(worker.name),
            _or_dash(worker.pid),
            Text(worker.state, style),
            _or_dash(worker.block),
            f"{worker.seconds:.1f} s",
            _or_dash(worker.version),
            str(worker.blocks),
            str(worker.restarts),
            Text(worker.node or ""),
        )
    return table


def _rest(status: "Status") -> Table:
    stream, learner = status.stream, status.learner
    grid = Table.grid(padding=(0, 2))
    counts = {"in flight": stream.in_flight, "ready": stream.ready, "trained": stream.trained, "failed": stream.failed}
    rare = {"queued again": stream.queued, "reissued so far": stream.reissued, "dropped for age": stream.dropped}
    counts |= {name: number for name, number in rare.items() if number}
    grid.add_row("blocks", ", ".join(f"{number} {name}" for name, number in counts.items()))
    if stream.failed_groups:
        causes = ", ".join(f"{number} {cause}" for cause, number in sorted(stream.failed_groups.items()))
        grid.add_row("not scored", Text(f"groups: {causes}"))
    if stream.groups_per_second is not None:
        idle = "" if stream.workers_idle is None else f", workers idle {stream.workers_idle:.0%} of their time"
        grid.add_row("pace", f"{stream.groups_per_second:.1f} groups per second{idle}")
    waits = f" for {learner.waits_for}" if learner.waits_for else ""
    idle = "" if learner.idle_share is None else f"; idle {learner.idle_share:.0%} of its time"
    restarts = f"; restarts: {learner.restarts}" if learner.restarts else ""
    pids = {"learner": learner.pid, "stream": stream.pid}
    grid.add_row("learner", Text(f"{learner.state}{waits} ({learner.seconds:.1f} s){idle}{restarts}"))
    grid.add_row("pids", ", ".join(f"{name} {_or_dash(pid)}" for name, pid in pids.items()))
    faults = ", ".join(f"{kind}: {number}" for kind, number in sorted(status.faults.items())) or "none"
    grid.add_row("faults", Text(faults))
    if status.last_wish_error is not None:
        grid.add_row("refused", Text(status.last_wish_error))
    return grid


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)
