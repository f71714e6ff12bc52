"""Components by name: the options of a section are checked against the component that they are meant for."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from tpo_dist.errors import UsageError

T = TypeVar("T")


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """Advice that names the nearest valid name, or all of them where none is near."""
    names = list(valid)
    close = difflib.get_close_matches(wrong, names, n=3, cutoff=0.6)
    if close:
        swapped = [name for name in close if sorted(name) == sorted(wrong)]  # gpro is as near to gspo as to grpo
        return f"did you mean {(swapped or close)[0]!r}?"
    return "valid names are " + ", ".join(names) if names else "it takes no options"


def lookup(section: str, name: str, registry: Mapping[str, T]) -> T:
    """The entry of that name. Raises UsageError with the nearest valid name."""
    if name not in registry:
        raise UsageError(f"{section}.name = {name!r}", f"there is no such {section}", nearest(name, registry))
    return registry[name]


def build(
    section: str,
    kind: type[T],
    options: Mapping[str, Any],
    preset: Mapping[str, Any] | None = None,
    others: Mapping[str, type[Any]] | None = None,
) -> T:
    """A component from its options, where `preset` gives the defaults that differ from the class's own.

    `others`: the components of the section by name, to say whose option it is where it is not this one's.

    Raises UsageError for an unknown option, a wrong type, or a value that the component itself refuses.
    """
    hints = get_type_hints(kind)
    assert dataclasses.is_dataclass(kind), "components are dataclasses whose fields are their options"
    fields: dict[str, Any] = {field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(kind)}
    model = create_model(
        kind.__name__, __config__=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False), **fields
    )
    try:
        checked = model.model_validate({**(preset or {}), **options})
    except ValidationError as error:
        complaint = explain(error, section, {section: [*fields, "name"]}, options)
        strangers = [str(e["loc"][0]) for e in error.errors()[:1] if e["type"] == "extra_forbidden"]
        owners = [name for name, other in (others or {}).items() if set(strangers) & _option_names(other)]
        if owners:
            fix = f"{strangers[0]} is an option of {', '.join(owners)}; " + (
                f"those of this one are {', '.join(fields)}" if fields else "this one takes none"
            )
            raise UsageError(complaint.where, complaint.reason, fix) from None
        raise complaint from None
    try:
        return kind(**{name: getattr(checked, name) for name in fields})
    except UsageError as error:
        raise UsageError(f"{section}.{error.where}", error.reason, error.fix) from None


def _option_names(kind: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _default(field: "dataclasses.Field[Any]") -> Any:
    return ... if field.default is dataclasses.MISSING else field.default


def explain(
    error: ValidationError, section: str, valid: Mapping[str, Iterable[str]], given: Mapping[str, Any] | None = None
) -> UsageError:
    """The first complaint of a validation as one line: key, value, reason, fix.

    `valid` lists the valid names by section ("" is the top). `given`: the options of a section, to say where in one of
    them the complaint is.
    """
    first, *others = error.errors()
    path = _path(first["loc"], section, valid)
    alike = [e for e in others if _path(e["loc"], section, valid) == path]  # one complaint for each type it may have
    others = [e for e in others if e not in alike]
    inside = "" if given is None or len(path) < 2 else _inside(first["loc"][1:], given.get(path[-1]))
    key = ".".join(path) + inside
    message = " or ".join([first["msg"], *(e["msg"].partition("should be ")[2] for e in alike)])
    more = f" ({len(others)} more after it)" if others else ""
    parent = ".".join(path[:-1])
    if first["type"] == "missing":
        return UsageError(key, f"field required{more}", f"give {key}=VALUE")
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return UsageError(key, f"there is no such key{more}", _nearest_key(path[-1], parent, valid))
    return UsageError(f"{key} = {first['input']!r}", _lower(message) + more, _advice(first["type"]))


def _nearest_key(wrong: str, section: str, valid: Mapping[str, Iterable[str]]) -> str:
    """One of its section or, where that has none like it, the same one of another: `lr` is learner.optimizer.lr."""
    own = list(valid.get(section, []))
    if not difflib.get_close_matches(wrong, own):
        elsewhere = sorted(f"{other}.{wrong}".lstrip(".") for other, keys in valid.items() if wrong in keys)
        if elsewhere:
            return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    return nearest(wrong, own)


def _path(location: tuple[int | str, ...], section: str, valid: Mapping[str, Iterable[str]]) -> list[str]:
    """The sections and the key; what follows a key only says which of its types was tried."""
    path = [section] if section else []
    for part in map(str, location):
        parent = ".".join(path)
        path.append(part)
        if part in valid.get(parent, ()) and f"{parent}.{part}".lstrip(".") not in valid:
            break
    return path


def _inside(location: tuple[int | str, ...], value: Any) -> str:
    """The place in a nested value; what else the location says is which types were tried."""
    found = ""
    for part in location:
        if isinstance(value, Mapping) and part in value:
            found, value = f"{found}.{part}", value[part]
        elif isinstance(value, list) and isinstance(part, int):
            found, value = f"{found}[{part}]", value[part]
    return found


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _advice(kind: str) -> str:
    if kind == "finite_number":
        return "give a finite number"
    if kind.endswith(("_type", "_parsing")):
        return "give a value of that type, quoted only where it is text"
    if kind in ("literal_error", "enum"):
        return "give one of the values named"
    return "give a value inside that bound"
