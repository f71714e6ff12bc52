"""`tpo-dist train`: run a job, watch it, stop it, go on with it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tpo_dist.config import RunConfig
    from tpo_dist.programs.run import Run

_HELP = """Train a job: `tpo-dist train JOB.yaml key=value …`.

A run lives in runs/NAME-TIMESTAMP/ with config.json, metrics.jsonl, summary.json, checkpoints, TensorBoard events
and the learning curve. Ctrl-C ends it after the current step, with a checkpoint.

With --json, standard output is one object, the summary: run (folder), status (completed, interrupted, failed), reason,
step, steps, error and reward (means of the last 20 steps), seconds, steps_per_second, checkpoint, resumed_from_step.
Exit code: 0 completed, 1 failed, 2 mistake in what was given, 130 interrupted.
"""


def train(
    job: Annotated[str | None, typer.Argument(help="Job file; not with --resume.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as learner.optimizer.lr=3e-4")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join (HOST:PORT or auto).")] = None,
    local: Annotated[bool, typer.Option("--local", help="One process, without Ray.")] = False,
    resume: Annotated[str | None, typer.Option(help="Go on with this run (folder or its name).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and exit.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Print every key of a job and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")] = False,
) -> None:
    from tpo_dist.cli.execute import execute
    from tpo_dist.cli.keys import describe_keys

    if keys:
        print(json.dumps(describe_keys(), indent=2) if as_json else "\n".join(_key_lines(describe_keys())))
        return
    changes = list(overrides or [])
    if job is not None and (resume is not None or "=" in job):
        changes.insert(0, job)
        job = None
    if address is not None:
        changes.append(f"cluster.address={json.dumps(address)}")
    if dry_run:
        _print_config(_configuration(job, changes), as_json)
        return
    raise typer.Exit(execute(_prepare(job, changes, resume), local=local, as_json=as_json))


train.__doc__ = _HELP


def _configuration(job: str | None, changes: list[str]) -> "RunConfig":
    from tpo_dist.errors import UsageError
    from tpo_dist.programs.job import load_job

    if job is None:
        raise UsageError("JOB", "no job file was given", "name one, such as jobs/token_reversal.yaml")
    return load_job(Path(job), changes)


def _prepare(job: str | None, changes: list[str], resume: str | None) -> "Run":
    from tpo_dist.programs.run import create_run, resume_run

    if resume is not None:
        runs_dir = next((c.partition("=")[2] for c in changes if c.startswith("runs_dir=")), "runs")
        return resume_run(resume, changes, runs_dir)
    return create_run(_configuration(job, changes))


def _print_config(config: "RunConfig", as_json: bool) -> None:
    from ruamel.yaml import YAML

    settings = config.model_dump(mode="json")
    if as_json:
        print(json.dumps(settings, indent=2))
    else:
        printer = YAML()
        printer.default_flow_style = False
        printer.dump(settings, sys.stdout)


def _key_lines(keys: list[dict[str, Any]]) -> Iterator[str]:
    width = max(len(key["key"]) for key in keys)
    for key in keys:
        yield f"{key['key']:{width}}  {json.dumps(key['default']):>16}  {key['meaning']}"
