"""Every key of a job file with its default and its meaning, for `tpo-dist train --keys`."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from tpo_dist.config import ComponentConfig, RunConfig
from tpo_dist.objective import OBJECTIVES
from tpo_dist.policies import POLICIES
from tpo_dist.tasks import TASKS


def describe_keys() -> list[dict[str, Any]]:
    """One entry for each key: `key`, `default`, `meaning`; options of components follow their section's name."""
    entries: list[dict[str, Any]] = []
    kinds: dict[str, dict[str, type[Any]]] = {
        "task": dict(TASKS),
        "policy": dict(POLICIES),
        "objective": {name: method.kind for name, method in OBJECTIVES.items()},
    }

    def visit(model: BaseModel, prefix: str) -> None:
        for name, field in type(model).model_fields.items():
            value = getattr(model, name)
            if isinstance(value, ComponentConfig):
                meaning = "one of " + ", ".join(kinds[name])
                entries.append({"key": f"{name}.name", "default": value.name, "meaning": meaning})
                presets = {key: method.options for key, method in OBJECTIVES.items()} if name == "objective" else {}
                entries.extend(_options(name, kinds[name], presets))
            elif isinstance(value, BaseModel):
                visit(value, f"{prefix}{name}.")
            else:
                entries.append({"key": prefix + name, "default": value, "meaning": field.description or ""})

    visit(RunConfig(), "")
    return entries


def _options(
    section: str, kinds: dict[str, type[Any]], presets: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    owners: dict[str, dict[str, Any]] = {}
    for name, kind in kinds.items():
        for option in dataclasses.fields(kind):
            owners.setdefault(option.name, {})[name] = presets.get(name, {}).get(option.name, option.default)
    return [
        {"key": f"{section}.{option}", "default": _shared(defaults), "meaning": "option of " + _named(defaults)}
        for option, defaults in owners.items()
    ]


def _shared(defaults: dict[str, Any]) -> Any:
    """The default where all owners agree, otherwise None: the meaning then says which owner has which."""
    first, *others = defaults.values()
    return first if all(other == first for other in others) else None


def _named(defaults: dict[str, Any]) -> str:
    if len(set(map(repr, defaults.values()))) == 1:
        return ", ".join(defaults)
    return ", ".join(f"{name} ({json.dumps(default)})" for name, default in defaults.items())
