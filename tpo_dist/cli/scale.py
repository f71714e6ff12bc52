"""`tpo-dist scale`: more rollout workers, or fewer, while a run trains."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tpo_dist.errors import UsageError

if TYPE_CHECKING:
    from tpo_dist.programs.control import RolloutStatus, Status, Wish
    from tpo_dist.programs.observe import Observed

_LOOK_SECONDS = 0.2
_HEARD_SECONDS = 3.0  # within which a run that is well takes note
_SETTLED = ("idle", "working")


def scale(
    run: Annotated[str, typer.Argument(help="Folder of a run that trains, or its name.")],
    rollouts: Annotated[str, typer.Option(help="Rollout workers, or auto: as many as keep the learner fed.")],
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for them; 0 only asks.")] = 60.0,
    runs_dir: Annotated[str, typer.Option(help="Folder that holds the folders of runs.")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    """Change the number of rollout workers of a run that trains: `tpo-dist scale RUN --rollouts 8`.

    Newcomers load the newest snapshot before they take a block; those that leave hand in their last one. Nothing is
    lost. It waits until the fleet is as asked, or says what it still waits for; what was asked stands either way, until
    the run ends.

    With --json, standard output is one object: run (folder), rollouts (what was asked), acknowledged (by the run),
    settled (the fleet is as asked), alive, waits_for (list), seconds, reason (null, or why it is not settled).
    Exit code: 0 settled (auto, or --wait 0: acknowledged, or asked), 1 not within the time, or the run ended, 2 mistake
    in what was given, 130 interrupted.
    """
    from tpo_dist.programs.folder import find_run

    number = _number(rollouts)
    outcome = Outcome(run=str(find_run(run, runs_dir, "RUN")), rollouts=number)
    code = _attempt(outcome, wait, _silence if as_json else _say)
    if as_json:
        print(json.dumps(asdict(outcome), ensure_ascii=False))
    if code:
        print(f"error: {outcome.reason}", file=sys.stderr)
    raise typer.Exit(code)


def _say(line: str) -> None:
    print(line, flush=True)


def _silence(_: str) -> None:
    pass


def _number(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        number = int(text)
    except ValueError:
        reason = "is neither a whole number nor auto"
        raise UsageError(f"--rollouts {text}", reason, "give a number from 1, or auto") from None
    if number < 1:
        reason = "a run without rollout workers would wait forever"
        raise UsageError(f"--rollouts {text}", reason, "give 1 or more; Ctrl-C or SIGTERM ends a run")
    return number


@dataclass(kw_only=True)
class Outcome:
    """What came of a wish; the object that --json prints."""

    run: str
    rollouts: int | Literal["auto"]
    acknowledged: bool = False
    settled: bool = False
    alive: int | None = None
    waits_for: list[str] = field(default_factory=list)
    seconds: float = 0.0
    reason: str | None = None


def _attempt(outcome: Outcome, wait: float, say: Callable[[str], None]) -> int:
    """Ask, and wait; the exit code. Raises UsageError where the run cannot be asked, or refuses."""
    began = time.monotonic()
    try:
        _ask(outcome, began + wait, wait, say)
    except KeyboardInterrupt:
        outcome.reason = "interrupted; what was asked stands"
        return 130
    finally:
        outcome.seconds = round(time.monotonic() - began, 3)
    return 0 if outcome.reason is None else 1


def _ask(outcome: Outcome, until: float, wait: float, say: Callable[[str], None]) -> None:
    from tpo_dist.programs.control import request_rollouts
    from tpo_dist.programs.observe import observe

    folder = Path(outcome.run)
    asked, status = _running(folder, until)
    wish = request_rollouts(folder, outcome.rollouts)
    say(f"asked {folder.name} for {_workers(outcome.rollouts)}; it has {status.rollouts.alive}")
    said, say_from = "", time.monotonic() + _HEARD_SECONDS
    while wait:
        _note(outcome, observe(folder), wish, asked)
        if outcome.settled:
            what = "follows the learner's idle share now" if outcome.rollouts == "auto" else "is as asked"
            say(f"{folder.name} {what}: {_workers(outcome.alive or 0)}")
        if outcome.settled or outcome.reason is not None:
            return
        if time.monotonic() >= until:
            outcome.reason = f"after {wait:g} s still waiting for {', '.join(outcome.waits_for)}; what was asked stands"
            return
        waiting = f"waiting for {', '.join(outcome.waits_for)}"
        if waiting != said and (outcome.acknowledged or time.monotonic() >= say_from):
            say(waiting)
            said = waiting
        time.sleep(_LOOK_SECONDS)


def _running(folder: Path, until: float) -> "tuple[str, Status]":
    """The process that trains the run, and its status, once there is one. Raises UsageError for a run that is over."""
    from tpo_dist.programs.observe import observe

    while True:
        look = observe(folder)
        if look.holder is None:
            raise UsageError(f"RUN {folder.name}", f"it does not run ({look.ending})", look.go_on)
        if look.status is not None:
            return look.holder, look.status
        if time.monotonic() >= until:
            reason = f"{look.holder} says nothing of workers: it is still starting, or trains alone (--local)"
            raise UsageError(f"RUN {folder.name}", reason, "ask again when tpo-dist status shows workers")
        time.sleep(_LOOK_SECONDS)


def _note(outcome: Outcome, look: "Observed", wish: "Wish", asked: str) -> None:
    """What one look tells of the wish. Raises UsageError where the run refuses it."""
    from tpo_dist.programs.control import read_wish
    from tpo_dist.programs.lock import SOMEONE

    newest = read_wish(look.folder)
    if look.holder is None:
        outcome.reason = f"the run ended meanwhile ({look.ending})"
    elif look.holder not in (asked, SOMEONE):
        outcome.reason = f"{asked} ended, and {look.holder} went on with the run; ask again"
    elif newest is not None and newest.id != wish.id:
        outcome.reason = f"{newest.asked_by} asked for {_workers(newest.rollouts)} since, which counts"
    elif look.status is not None:
        outcome.alive = look.status.rollouts.alive
        outcome.acknowledged = look.status.wish_id == wish.id
        if outcome.acknowledged and look.status.last_wish_error is not None:
            raise UsageError(f"--rollouts {wish.rollouts}", look.status.last_wish_error, "ask for another number")
        silent = f", silent for {look.age_seconds:.0f} s," if look.silent else ""
        missing = _missing(look.status.rollouts, wish.rollouts) if outcome.acknowledged else []
        outcome.waits_for = missing if outcome.acknowledged else [f"{look.holder}{silent} to take note of it"]
        outcome.settled = not outcome.waits_for


def _missing(fleet: "RolloutStatus", rollouts: int | Literal["auto"]) -> list[str]:
    """Who is not yet, or still, there."""
    if rollouts == "auto":
        return []
    late = [worker for worker in fleet.workers if worker.state not in _SETTLED]
    missing = [f"{w.name} ({w.state}{'' if w.block is None else f', block {w.block}'})" for w in late]
    staying = sum(worker.state != "retiring" for worker in fleet.workers)
    if staying < rollouts:
        missing.append(f"room for {rollouts - staying} more")
    if staying > rollouts:
        missing.append(f"{staying - rollouts} to retire")
    return missing


def _workers(number: int | Literal["auto"]) -> str:
    if number == "auto":
        return "as many rollout workers as keep the learner fed"
    return f"{number} rollout worker{'' if number == 1 else 's'}"
