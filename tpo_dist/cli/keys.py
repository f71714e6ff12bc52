"""Every key of a job file with its default and its meaning, for `tpo-dist train --keys`."""

import dataclasses
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
                entries.extend(_options(name, kinds[name]))
            elif isinstance(value, BaseModel):
                visit(value, f"{prefix}{name}.")
            else:
                entries.append({"key": prefix + name, "default": value, "meaning": field.description or ""})

    visit(RunConfig(), "")
    return entries


def _options(section: str, kinds: dict[str, type[Any]]) -> list[dict[str, Any]]:
    owners: dict[str, list[str]] = {}
    defaults: dict[str, Any] = {}
    for name, kind in kinds.items():
        for option in dataclasses.fields(kind):
            owners.setdefault(option.name, []).append(name)
            defaults.setdefault(option.name, option.default)
    return [
        {"key": f"{section}.{option}", "default": defaults[option], "meaning": "option of " + ", ".join(names)}
        for option, names in owners.items()
    ]
