"""A Grafana dashboard made from the list of metrics."""

import itertools
from collections.abc import Iterator
from typing import Any

from tpo_dist.watch.exported import EXPORTED, Exported

UID = "tpo-dist"
_WIDTH, _HEIGHT, _ACROSS = 8, 8, 3
_UNITS = {"share": "percentunit", "seconds": "s"}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_QUANTILES = (0.5, 0.95)


def dashboard() -> dict[str, Any]:
    """The whole, as Grafana imports it: one section after another, runs to choose from, each panel with its meaning."""
    return {
        "uid": UID,
        "title": "tpo_dist",
        "tags": ["tpo-dist"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "templating": {"list": [_source_variable(), _run_variable()]},
        "panels": list(_panels()),
    }


def _source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}


def _run_variable() -> dict[str, Any]:
    query = f"label_values({EXPORTED[0].prometheus}, run)"
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": "runs"},
        "refresh": 2,  # whenever the time range changes, so that new runs appear
        "multi": True,
        "includeAll": True,
        "sort": 2,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels() -> Iterator[dict[str, Any]]:
    numbers, top = itertools.count(1), 0
    sections = dict.fromkeys(exported.panel[0] for exported in EXPORTED)
    for section in sections:
        yield {
            "id": next(numbers),
            "type": "row",
            "title": section,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
            "panels": [],
        }
        titles = dict.fromkeys(exported.panel[1] for exported in EXPORTED if exported.panel[0] == section)
        for place, title in enumerate(titles):
            x, y = place % _ACROSS * _WIDTH, top + 1 + place // _ACROSS * _HEIGHT
            found = [exported for exported in EXPORTED if exported.panel == (section, title)]
            yield _panel(next(numbers), title, found, {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT})
        top += 1 + -(-len(titles) // _ACROSS) * _HEIGHT


def _panel(number: int, title: str, shown: list[Exported], place: dict[str, int]) -> dict[str, Any]:
    targets = [target for exported in shown for target in _targets(exported)]
    units = {_unit(exported) for exported in shown}
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "description": "\n".join(f"- {exported.name}: {exported.meaning}" for exported in shown),
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": units.pop() if len(units) == 1 else "short"}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{**target, "refId": chr(ord("A") + place)} for place, target in enumerate(targets)],
    }


def _unit(exported: Exported) -> str:
    return "short" if exported.kind == "counter" else _UNITS.get(exported.unit, "short")


def _targets(exported: Exported) -> Iterator[dict[str, Any]]:
    word = exported.name.removeprefix("tpo_dist_").removesuffix("_total")
    series, by = f'{exported.prometheus}{{run=~"$run"}}', ", ".join(("run", *exported.tags))
    legend = " ".join(["{{run}}", word, *(f"{{{{{tag}}}}}" for tag in exported.tags)])
    if exported.kind == "gauge":
        yield _target(f"max by ({by}) ({series})", legend)
    elif exported.steady:
        yield _target(f"sum by ({by}) (rate({series}[$__rate_interval]))", f"{legend} per second")
    elif exported.kind == "counter":
        yield _target(f"sum by ({by}) ({series})", legend)  # the first of a kind has no rate: it was not 0 before
    else:
        buckets = series.replace("{", "_bucket{", 1)
        for quantile in _QUANTILES:
            rates = f"sum by (le, {by}) (rate({buckets}[$__rate_interval]))"
            yield _target(f"histogram_quantile({quantile}, {rates})", f"{legend} {quantile:.0%}")


def _target(expression: str, legend: str) -> dict[str, Any]:
    return {"datasource": _SOURCE, "expr": expression, "legendFormat": legend, "editorMode": "code", "range": True}
