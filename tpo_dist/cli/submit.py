"""`tpo-dist submit`: a job on a cluster, handed over, followed, looked at and stopped."""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from tpo_dist.errors import RunFailed, UsageError

if TYPE_CHECKING:
    from tpo_dist.programs.submission import Parcel
    from tpo_dist.runtime.job_server import JobOrder, JobServer, JobState

_HERE = "http://127.0.0.1:8265"
_ANSWER_SECONDS = 60.0
_EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}

_HELP = """Run a job on a cluster: `tpo-dist submit JOB.yaml key=value … --address http://HEAD:8265 --follow`.

The job's file travels, with those it builds on worked in; --working-dir takes a whole folder along, --wheel a wheel of
this package, --pip further packages. On the head, it becomes `tpo-dist train JOB.yaml key=value … --address auto`, in
the folder for runs that the cluster names (TPO_DIST_RUNS) unless runs_dir=FOLDER is given.

--follow shows what the job writes until it ends; Ctrl-C ends that, not the job. --stop ends a job as Ctrl-C ends a run:
after its step, with a checkpoint. A cluster with a token asks for it: RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH.

--dry-run asks the cluster and starts nothing: where learner, rollout workers and evaluator would go, what is missing.

With --json, standard output is one object: id, status (PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED), message,
exit_code, started, ended (seconds since 1970), command, metadata; with --list and --stop all a list of them; with
--dry-run: placed (who, node, kind, needs, missing), missing. What a followed job writes goes to standard error then.
Exit code: that of the job where it is followed (0 completed, 1 failed, 2 mistake, 130 stopped); of --stop, 0 ended, 1
not within --wait; of --dry-run, 0 there is room, 1 there is not.
"""


def submit(
    job: Annotated[str | None, typer.Argument(help="Job file.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as for train.")] = None,
    address: Annotated[str, typer.Option(help="Job server.", envvar="RAY_API_SERVER_ADDRESS")] = _HERE,
    follow: Annotated[bool, typer.Option("--follow", help="Show what it writes until it ends.")] = False,
    working_dir: Annotated[str | None, typer.Option(help="Folder to take along; the job file is in it.")] = None,
    wheel: Annotated[str | None, typer.Option(help="Wheel of this package, for nodes that lack it.")] = None,
    pip: Annotated[list[str] | None, typer.Option(help="Package that the job needs; may be given again.")] = None,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs reserved for the driver.")] = 0.0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs reserved for the driver.")] = 0.0,
    resources: Annotated[str, typer.Option(help="Further ones, such as '{learner: 0.001}'.")] = "{}",
    metadata: Annotated[list[str] | None, typer.Option(help="key=value; may be given again.")] = None,
    name: Annotated[str | None, typer.Option("--id", help="Its ID; made of name and time if not given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go where, and start nothing.")] = False,
    status: Annotated[str | None, typer.Option(help="Look at this job; with --follow, go on.")] = None,
    stop: Annotated[str | None, typer.Option(help="End the job of this ID, or all.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Every job of the cluster.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds that --stop waits for the end.")] = 900.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    _refuse_contradictions(job, status, stop, listed)
    out = _Out(as_json)
    if job is None:
        raise typer.Exit(_known(_server(address), status, stop, follow, wait, out))
    luggage = _Luggage(working_dir, wheel, tuple(pip or ()))
    needs = _Needs(cpus, gpus, _amounts(resources), _pairs(metadata or []))
    with _packed(job, overrides or [], luggage, name) as parcel:
        server = _server(address)
        if dry_run:
            raise typer.Exit(_plan(server, parcel, out))
        server.submit(_order(parcel, needs))
    out.say(f"submitted {parcel.id} to {server.address}")
    if follow:
        raise typer.Exit(_follow(server, parcel.id, out))
    out.say(f"see tpo-dist submit --status {parcel.id} --follow, and --stop {parcel.id}")
    out.state(server.look(parcel.id))


submit.__doc__ = _HELP


class _Out:
    """Words for people, or one JSON value."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, line: str) -> None:
        if not self.as_json:
            print(line, flush=True)

    def log(self, text: str) -> None:
        print(text, end="", file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def state(self, state: "JobState", *, shown: bool = False) -> None:
        """`shown`: whether people are to see it, too."""
        if self.as_json:
            print(json.dumps(asdict(state), ensure_ascii=False))
        elif shown:
            print(_line(state))

    def value(self, value: Any) -> None:
        if self.as_json:
            print(json.dumps(value, ensure_ascii=False))


def _refuse_contradictions(job: str | None, status: str | None, stop: str | None, listed: bool) -> None:
    given = {"JOB": job, "--status": status, "--stop": stop, "--list": listed or None}
    named = [name for name, value in given.items() if value is not None]
    if not named:
        raise UsageError("JOB", "no job file was given", "name one, such as jobs/token_reversal.yaml; or see --list")
    if len(named) > 1:
        raise UsageError(f"{named[0]} and {named[1]}", "are two errands", "give one of them")


def _server(address: str) -> "JobServer":
    from tpo_dist.runtime.job_server import JobServer

    return JobServer(address, _ANSWER_SECONDS)


def _folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise UsageError(f"--working-dir {name}", "there is no such folder", "give the folder that holds the job file")
    return Path(name)


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = dict(text.split("=", 1) for text in texts if "=" in text)
    if len(pairs) < len(texts):
        wrong = next((text for text in texts if "=" not in text), texts[-1])
        raise UsageError(f"--metadata {wrong}", "is no key with its value, or is given twice", "write key=value")
    return pairs


def _amounts(text: str) -> dict[str, float]:
    from tpo_dist.programs.job import parse_value

    value = parse_value("--resources", text)
    if not isinstance(value, dict) or not all(isinstance(each, int | float) and each > 0 for each in value.values()):
        raise UsageError(f"--resources {text}", "is no mapping of names to amounts above 0", "write '{learner: 0.001}'")
    return {str(each): float(amount) for each, amount in value.items()}


class _Luggage(NamedTuple):
    """What the user wants to take along."""

    working_dir: str | None
    wheel: str | None
    packages: tuple[str, ...]


class _Needs(NamedTuple):
    """What the driver is to have, and what is to be known of it."""

    cpus: float
    gpus: float
    resources: dict[str, float]
    metadata: dict[str, str]


@contextmanager
def _packed(job: str, overrides: list[str], luggage: _Luggage, name: str | None) -> "Iterator[Parcel]":
    """The job with its files, which are there until it is handed over."""
    from tpo_dist.programs.submission import Luggage, pack

    folder, wheel = luggage.working_dir, luggage.wheel
    chosen = Luggage(
        working_dir=None if folder is None else _folder(folder),
        wheel=None if wheel is None else Path(wheel),
        packages=luggage.packages,
    )
    with tempfile.TemporaryDirectory(prefix="tpo-dist-") as made:
        yield pack(Path(job), overrides, chosen, Path(made), name)


def _order(parcel: "Parcel", needs: _Needs) -> "JobOrder":
    from tpo_dist.runtime.job_server import JobOrder

    return JobOrder(
        id=parcel.id,
        command=parcel.command,
        runtime_env=parcel.runtime_env,
        metadata={**parcel.metadata, **needs.metadata},
        cpus=needs.cpus,
        gpus=needs.gpus,
        resources=needs.resources,
    )


def _known(server: "JobServer", status: str | None, stop: str | None, follow: bool, wait: float, out: _Out) -> int:
    """Errands to jobs that the cluster has already; the exit code."""
    if stop is not None:
        return _stop(server, stop, wait, out)
    if status is not None:
        if follow:
            return _follow(server, status, out)
        out.state(server.look(status), shown=True)
        return 0
    jobs = server.jobs()
    out.value([asdict(job) for job in jobs])
    out.say("\n".join(map(_line, jobs)) or f"{server.address} has had no job")
    return 0


def _follow(server: "JobServer", job: str, out: _Out) -> int:
    try:
        state = server.follow(job, out.log)
    except KeyboardInterrupt:
        print(f"not followed any more; the job goes on. End it with: tpo-dist submit --stop {job}", file=sys.stderr)
        return 130
    except RunFailed as error:
        print(f"error: {error}; the job may go on. Look again with: tpo-dist submit --status {job}", file=sys.stderr)
        return 1
    out.state(state, shown=True)
    return _exit_code(state)


def _exit_code(state: "JobState") -> int:
    """What its program said, where it came to say something."""
    if state.status == "FAILED" and state.exit_code:
        return state.exit_code if state.exit_code > 0 else 128 - state.exit_code
    return _EXIT_CODES[state.status]


def _stop(server: "JobServer", which: str, wait: float, out: _Out) -> int:
    jobs = [job.id for job in server.jobs() if not job.over] if which == "all" else [which]
    for job in jobs:
        if not server.look(job).over:
            server.stop(job)
            out.say(f"asked {job} to end; a run finishes its step and saves")
    states = [server.wait(job, wait) for job in jobs]
    out.value([asdict(state) for state in states] if which == "all" else asdict(states[0]))
    for state in states:
        out.say(_line(state))
    late = [state.id for state in states if not state.over]
    if late:
        print(f"error: {', '.join(late)}: not ended after {wait:g} s; what was asked stands", file=sys.stderr)
    return 1 if late else 0


def _line(state: "JobState") -> str:
    code = f", exit code {state.exit_code}" if state.exit_code else ""
    said = state.metadata
    ours = {"tpo_dist", "job", "overrides"} <= said.keys()
    what = f"{said['job']} {said['overrides']}".rstrip() if ours else state.command
    return f"{state.id}  {state.status.lower()}{code}  {what}"


def _plan(server: "JobServer", parcel: "Parcel", out: _Out) -> int:
    """Where everything would go; the exit code."""
    from tpo_dist.programs.needs import plan_of
    from tpo_dist.runtime.plan import missing_of

    placed = plan_of(parcel.config, server.nodes())
    missing = missing_of(placed)
    rows = [
        {
            "who": each.seat.who,
            "node": each.node and each.node.address,
            "kind": each.node and each.node.kind,
            "needs": each.seat.need.bundle,
            "missing": dict(each.missing),
        }
        for each in placed
    ]
    out.value({"placed": rows, "missing": missing})
    for each in placed:
        where = f"{each.node.kind} {each.node.address}" if each.node else f"no room: {_words(each.missing)} more"
        out.say(f"{each.seat.who:12} {_words(each.seat.need.bundle):30} {where}")
    out.say(f"missing: {_words(missing)}" if missing else "there is room for all of it now")
    return 1 if missing else 0


def _words(amounts: Any) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items()) or "nothing"
