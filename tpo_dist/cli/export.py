"""`tpo-dist export`: a run's language model as a Hugging Face folder."""

import json
from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Argument(help="Run (its folder, or the folder's name); it may still go on.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must be new or empty.")],
    step: Annotated[int | None, typer.Option(help="The checkpoint of this step instead of the newest.")] = None,
    runs_dir: Annotated[str, typer.Option(help="Folder that holds the folders of runs.")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    """Write what a run has trained as an ordinary model folder, LoRA merged: transformers and vLLM load it.

    JSON: an object with the keys folder, checkpoint, step, bytes.
    Exit code: 0 written, 2 mistake in what was given.
    """
    from tpo_dist.programs.export import export_run

    found = export_run(run, folder, runs_dir, step)
    if as_json:
        print(json.dumps(found))
    else:
        print(f"{found['folder']}: the weights of step {found['step']}, {found['bytes'] / 1e6:,.1f} MB")
