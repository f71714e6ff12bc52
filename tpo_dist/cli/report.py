"""`tpo-dist report` and `tpo-dist view`: runs as a page, in a file or live."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tpo_dist.errors import UsageError
from tpo_dist.programs.folder import find_run, short_path

_MOST_RUNS = 8
_PORT = 8270

Runs = Annotated[list[str], typer.Argument(help="Runs (their folders, or the folders' names), at most 8.")]
RunsDir = Annotated[str, typer.Option(help="Folder that holds the folders of runs.")]


def report(
    runs: Runs,
    out: Annotated[
        Path | None, typer.Option(help="The file; report.html in the folder of the first run if not given.")
    ] = None,
    groups: Annotated[int, typer.Option(min=0, help="Groups of each run in the page; more are thinned out.")] = 10_000,
    runs_dir: RunsDir = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    """Runs as one HTML page that needs no network: curves, times, faults, configuration, ledger, and their groups.

    Each group that groups.jsonl keeps (log.groups, log.groups_every): the prompt with its candidates side by side,
    their scores, p_old, target q and p after the step. Several runs are compared. A run that was killed or damaged has
    a page too, which says what is missing.

    JSON: an object with the keys page (file), bytes, runs (run, groups, and problems: what is missing or damaged).
    Exit code: 0 written, 2 mistake in what was given.
    """  # fmt: skip
    from tpo_dist.report.gather import gather
    from tpo_dist.report.page import render, write_page

    folders = _find(runs, runs_dir)
    path = out or folders[0] / "report.html"
    pictures = [gather(folder) for folder in folders]
    text = render(pictures, groups)
    try:
        write_page(path, text)
    except OSError as error:
        raise UsageError(f"--out {path}", f"cannot be written ({error.strerror})", "give another file") from None
    if as_json:
        told = [
            {"run": str(each.folder), "groups": len(each.groups.entries), "problems": list(each.problems)}
            for each in pictures
        ]
        print(json.dumps({"page": str(path), "bytes": path.stat().st_size, "runs": told}))
        return
    for picture in pictures:
        for problem in picture.problems:
            print(f"{picture.name}: {problem}", file=sys.stderr)
    count = sum(len(picture.groups.entries) for picture in pictures)
    print(f"{short_path(path.absolute())}: {count} groups, {path.stat().st_size / 1e6:.1f} MB")


def view(
    runs: Runs,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any that is free.")] = _PORT,
    runs_dir: RunsDir = "runs",
) -> None:
    """The page of report, live while the runs train, on 127.0.0.1 until Ctrl-C. Nothing is written.

    Exit code: 130 ended by Ctrl-C, 2 mistake in what was given.
    """
    from tpo_dist.report.serve import serve

    folders = _find(runs, runs_dir)
    try:
        asyncio.run(serve(folders, port, lambda address: print(f"{address} (Ctrl-C ends it)", flush=True)))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _find(runs: list[str], runs_dir: str) -> list[Path]:
    if len(runs) > _MOST_RUNS:
        raise UsageError(f"{len(runs)} runs", f"one page compares at most {_MOST_RUNS}", "name fewer")
    folders = [find_run(run, runs_dir, "RUN") for run in runs]
    if len(set(folders)) < len(folders):
        raise UsageError("RUN", "the same run is named twice", "name each once")
    return folders
