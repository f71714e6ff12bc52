"""`tpo-dist bench report`: what it costs to look at groups."""

from typing import Annotated

import typer

from tpo_dist.cli.bench import AsJson, Overrides, progress, show


def report(
    overrides: Overrides = None,
    groups: Annotated[int, typer.Option(min=1, help="Groups in the page.")] = 10_000,
    steps: Annotated[int, typer.Option(min=4, help="Steps trained each way, with groups kept and without.")] = 40,
    as_json: AsJson = False,
) -> None:
    """Keeping groups while a toy trains, and the page of a run with many of them, opened in headless Chromium.

    JSON keys: keeping_share (of a step's processor time, at log.groups_every), step_seconds, bytes_per_group; groups,
    groups_bytes (groups.jsonl), page_bytes, page_seconds (to make it); browser (null where there is no Chromium),
    first_paint_ms, and filter_zero_ms, filter_order_ms, filter_text_ms, filter_stop_ms until the list shows it.
    """
    from tpo_dist.bench.report_page import bench_report

    result = bench_report(tuple(overrides or ()), groups, steps, progress(as_json))
    rows = {
        "keeping groups": f"{result['keeping_share']:.2%} of a step",
        "one group": f"{result['bytes_per_group'] / 1000:.1f} kB",
        "the page": f"{result['page_bytes'] / 1e6:.1f} MB for {groups} groups, made in {result['page_seconds']:.1f} s",
    }
    if result["browser"] is None:
        rows["opening it"] = "not measured: chromium, chromedriver and selenium are needed"
    else:
        rows["first paint"] = f"{result['first_paint_ms']:.0f} ms, {result['browser']}"
        for name in ("zero", "order", "text", "stop"):
            rows[f"filter: {name}"] = f"{result[f'filter_{name}_ms']:.0f} ms"
    show("looking at groups", rows, result, as_json)


def register(bench: typer.Typer) -> None:
    """Adds it to `tpo-dist bench`."""
    bench.command()(report)
