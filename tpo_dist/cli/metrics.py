"""`tpo-dist metrics`: what a distributed run exports, as a list, a page, or a Grafana dashboard."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from tpo_dist.errors import UsageError
from tpo_dist.watch.exported import EXPORTED
from tpo_dist.watch.grafana import dashboard
from tpo_dist.watch.page import page


def metrics(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/metrics.md.")] = False,
    grafana: Annotated[bool, typer.Option("--grafana", help="Print a dashboard that Grafana imports.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    """The metrics that a distributed run exports to Prometheus: name there, kind, unit and meaning."""
    if markdown + grafana + as_json > 1:
        raise UsageError("--markdown, --grafana, --json", "only one of them can be printed", "give one")
    if markdown:
        print(page(), end="")
    elif grafana:
        print(json.dumps(dashboard(), indent=1))
    elif as_json:
        print(json.dumps([{**asdict(each), "prometheus": each.prometheus} for each in EXPORTED], indent=2))
    else:
        width = max(len(each.prometheus) for each in EXPORTED)
        for each in EXPORTED:
            print(f"{each.prometheus:{width}}  {each.kind:9}  {each.unit:12}  {each.meaning}")
