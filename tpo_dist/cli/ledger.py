"""`tpo-dist ledger`: what became of every draw of a run, also while it trains."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from tpo_dist.programs.folder import LEDGER, find_run

if TYPE_CHECKING:
    from tpo_dist.audit import Audit
    from tpo_dist.ledger import Row

_SHOWN = 10  # of a list that may be long
_NOT_CLEAN = 1


def ledger(
    run: Annotated[str, typer.Argument(help="Run (its folder, or the folder's name).")],
    draw: Annotated[int | None, typer.Option(min=0, help="Tell the whole story of this draw instead.")] = None,
    runs_dir: Annotated[str, typer.Option(help="Folder that holds the folders of runs.")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    """Every draw's state, what is missing or double, what is waited for and from whom; the run may go on meanwhile.

    JSON: an object with the keys clean, complete, block_size, steps, blocks and draws (numbers by state: queued, in
    flight, ready, taken, trained, failed), failures (draws by cause), dropped_by_length and dropped_by_reward (draws
    dropped for their age, by mean prompt length and mean score of their block), gaps, duplicates (draws), problems,
    waiting (block, state, worker, attempts, seconds), attempts (blocks by number of leases), sessions, rollbacks,
    stream_starts. With --draw: draw, block, state, cause (of a failure), events of its block (at, kind, step, version,
    worker, detail).
    Exit code: 0 clean (each draw is in exactly one state), 1 not clean, 2 there is no such run or ledger.
    """
    from tpo_dist.audit import audit, outcome, story
    from tpo_dist.ledger import reading

    path = find_run(run, runs_dir, "ledger") / LEDGER
    if draw is not None:
        with reading(path):
            block, rows = story(path, draw)
            state, cause = outcome(draw, rows)
            events = [_event(draw, row) for row in rows]
        if as_json:
            print(json.dumps({"draw": draw, "block": block, "state": state, "cause": cause, "events": events}))
        else:
            _tell(draw, block, events)
            print(f"draw {draw}: {state}" + (f", {cause}" if cause is not None else ""))
        return
    found = audit(path)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        _show(found)
    raise typer.Exit(0 if found.clean else _NOT_CLEAN)


def _show(found: "Audit") -> None:
    console = Console(highlight=False, markup=False)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("state", "draws", "blocks"):
        table.add_column(title, justify="left" if title == "state" else "right")
    for state, blocks in found.blocks.items():
        table.add_row(state, str(found.draws[state]), str(blocks))
    console.print(table)
    for name, text in _lines(found):
        console.print(f"{name:12}{text}", soft_wrap=True)


def _lines(found: "Audit") -> Iterator[tuple[str, str]]:
    yield "steps", f"{found.steps} trained"
    if found.failures:
        yield "failures", ", ".join(f"{cause}: {count}" for cause, count in sorted(found.failures.items()))
    if found.dropped_by_length:
        yield "dropped", f"by prompt length: {_bins(found.dropped_by_length)}"
        yield "", f"by mean reward: {_bins(found.dropped_by_reward)}"
    again = {times: blocks for times, blocks in sorted(found.attempts.items()) if times > 1}
    if again:
        yield "made again", ", ".join(f"{blocks} blocks given out {times} times" for times, blocks in again.items())
    yield "sessions", "; ".join(f"from step {each['first_step']}, {_time(each['at'])}" for each in found.sessions)
    if found.rollbacks:
        yield "went back", "; ".join(f"to step {each['step']}, {_time(each['at'])}" for each in found.rollbacks)
    for wait in found.waiting[:_SHOWN]:
        by = f", made by {wait.worker}; the learner takes it next"
        who = f", with {wait.worker}" if wait.state == "in flight" else by if wait.state in ("ready", "taken") else ""
        yield "under way", f"block {wait.block}: {wait.state} for {wait.seconds:.1f} s{who}"
    if len(found.waiting) > _SHOWN:
        yield "", f"and more blocks, {len(found.waiting) - _SHOWN} of them"
    for name, draws in (("gaps", found.gaps), ("twice", found.duplicates)):
        if draws:
            more = f" and {len(draws) - _SHOWN} more" if len(draws) > _SHOWN else ""
            yield name, f"draws {', '.join(map(str, draws[:_SHOWN]))}{more}"
    for problem in found.problems:
        yield "problem", problem
    yield "", "clean: each draw is in exactly one state" if found.clean else "NOT CLEAN"


def _bins(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of {name}" for name, count in sorted(counts.items(), key=lambda each: _start(each[0])))


def _start(name: str) -> float:
    """The first number of a bin."""
    found = re.match(r"-?[\d.]+(e[+-]\d+)?", name)
    assert found is not None
    return float(found[0])


def _tell(draw: int, block: int, events: list[dict[str, Any]]) -> None:
    print(f"draw {draw}, in block {block}, to which this happened:")
    for event in events:
        fields = {name: value for name, value in event.items() if name not in ("at", "kind")}
        told = {name: value for name, value in fields.items() if value is not None}
        said = "  ".join(
            f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in told.items()
        )
        print(f"{_time(event['at'])}  {event['kind']:14}  {said}".rstrip())


def _event(draw: int, row: "Row") -> dict[str, Any]:
    """Of the failures in a block, only that of the draw."""
    event, detail = row.event, row.event.detail
    if event.kind == "session":
        detail = None  # the whole configuration
    told = json.loads(detail) if detail and event.kind in ("leased", "ready", "failed", "rolled_back") else detail
    if isinstance(told, dict) and "failures" in told:
        own = [each[1:] for each in told.pop("failures") if each[0] == draw]
        told |= {"failure": own[0]} if own else {}
    fields = {"step": event.step, "version": event.version, "worker": event.worker, "detail": told}
    return {"at": row.at, "kind": event.kind, **fields}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")
