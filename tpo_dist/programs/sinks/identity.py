"""By what a sink knows a run again, so that a resumed one goes on in the same place."""

import json

from tpo_dist.programs.folder import write_whole
from tpo_dist.programs.sinks.apart import FOLDER
from tpo_dist.programs.sinks.contract import Subject


def known_as(subject: Subject, sink: str) -> str | None:
    """The id under which this sink has the run; None where it has not seen it."""
    try:
        kept = json.loads((subject.folder / FOLDER / f"{sink}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept.get("id") if isinstance(kept, dict) else None


def remember(subject: Subject, sink: str, name: str) -> None:
    """Keep the id for the process that resumes the run."""
    write_whole(subject.folder / FOLDER / f"{sink}.json", json.dumps({"id": name}) + "\n")
