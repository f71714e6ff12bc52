"""A part of a study: methods, labels, a share of the steps, and keys set for every run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tpo_dist.components import nearest
from tpo_dist.errors import UsageError
from tpo_dist.programs.job import parse_value
from tpo_dist.studies.definition import Setting, Study, labels, within_budget
from tpo_dist.studies.engines import check

_THE_STUDY_S = {
    "steps": "give --budget, the share of the study's steps",
    "seed": "give --seeds, how many",
    "objective.name": "choose among the study's methods with --only",
    "method": "choose among the study's methods with --only",
}


def narrowed(study: Study, only: str | None, where: str | None, overrides: Sequence[str], budget: float) -> Study:
    """The study with the settings that were asked for. Raises UsageError where none is left, or a key cannot be set."""
    settings = list(study.settings)
    for flag, text in (("--only", only), ("--where", where)):
        if text is not None and not text.strip(" ,"):
            raise UsageError(f"{flag} {text!r}", "it names nothing", "leave it out, to run everything")
    wanted = [] if only is None else [("method", [name.strip() for name in only.split(",") if name.strip()])]
    parts = [] if where is None else [part.strip() for part in where.split(",") if part.strip()]
    wanted += [(key, [value]) for key, value in (_pair(part, "--where") for part in parts)]
    for label, values in wanted:
        known = list(dict.fromkeys(str(s.labels[label]) for s in settings if label in s.labels))
        if not known:
            raise UsageError(
                f"--where {label}", f"study {study.name!r} has no such label", nearest(label, labels(study))
            )
        for value in values:
            if value not in known:
                asked = f"--only {value}" if label == "method" and only else f"--where {label}={value}"
                raise UsageError(asked, f"study {study.name!r} has no such setting", nearest(value, known))
        settings = [s for s in settings if str(s.labels.get(label)) in values]
    if not settings:
        raise UsageError(f"--where {where}", "no setting has all these labels", "see the labels in --list --json")
    given = {key: parse_value(key, text) for key, text in (_pair(override, "key=value") for override in overrides)}
    for key in given:
        _refuse_what_varies(study, settings, key)
    return replace(study, settings=tuple(_with_keys(within_budget(s, budget), given) for s in settings))


def _refuse_what_varies(study: Study, settings: Sequence[Setting], key: str) -> None:
    """A key that tells settings apart would leave them with labels that are not true."""
    if key in _THE_STUDY_S:
        raise UsageError(key, "the study says it", _THE_STUDY_S[key])
    label = key.rpartition(".")[2].replace("_", " ")
    if label in labels(study):
        raise UsageError(key, f"study {study.name!r} varies it", f"choose among its values with --where {label}=VALUE")
    if len({repr(setting.options.get(key)) for setting in settings}) > 1:
        raise UsageError(
            key, f"the settings of study {study.name!r} differ in it", "narrow them with --only or --where"
        )


def _with_keys(setting: Setting, given: Mapping[str, Any]) -> Setting:
    if not given:
        return setting
    options = {**setting.options, **given}
    check(setting.engine, options, setting.steps)
    return replace(setting, options=options)


def _pair(text: str, what: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(repr(text), f"is not of the form {what}", "write key=value, such as length=7")
    return key, value
