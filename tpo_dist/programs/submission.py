"""A job on its way to a cluster: which files it takes along, and the command that runs it there."""

import math
import re
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from tpo_dist import __version__
from tpo_dist.config import RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.programs.job import compose, parse_value, read_job
from tpo_dist.programs.resolve import resolve

RUNS = "TPO_DIST_RUNS"
"""Environment variable of a cluster's nodes: the folder that they share for runs."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # it names files and stands in addresses
_LOCAL_KEYS = (("policy", "path"), ("task", "path"), ("task", "rewards"), ("task", "scorer"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What a job needs to run elsewhere."""

    id: str
    config: RunConfig
    """As it will be there, as far as that can be told here."""
    command: str
    runtime_env: Mapping[str, Any]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Luggage:
    """What the user wants to take along beside the job file."""

    working_dir: Path | None = None
    wheel: Path | None = None
    packages: Sequence[str] = ()


def pack(job: Path, overrides: Sequence[str], luggage: Luggage, folder: Path, name: str | None = None) -> Parcel:
    """Write what the job takes along to `folder`, which is to stay until it is submitted.

    Without a working folder of the user's that is the job file alone, with those it builds on worked in. `name`: of the
    job at its server. Raises UsageError for a job that makes no sense, or that names files which would stay behind.
    """
    if name is not None and not _ID.fullmatch(name):
        raise UsageError(f"--id {name}", "has other characters than letters, digits and ._-", "give another, or none")
    settings = read_job(job)
    if luggage.working_dir is None:
        _refuse_left_behind(settings, overrides)
    config = _as_far_as_here(compose(settings, (*overrides, "cluster.address=auto")))
    given = _runs_dir(settings, overrides)
    if given is not None and not PurePosixPath(given).is_absolute():
        reason = "is relative, and the folder in which a job runs on a cluster goes when it ends"
        raise UsageError(f"runs_dir = {given!r}", reason, f"give a folder of the cluster, or set {RUNS} on its nodes")
    if luggage.working_dir is None:
        file = f"{config.name}.yaml"
        with (folder / file).open("w", encoding="utf-8") as stream:
            YAML().dump(settings, stream)
        where = folder
    else:
        file, where = _inside(job, luggage.working_dir), luggage.working_dir
    return Parcel(
        id=name or f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        config=config,
        command=_command(file, overrides, given is None),
        runtime_env=_runtime_env(where, luggage, folder, config),
        metadata={"tpo_dist": __version__, "job": config.name, "overrides": " ".join(map(shlex.quote, overrides))},
    )


def _as_far_as_here(config: RunConfig) -> RunConfig:
    """Resolved, unless that takes a model or data which only the cluster has: it is checked there then."""
    try:
        return resolve(config)
    except UsageError as error:
        if not error.where.startswith(("policy.path", "task.path")):
            raise
    return config


def _command(file: str, overrides: Sequence[str], runs_from_cluster: bool) -> str:
    """For the shell that the job server starts: no process of the shell's own stays between it and the run."""
    words = ["tpo-dist", "train", file, *overrides, "--address", "auto"]
    line = " ".join(map(shlex.quote, words))
    if not runs_from_cluster:
        return f"exec {line}"
    missing = "not set on the head. Fix: set it to a folder that all nodes share, or give runs_dir=FOLDER"
    return f'exec {line} "runs_dir=${{{RUNS}:?{missing}}}"'


def _runtime_env(where: Path, luggage: Luggage, folder: Path, config: RunConfig) -> dict[str, Any]:
    # A run that is told to stop ends its step and saves; Ray would otherwise kill it after three seconds.
    patience = math.ceil(config.deadlines.update_seconds + config.deadlines.start_seconds)
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(patience), "PYTHONUNBUFFERED": "1"}
    runtime_env: dict[str, Any] = {"working_dir": str(where), "env_vars": environment}
    packages = list(luggage.packages)
    if luggage.wheel is not None:
        if luggage.wheel.suffix != ".whl" or not luggage.wheel.is_file():
            raise UsageError(f"--wheel {luggage.wheel}", "is no wheel", "make one with `pip wheel --no-deps -w dist .`")
        if luggage.working_dir is not None:
            reason = "a wheel travels in the folder that is made for the job"
            raise UsageError(f"--wheel {luggage.wheel}", reason, "drop --working-dir, or put it there and use --pip")
        shutil.copy2(luggage.wheel, folder / luggage.wheel.name)
        packages.insert(0, f"${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{luggage.wheel.name}")
    if packages:
        runtime_env["pip"] = packages
    return runtime_env


def _runs_dir(settings: Mapping[str, Any], overrides: Sequence[str]) -> str | None:
    """As the user gave it, if at all."""
    given = [each.partition("=")[2] for each in overrides if each.startswith("runs_dir=")]
    return given[-1] if given else settings.get("runs_dir")


def _inside(job: Path, folder: Path) -> str:
    try:
        return job.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        reason = f"is not in the working folder {folder}, which is all that the job takes along"
        raise UsageError(str(job), reason, "copy it there, or leave --working-dir out") from None


def _refuse_left_behind(settings: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raise UsageError where the job names a file here by a relative path, which would mean another one there."""
    for section, key in _LOCAL_KEYS:
        inner = settings.get(section)
        value = inner.get(key) if isinstance(inner, Mapping) else None
        for each in overrides:
            if each.startswith(f"{section}.{key}="):
                value = parse_value(f"{section}.{key}", each.partition("=")[2])
        for name in value if isinstance(value, list | Mapping) else [value]:
            if isinstance(name, str) and not Path(name).is_absolute() and Path(name.partition(":")[0]).exists():
                fix = "take it along with --working-dir ., or give the absolute path that it has on every node"
                raise UsageError(
                    f"{section}.{key} = {name!r}", "is a file here, which the job does not take along", fix
                )
