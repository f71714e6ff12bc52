"""What there is to choose from: the registry as rows for a terminal, for JSON and for the documentation."""

import dataclasses
from typing import Any

from tpo_dist.objective.contract import wants_reference
from tpo_dist.objective.registry import OBJECTIVES

BEGIN, END = "<!-- objectives: written by `tpo-dist objectives --refresh` -->", "<!-- end of objectives -->"


def catalogue() -> list[dict[str, Any]]:
    """One entry for each method: what it is, what it needs, and its options with their defaults."""
    entries = []
    for name, method in OBJECTIVES.items():
        objective: Any = method.kind(**method.options)  # every objective is a dataclass; the protocol cannot say so
        entries.append(
            {
                "name": name,
                "paper": method.paper,
                "rule": method.rule,
                "group": objective.min_group_size > 1,
                "reference": objective.uses_reference,
                "epochs": objective.epochs,
                "when": method.when,
                "options": {field.name: getattr(objective, field.name) for field in dataclasses.fields(objective)},
                "options_in_words": dict(method.in_words),
                "scale": method.scale,
                "min_group_size": objective.min_group_size,
                "needs_greedy": objective.needs_greedy,
                "reference_by_default": wants_reference(objective),
            }
        )
    return entries


def needs(entry: dict[str, Any]) -> str:
    """What a method asks of the run beyond scored samples, in a few words."""
    parts = ["group"] if entry["group"] else []
    if entry["needs_greedy"]:
        parts.append("greedy score")
    if entry["reference"]:
        parts.append("reference" if entry["reference_by_default"] else "(reference)")
    return ", ".join(parts) or "nothing"


def markdown() -> str:
    """The methods as a Markdown table."""
    lines = ["| name | rule | needs | epochs | scale | use it for | paper |", "|---|---|---|---|---|---|---|"]
    for entry in catalogue():
        cells = (
            entry["name"],
            entry["rule"],
            needs(entry),
            entry["epochs"],
            *(entry[key] for key in ("scale", "when", "paper")),
        )
        name, rule, *rest = (str(cell).replace("|", "\\|") for cell in cells)
        lines.append(f"| `{name}` | {rule} | " + " | ".join(rest) + " |")
    return "\n".join(lines)


def refreshed(text: str) -> str:
    """A document with the table between its two marks brought up to date. Raises ValueError where a mark is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document lacks the line {BEGIN!r} or {END!r}")
    return f"{before}{BEGIN}\n{markdown()}\n{END}{after}"
