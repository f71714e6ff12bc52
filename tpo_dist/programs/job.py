"""From a job file and overrides to a run that is known to make sense, before anything starts.

A job file may build on others: `base: FILE`, or a list of them, relative to itself. Later files go over earlier ones,
and the file itself over all, key by key; a component of another name takes the place of the whole section, as it does
in an override.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tpo_dist.components import explain, nearest
from tpo_dist.config import ComponentConfig, RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.programs.resolve import resolve


def load_job(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A job file with dotted overrides (`learner.optimizer.lr=3e-4`), checked and resolved.

    Raises UsageError, naming key, value, reason and fix, for a file that cannot be read, an unknown key, a value of
    the wrong type or out of bounds, and settings that contradict each other.
    """
    return configure(read_job(path), overrides)


def read_job(path: Path) -> dict[str, Any]:
    """What a job file and those it builds on say, unchecked. Raises UsageError where one cannot be read."""
    return _with_bases(path, ())


def configure(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """The same from settings at hand."""
    return resolve(compose(settings, overrides))


def compose(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Settings with overrides, each key by itself checked: what belongs together, and to a model, is not looked at."""
    merged = _copy(settings)
    # A name clears the options of another component, and a whole section what is in it: neither may undo an option
    # that stands beside it on the command line, so they come first.
    for override in sorted(map(_split, overrides), key=lambda o: (len(o.path), o.path[-1] != "name")):
        _apply(merged, override)
    for section in _COMPONENTS:
        _refuse_bare_name(section, merged.get(section))
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise explain(error, "", key_names()) from None


def parse_value(key: str, text: str) -> Any:
    """A value as it would be written in a job file. Raises UsageError where it is not YAML, or nothing at all."""
    if not text.strip():
        raise UsageError(f"{key}=", "there is no value", f"write {key}=VALUE, or {key}=null for none")
    return _parse(f"{key}={text}", text)


def key_names() -> dict[str, list[str]]:
    """The valid keys of each section, by dotted section name ("" is the top)."""
    names: dict[str, list[str]] = {}

    def visit(model: type[BaseModel], prefix: str) -> None:
        names[prefix] = list(model.model_fields)
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                visit(field.annotation, f"{prefix}.{name}".lstrip("."))

    visit(RunConfig, "")
    return names


def _with_bases(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """`above`: the files that build on this one."""
    settings, here = _read(path), path.resolve()
    bases = settings.pop("base", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        where = f"{path}: base = {base!r}"
        if not isinstance(base, str):
            raise UsageError(where, "is not the name of a file", "give a path relative to this file, or a list of them")
        file = path.parent / base
        if file.resolve() in (here, *above):
            raise UsageError(where, "that file builds on this one", "leave one of the two out")
        if not file.is_file():
            raise UsageError(where, f"there is no file {file}", "give a path relative to this file")
        merged = _merged(merged, _with_bases(file, (here, *above)))
    return _merged(merged, settings)


def _merged(below: Mapping[str, Any], over: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Sections key by key; options of a component whole, and the section whole where it is another component."""
    merged = dict(below)
    for key, value in over.items():
        inner, old = f"{path}.{key}".lstrip("."), below.get(key)
        section = inner in _COMPONENTS or inner in key_names()
        if section and isinstance(value, Mapping) and isinstance(old, Mapping):
            same = inner not in _COMPONENTS or value.get("name", old.get("name")) == old.get("name")
            value = _merged(old, value, inner) if same else value
        merged[key] = value
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            str(path), "there is no such file", "give the path of a job file, such as one in jobs/"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(str(path), f"cannot be read as text ({error})", "give a YAML file") from None
    return _mapping(str(path), _parse(str(path), text))


def _parse(where: str, text: str) -> Any:
    try:
        value = YAML(typ="safe", pure=True).load(text)
        _walk(value)
    except RecursionError:
        raise UsageError(where, "refers to itself, or is nested too deeply", "write the values out") from None
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise UsageError(where, f"is not valid YAML: {reason}", "correct the line it names") from None
    return value


def _walk(value: Any) -> None:
    """Visit everything inside; an anchor inside itself ends in RecursionError."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _walk(inner)


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(where, f"holds a {type(value).__name__}, not keys with values", "write `key: value` lines")
    return value


def _copy(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in settings.items()}


@dataclass(frozen=True, slots=True)
class _Override:
    path: tuple[str, ...]
    value: Any


def _split(override: str) -> _Override:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(repr(override), "is not an override", "write key=value, such as learner.optimizer.lr=3e-4")
    return _Override(tuple(key.split(".")), parse_value(key, text))


def _apply(settings: dict[str, Any], override: _Override) -> None:
    *sections, last = override.path
    at, path, known = settings, "", key_names()
    for section in sections:
        if path in _COMPONENTS and section not in known[path]:
            reason = "an override reaches the options of a component, not what is inside them"
            fix = f"change it in the job file, or give the whole option: '{path}.{section}={{…}}'"
            raise UsageError(".".join(override.path), reason, fix)
        if path in known and section not in known[path]:
            raise UsageError(f"{path}.{section}".lstrip("."), "there is no such section", nearest(section, known[path]))
        path = f"{path}.{section}".lstrip(".")
        inner = at.get(section, {"name": _COMPONENTS[path]} if path in _COMPONENTS else None)
        _refuse_bare_name(path, inner)
        at[section] = _mapping(path, inner)
        at = at[section]
    if path in _COMPONENTS and last == "name" and override.value != at.get("name"):
        at.clear()  # the options of one component mean nothing to another
    at[last] = override.value


def _refuse_bare_name(section: str, value: Any) -> None:
    if section in _COMPONENTS and isinstance(value, str):
        reason = "is a section: the name of a component, and its options beside it"
        raise UsageError(f"{section} = {value!r}", reason, f"write {section}.name={value}, in a file {{name: {value}}}")


_COMPONENTS = {
    name: field.default.name
    for name, field in RunConfig.model_fields.items()
    if isinstance(field.default, ComponentConfig)
}
