"""The page: one file with everything in it, or the frame that the live server fills.

Whatever a policy wrote comes as JSON and is shown as text by the page's script. A content security policy with the
checksums of the page's own scripts keeps any other from running, and all of them from talking to anybody.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined

from tpo_dist import __version__
from tpo_dist.report.charts import charts_of
from tpo_dist.report.gather import Picture, differing
from tpo_dist.report.groups import Entry, GroupRow, chunks, index_of, spread

CHUNK = 50
"""Groups that are unpacked, or asked of the server, at a time."""
MOST_GROUPS = 10_000
"""Of one run in a page; more are thinned out evenly."""


def render(pictures: Sequence[Picture], most_groups: int = MOST_GROUPS) -> str:
    """The page of these runs as one HTML text that needs nothing else. Raises OSError where groups cannot be read."""
    charts = charts_of(pictures)
    data = {f"charts-{number}": chart["item"] for number, chart in enumerate(charts)}
    packed: dict[str, str] = {}
    notes = []
    for run, picture in enumerate(pictures):
        entries = spread(picture.groups.entries, most_groups)
        if len(entries) < len(picture.groups.entries):
            notes.append(f"{picture.name}: {len(entries)} of {len(picture.groups.entries)} groups are in this page")
        kept: list[Entry] = []
        for number, part in enumerate(chunks(entries, CHUNK)):
            packed[f"chunk-{run}-{number}"] = _pack(chunk_of(picture, part))
            kept += part
        packed[f"index-{run}"] = _pack(index_of(kept))
    about = {"live": False, "chunk": CHUNK, "runs": [picture.name for picture in pictures]}
    scripts = [_own("page.js"), bokeh_script()]
    policy = (
        f"default-src 'none'; script-src {' '.join(_checksum(script) for script in scripts)}; "
        "style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; form-action 'none'"
    )
    return _templates().get_template("page.html.j2").render(
        **_frame(pictures, charts, about), policy=policy, style=_own("page.css"), script=scripts[0], bokeh=scripts[1],
        data={name: escape(value) for name, value in data.items()}, packed=packed, notes=notes,
    )  # fmt: skip


def render_live(pictures: Sequence[Picture], charts: Sequence[Mapping[str, Any]]) -> str:
    """The page without its data and scripts, which it asks the server for."""
    about = {"live": True, "chunk": CHUNK, "runs": [picture.name for picture in pictures]}
    return _templates().get_template("page.html.j2").render(
        **_frame(pictures, charts, about), policy=None, style=None, script=None, bokeh=None, data={}, packed={},
        notes=[],
    )  # fmt: skip


def render_sections(pictures: Sequence[Picture]) -> str:
    """What changes while a run trains, besides charts and groups."""
    told = _told(pictures)
    return "".join(_templates().get_template(f"{name}.html.j2").render(**told) for name in ("overview", "sections"))


def chunk_of(picture: Picture, entries: Sequence[Entry]) -> list[dict[str, Any] | None]:
    """Rows for the page's script; None for a group that is gone."""
    return [None if row is None else row_of(row) for row in picture.groups.rows(entries)]


def row_of(row: GroupRow) -> dict[str, Any]:
    """A group, ready for JSON."""
    return row.model_dump()


def escape(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def bokeh_script() -> str:
    """BokehJS, as its package brings it."""
    return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)


def own_file(name: str) -> str:
    """`page.js` or `page.css`."""
    return _own(name)


@cache
def _own(name: str) -> str:
    return (files("tpo_dist.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def _templates() -> Environment:
    loader = PackageLoader("tpo_dist.report", "assets")
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters["json"] = json.dumps
    found.filters["time"] = _time
    return found


def _frame(pictures: Sequence[Picture], charts: Sequence[Mapping[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    title = pictures[0].name if len(pictures) == 1 else f"{len(pictures)} runs"
    return {**_told(pictures), "title": title, "charts": charts, "about": escape(about), "version": __version__}


def _told(pictures: Sequence[Picture]) -> dict[str, Any]:
    keys = list(dict.fromkeys(key for picture in pictures for key in picture.settings))
    return {
        "pictures": pictures,
        "overviews": [_overview(picture) for picture in pictures],
        "keys": keys,
        "differing": differing(list(pictures)),
        "metrics": list(dict.fromkeys(name for each in pictures for row in each.evaluations for name in row)),
        "at": _time(datetime.now().timestamp()),
    }


def _overview(picture: Picture) -> dict[str, str]:
    look, summary = picture.observed, {} if picture.observed is None else picture.observed.summary
    told = {"status": "unknown", "step": str(picture.rows[-1]["step"]) if picture.rows else "0"}
    if look is not None:
        told = {"status": look.word, "step": str(look.step) + (f" of {look.steps}" if look.steps else "")}
    if summary.get("reason"):
        told["reason"] = str(summary["reason"])
    names = {"method": "objective.name", "task": "task.name", "policy": "policy.name", "seed": "seed"}
    told |= {name: str(picture.settings[key]) for name, key in names.items() if key in picture.settings}
    last = picture.rows[-20:]
    for name in ("error", "reward"):
        numbers = [row[name] for row in last if name in row]
        if numbers:
            told[f"{name}, last 20 steps"] = f"{sum(numbers) / len(numbers):.4f}"
    seconds = sum(row.get("step_seconds", 0.0) for row in picture.rows)
    told |= {"time": f"{seconds:.0f} s of training", "faults": str(len(picture.faults))}
    return told | {"groups kept": str(len(picture.groups.entries))}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def _pack(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(text, compresslevel=6, mtime=0)).decode()


def _checksum(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def write_page(path: Path, text: str) -> None:
    """In one piece. Raises OSError where it cannot be written."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
