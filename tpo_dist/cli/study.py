"""`tpo-dist study`: the paper's experiments, with our numbers beside the paper's."""

import json
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tpo_dist.studies.definition import Study

_HELP = """Run a study: `tpo-dist study NAME`, and again to go on where it was interrupted.

Finished runs are kept under OUT/runs and never repeated, whichever study asked for them. Results go to OUT/NAME:
results.csv, estimates.csv, table.md, figures, study.json. `key=value` sets a key of every run: of a job, such as
learner.optimizer.lr=3e-4, or of a bandit, such as source=mnist, or source=folder path=FOLDER, for digits. A budget
under 0.05 is a rehearsal: two steps of every run, in seconds, through the same code.

With --json, standard output is one object: study, folder, runs, finished, budget, table, results, figures; with --list
a list of objects: name, title, source, settings (how many), seeds, methods, labels (the values of each), reported.
Exit code: 0 done, 1 a run failed, 2 mistake in what was given, 130 interrupted.
"""


def study(
    name: Annotated[str | None, typer.Argument(help="Study; --list names them.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value for every run.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds, from 0 on; the study's if not given.")
    ] = None,
    budget: Annotated[float, typer.Option(min=1e-6, max=1.0, help="Share of the steps of every run.")] = 1.0,
    only: Annotated[str | None, typer.Option(help="Methods, such as tpo,grpo.")] = None,
    where: Annotated[
        str | None, typer.Option(help="Settings with these labels, such as length=7,match=prompts.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs and results.")] = Path("studies"),
    local: Annotated[bool, typer.Option("--local", help="One process, without Ray.")] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join (HOST:PORT or auto).")] = None,
    report_only: Annotated[bool, typer.Option("--report", help="Only write the results of finished runs.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the studies and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    from tpo_dist.components import lookup
    from tpo_dist.errors import UsageError
    from tpo_dist.studies.catalogue import STUDIES
    from tpo_dist.studies.narrow import narrowed

    if show_list:
        _list(list(STUDIES.values()), as_json)
        return
    if name is None:
        raise UsageError("NAME", "no study was given", f"name one of {', '.join(STUDIES)}")
    if local and address is not None:
        raise UsageError(
            f"--address {address}", "--local runs in one process, without a cluster", "drop one of the two"
        )
    chosen = narrowed(lookup("study", name, STUDIES), only, where, overrides or [], budget)
    command = shlex.join(["tpo-dist", *sys.argv[1:]])
    raise typer.Exit(_run(chosen, seeds or chosen.seeds, budget, out, command, local, address, report_only, as_json))


study.__doc__ = _HELP


def _list(studies: Sequence["Study"], as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from tpo_dist.studies.definition import labels

    rows = [
        {
            "name": one.name,
            "title": one.title,
            "source": one.source,
            "settings": len(one.settings),
            "seeds": one.seeds,
            "methods": list(dict.fromkeys(str(setting.labels["method"]) for setting in one.settings)),
            "labels": labels(one),
            "reported": [reported.name for reported in one.reported],
        }
        for one in studies
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("study", "what it asks", "settings x seeds", "source"):
        table.add_column(column)
    for one in studies:
        table.add_row(one.name, one.title, f"{len(one.settings)} x {one.seeds}", one.source)
    Console(markup=False).print(table)


def _run(
    study: "Study",
    seeds: int,
    budget: float,
    out: Path,
    command: str,
    local: bool,
    address: str | None,
    report_only: bool,
    as_json: bool,
) -> int:
    from tpo_dist.config import ClusterConfig
    from tpo_dist.errors import RunFailed, UsageError
    from tpo_dist.studies.execute import execute, missing
    from tpo_dist.studies.report import write_report
    from tpo_dist.studies.runs import run_files, set_aside_damaged

    try:
        files = run_files(out / "runs", study.settings, range(seeds))
        for path in set_aside_damaged(files):
            print(f"warning: {path} could not be read and is not used; it is now {path.name}.damaged", file=sys.stderr)
    except OSError as error:
        raise UsageError(f"--out {out}", f"cannot be written ({error.strerror})", "give another folder") from None
    batches = [] if report_only else missing(files)
    code, reason = 0, None
    try:
        if batches:
            before = sum(file.finished for file in files)
            with _sigterm_as_ctrl_c(), _Bar(study.name, before, len(files), quiet=as_json) as bar:
                execute(batches, None if local else ClusterConfig(address=address), bar.show)
    except KeyboardInterrupt:
        code, reason = 130, "interrupted; the same command goes on from here"
    except (RunFailed, OSError) as error:
        code, reason = 1, str(error)
    try:
        summary = write_report(study, files, out / study.name, command, budget)
    except OSError as error:
        if reason is not None:
            print(f"error: {reason}", file=sys.stderr)
        where, why = f"--out {out}", f"{error.filename} cannot be written ({error.strerror})"
        raise UsageError(where, why, "the runs are kept; make room for the results and start it again") from None
    if as_json:
        print(json.dumps(summary))
    else:
        _conclude(summary)
    if reason is not None:
        print(f"error: {reason}", file=sys.stderr)
    return code


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """What a batch scheduler sends ends a study as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _conclude(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(markup=False)
    console.print(Markdown(Path(summary["table"]).read_text(encoding="utf-8")))
    console.print(f"{summary['finished']} of {summary['runs']} runs finished; results in {summary['folder']}")
    for figure in summary["figures"]:
        console.print(f"figure: {figure}")


class _Bar:
    """Progress on standard error: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str, before: int, runs: int, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True, markup=False)
        self._live = console.is_terminal and not quiet
        self._quiet, self._before, self._runs, self._said = quiet, before, runs, 0.0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[left]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not self._live)
        self._task = self._progress.add_task(name, total=1.0, left="")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, progress: Any) -> None:
        """Take note of how far it is."""
        share = progress.done / progress.total
        finished = f"{self._before + progress.finished} of {self._runs} runs"
        left = "" if progress.seconds_left is None else f", about {_duration(progress.seconds_left)} left"
        if self._live:
            now = ", ".join(progress.running[:2])
            self._progress.update(self._task, completed=share, left=f"{finished}{left}  {now}")
        elif not self._quiet and progress.seconds - self._said > _SAY_SECONDS:
            self._said = progress.seconds
            print(f"{finished}, {share:.0%}{left}", file=sys.stderr, flush=True)


_SAY_SECONDS = 30.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
