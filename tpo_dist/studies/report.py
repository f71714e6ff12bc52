"""What a study leaves behind: tidy results, the table, the figures, and a note of how they came about."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tpo_dist import __version__
from tpo_dist.programs.folder import write_whole
from tpo_dist.studies.definition import REHEARSAL_BELOW, Study
from tpo_dist.studies.figures import draw
from tpo_dist.studies.runs import RunFile, commit
from tpo_dist.studies.tables import estimates, estimates_frame, markdown, results


def write_report(study: Study, files: Sequence[RunFile], folder: Path, command: str, budget: float) -> dict[str, Any]:
    """Write everything under `folder` from the runs that are finished; a summary of what was written.

    `results.csv` has a row for each run and number, `estimates.csv` one for each setting and number, `table.md` is for
    people, `study.json` says command, commit and machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = estimates(study, files)
    results(study, files).write_csv(folder / "results.csv")
    estimates_frame(study, found).write_csv(folder / "estimates.csv")
    caution = ""
    if budget < REHEARSAL_BELOW:
        caution = "A rehearsal: these numbers mean nothing.\n\n"
    elif budget < 1:
        caution = f"Runs of {budget:g} of the study's steps: the paper's final figures are of whole runs.\n\n"
    head = f"# {study.title}\n\n{study.source}. `{command}`\n\n"
    note = f"\n{study.note}\n" if study.note else ""
    write_whole(folder / "table.md", head + caution + markdown(study, found) + note)
    ran = sorted({file.commit() for file in files if file.finished})
    drawn = []
    for index, figure in enumerate(study.figures):
        path = folder / (f"{study.name}.png" if index == 0 else f"{study.name}-{index + 1}.png")
        if draw(study, figure, files, found, path):
            drawn.append(str(path))
    summary = {
        "study": study.name,
        "folder": str(folder),
        "runs": len(files),
        "finished": sum(file.finished for file in files),
        "budget": budget,
        "table": str(folder / "table.md"),
        "results": str(folder / "results.csv"),
        "figures": drawn,
    }
    write_whole(
        folder / "study.json",
        json.dumps({**summary, "command": command, **provenance(), "commits_of_runs": ran}, indent=2) + "\n",
    )
    return summary


def provenance() -> Mapping[str, Any]:
    """Commit, versions and machine."""
    return {
        "tpo_dist": __version__,
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} x {platform.machine()}, {platform.system()}",
    }
