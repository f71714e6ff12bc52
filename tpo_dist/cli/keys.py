"""Every key of a job file with its default and its meaning, for `tpo-dist train --keys`."""

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from tpo_dist.config import ComponentConfig, RunConfig
from tpo_dist.objective import OBJECTIVES
from tpo_dist.policies import POLICIES
from tpo_dist.rollout import SAMPLERS
from tpo_dist.tasks import TASKS, TEXT_TASKS


def describe_keys() -> list[dict[str, Any]]:
    """One entry for each key: `key`, `default`, `meaning`; options of components follow their section's name."""
    entries: list[dict[str, Any]] = []
    kinds: dict[str, dict[str, type[Any]]] = {
        "task": {**TASKS, **TEXT_TASKS},
        "policy": dict(POLICIES),
        "sampler": dict(SAMPLERS),
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
                meaning = _meaning(field.annotation, field.description or "")
                entries.append({"key": prefix + name, "default": value, "meaning": meaning})

    visit(RunConfig(), "")
    return entries


def _options(
    section: str, kinds: dict[str, type[Any]], presets: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    owners: dict[str, dict[tuple[str, str], list[str]]] = {}
    for name, kind in kinds.items():
        words, hints = _field_docstrings(kind), get_type_hints(kind)
        for option in dataclasses.fields(kind):
            meaning = _meaning(hints[option.name], words.get(option.name, ""))
            found = presets.get(name, {}).get(option.name, option.default)
            if found is dataclasses.MISSING:
                found, meaning = None, f"required. {meaning}"
            default = json.dumps(found)
            owners.setdefault(option.name, {}).setdefault((meaning, default), []).append(name)
    return [_entry(f"{section}.{option}", meanings) for option, meanings in owners.items()]


def _entry(key: str, meanings: Mapping[tuple[str, str], list[str]]) -> dict[str, Any]:
    """One key for all components that have it; where their defaults differ, the meaning says each."""
    defaults = list(dict.fromkeys(default for _, default in meanings))
    told = [
        f"{', '.join(names)}{f' (default {default})' if len(defaults) > 1 else ''}: {meaning}".rstrip(": ")
        for (meaning, default), names in meanings.items()
    ]
    return {"key": key, "default": json.loads(defaults[0]) if len(defaults) == 1 else None, "meaning": "; ".join(told)}


def _meaning(hint: Any, words: str) -> str:
    """What it means, after the values that it may have where they are few."""
    choices = [
        str(choice) for part in (hint, *get_args(hint)) if get_origin(part) is Literal for choice in get_args(part)
    ]
    return ". ".join(text for text in (f"one of {', '.join(choices)}" if choices else "", words) if text)


def _field_docstrings(kind: type[Any]) -> dict[str, str]:
    """The docstring under each field of a class, its own or inherited."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        except (OSError, TypeError):  # no source at hand, or a class of the standard library
            continue
        assert isinstance(body, ast.ClassDef)
        for field, after in itertools.pairwise(body.body):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    found[name] = " ".join(words.split()).rstrip(".")
    return found
