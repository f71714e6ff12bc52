"""`tpo-dist objectives`: every method, what it does and when to use it."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tpo_dist.errors import UsageError


def objectives(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, nothing else.")] = False,
    refresh: Annotated[Path | None, typer.Option(help="Rewrite the table in this Markdown file instead.")] = None,
) -> None:
    """Every objective: its update rule, what it needs, when to use it, its paper.

    JSON: a list of objects with the keys name, paper, rule, group (compares candidates of one prompt), reference (can
    hold on to a reference policy), epochs, when, options (with defaults), options_in_words (defaults that are others
    for language models), scale, min_group_size, needs_greedy, reference_by_default.
    """
    from tpo_dist.objective.catalogue import catalogue, needs

    if refresh is not None:
        _refresh(refresh)
        return
    if as_json:
        print(json.dumps(catalogue(), indent=2, ensure_ascii=False))
        return
    table = Table(box=box.SIMPLE, pad_edge=False, show_lines=True)
    table.add_column("name, needs, epochs", max_width=24)
    table.add_column("rule, use it for, paper", overflow="fold")
    for entry in catalogue():
        needed = Text(f"{needs(entry)}, {entry['epochs']}", style="dim")
        what = Text(f"{entry['rule']}\n{entry['when']}\n{entry['paper']}")
        table.add_row(Text(entry["name"] + "\n", style="bold") + needed, what)
    console = Console()
    console.print(table)
    console.print(Text("(reference): only where a KL weight among its options is above 0. Options: --json."))


def _refresh(path: Path) -> None:
    from tpo_dist.objective.catalogue import refreshed

    try:
        path.write_text(refreshed(path.read_text()))
    except (OSError, ValueError) as error:
        raise UsageError(f"--refresh {path}", str(error), "name docs/objectives.md") from None
