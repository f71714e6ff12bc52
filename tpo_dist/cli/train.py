"""`tpo-dist train`: run a job, watch it, stop it, go on with it."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tpo_dist.config import RunConfig
    from tpo_dist.programs.run import Run

_HELP = """Train a job: `tpo-dist train JOB.yaml key=value …`.

A run lives in runs/NAME-TIMESTAMP/ with config.json, metrics.jsonl, summary.json, checkpoints, TensorBoard events
and the learning curve. Ctrl-C ends it after the current step, with a checkpoint.

--resume goes on from the newest checkpoint; a start that fails changes nothing. Overrides may change how it goes on
(steps, learning rate, workers, options of the objective …), and a line `changed: KEY OLD -> NEW` tells each; what would
make it another run (task, policy, objective.name, rollout.candidates, rollout.block_size, learner.optimizer.name, seed)
is refused. A run that another process trains is refused too: its folder holds run.lock.

--dry-run prints the resolved configuration, and on standard error what it takes of this machine.

With --json, standard output is one JSON value. Training gives an object, the summary: run (folder), status (completed,
interrupted, failed), reason, step, steps, error and reward (means of the last 20 steps), groups_failed, seconds,
steps_per_second, checkpoint, resumed_from_step, sink_failures (by sink, what did not arrive).
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    from tpo_dist.cli.execute import execute
    from tpo_dist.cli.keys import describe_keys

    if keys:
        print(json.dumps(describe_keys(), indent=2) if as_json else "\n".join(_key_lines(describe_keys())))
        return
    changes = list(overrides or [])
    if job is not None and "=" in job:
        changes.insert(0, job)
        job = None
    if address is not None:
        changes.append(f"cluster.address={json.dumps(address)}")
    _refuse_contradictions(job, address, local, resume)
    if dry_run:
        _dry_run(job, changes, resume, local, as_json)
        return
    with _prepared(job, changes, resume, local) as run:
        code = execute(run, local=local, as_json=as_json)
    raise typer.Exit(code)


train.__doc__ = _HELP


def _refuse_contradictions(job: str | None, address: str | None, local: bool, resume: str | None) -> None:
    from tpo_dist.errors import UsageError

    if job is not None and resume is not None:
        reason = f"a job file cannot go with --resume {resume}: that run has its own config.json"
        raise UsageError(job, reason, "leave the file out, and give what should change as key=value")
    if local and address is not None:
        raise UsageError(f"--address {address}", "--local trains in this process, without Ray", "drop one of the two")


def _configuration(job: str | None, changes: list[str], local: bool) -> "RunConfig":
    from tpo_dist.errors import UsageError
    from tpo_dist.programs.job import load_job
    from tpo_dist.programs.ready import refuse_local, refuse_unready

    if job is None:
        raise UsageError("JOB", "no job file was given", "name one, such as jobs/token_reversal.yaml")
    config = load_job(Path(job), changes)
    if local:
        refuse_local(config)
    refuse_unready(config, here=config.cluster.address is None)
    return config


@contextmanager
def _prepared(job: str | None, changes: list[str], resume: str | None, local: bool) -> "Iterator[Run]":
    """The run, with its folder locked: a resumed one before its state is read."""
    from tpo_dist.programs.folder import find_run
    from tpo_dist.programs.lock import hold
    from tpo_dist.programs.run import create_run

    if resume is None:
        run = create_run(_configuration(job, changes, local))
        with hold(run.folder):
            yield run
        return
    with hold(find_run(resume, _runs_dir(changes), "--resume")):
        yield _resumed(resume, changes, local)


def _resumed(name: str, changes: list[str], local: bool) -> "Run":
    from tpo_dist.programs.ready import refuse_local, refuse_unready
    from tpo_dist.programs.run import resume_run

    run = resume_run(name, changes, _runs_dir(changes))
    if local:
        refuse_local(run.config)
    refuse_unready(run.config, here=run.config.cluster.address is None)
    for change in run.changes:
        print(f"changed: {change}", file=sys.stderr)
    return run


def _runs_dir(changes: list[str]) -> str:
    return next((change.partition("=")[2] for change in changes if change.startswith("runs_dir=")), "runs")


def _dry_run(job: str | None, changes: list[str], resume: str | None, local: bool, as_json: bool) -> None:
    from tpo_dist.programs.needs import describe_needs

    config = _configuration(job, changes, local) if resume is None else _resumed(resume, changes, local).config
    _print_config(config, as_json)
    if not local:
        print(describe_needs(config), file=sys.stderr)


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
