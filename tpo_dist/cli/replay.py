"""`tpo-dist replay`: a run again, exactly as it was trained, in one process."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.programs.folder import find_run, short_path

if TYPE_CHECKING:
    from tpo_dist.programs.replay import Replay

_LINE_EVERY_SECONDS = 5.0
_NAMED = 10  # draws of a list that may be long
_DIVERGED, _INTERRUPTED = 1, 130


def replay(
    run: Annotated[str, typer.Argument(help="Run (its folder, or the folder's name); it may still go on.")],
    until: Annotated[int | None, typer.Option(min=1, help="Repeat so many steps; else all that were trained.")] = None,
    runs_dir: Annotated[str, typer.Option(help="Folder that holds the folders of runs.")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    """Repeat what a run trained, in one process without Ray, and compare the weights bit for bit.

    Each step trains the blocks that its ledger names, each sampled from the version that sampled it then. Every version
    that was published has to have the recorded digest, and the newest checkpoint the same parameters and optimizer. On
    CPUs that holds for the same program on the same kind of machine. --until may name one step more than were
    trained, where the run failed in it. The metrics of each step are in replay/metrics.jsonl in the run's folder.

    JSON: an object with the keys run (folder), identical, step (steps repeated), steps (to repeat), trained (by the
    run), compared (newest version with the recorded digest, or null), checkpoint (the one that was compared, or null),
    divergence (null, or step, version, reason), reason (why it ended early, or null), recovered (draws that failed
    then and not now), seconds, steps_per_second.
    Exit code: 0 the same, 1 it diverged or failed, 2 there is no such run or it cannot be repeated, 130 interrupted.
    """
    from tpo_dist.programs.replay import Replay

    folder = find_run(run, runs_dir, "replay")
    again = Replay(folder, until)
    code, found = _repeat(again, folder, quiet=as_json)
    if as_json:
        print(json.dumps(found))
    else:
        _conclude(again, folder, found)
    if found["reason"] is not None:
        print(f"error: {found['reason']}", file=sys.stderr)
    raise typer.Exit(code)


def _repeat(again: "Replay", folder: Path, *, quiet: bool) -> tuple[int, dict[str, Any]]:
    """The exit code, and what came of it."""
    from tpo_dist.metrics import as_row
    from tpo_dist.programs.replay import Diverged

    code, step, reason, divergence = 0, 0, None, None
    started = due = time.monotonic()
    with _metrics(folder / "replay") as file:
        try:
            for report in again.train():
                step = report.step
                file.write(json.dumps(as_row(report.step, report.metrics, report.seconds)) + "\n")
                file.flush()
                if not quiet and time.monotonic() >= due:
                    due = time.monotonic() + _LINE_EVERY_SECONDS
                    _say(again, step, time.monotonic() - started)
        except Diverged as error:
            code, reason = _DIVERGED, str(error)
            divergence = {"step": error.step, "version": error.version, "reason": reason}
        except (RunFailed, FloatingPointError) as error:
            code, reason = _DIVERGED, f"step {step} failed: {error}"
        except KeyboardInterrupt:
            code, reason = _INTERRUPTED, "interrupted"
    seconds = time.monotonic() - started
    compared = again.checkpoint if code == 0 else None
    return code, {
        "run": str(folder),
        "identical": code == 0,
        "step": step,
        "steps": again.steps,
        "trained": again.trained,
        "compared": again.compared,
        "checkpoint": None if compared is None else str(compared),
        "divergence": divergence,
        "reason": reason,
        "recovered": again.recovered,
        "seconds": round(seconds, 3),
        "steps_per_second": round(step / seconds, 3) if seconds else None,
    }


@contextmanager
def _metrics(folder: Path) -> Iterator[TextIO]:
    """The file of the replay's metrics, begun anew."""
    try:
        folder.mkdir(exist_ok=True)
        file = (folder / "metrics.jsonl").open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(str(folder), f"cannot be written ({error.strerror})", "make it writable") from None
    with file:
        yield file


def _say(again: "Replay", step: int, seconds: float) -> None:
    same = "nothing compared yet" if again.compared is None else f"the same up to version {again.compared}"
    left = (again.steps - step) * seconds / step
    print(f"step {step:>5}/{again.steps}  {same}  {step / seconds:.2f} steps/s  about {left:.0f} s left", flush=True)


def _conclude(again: "Replay", folder: Path, found: dict[str, Any]) -> None:
    print(f"\n{found['step']} of {again.steps} steps repeated, {found['steps_per_second']} steps per second")
    if found["identical"]:
        print(f"  weights     the same, bit for bit, up to version {again.compared}, the newest published")
        if again.checkpoint is None:
            print("  checkpoint  none of these steps has one, so the digests alone were compared")
        else:
            print(f"  checkpoint  {short_path(again.checkpoint)}: the same, optimizer included")
    if again.recovered:
        more = f" and {len(again.recovered) - _NAMED} more" if len(again.recovered) > _NAMED else ""
        named = ", ".join(map(str, again.recovered[:_NAMED]))
        print(f"  left out    draws {named}{more}: scored here, while they failed in the run")
    print(f"  metrics     {short_path(folder / 'replay' / 'metrics.jsonl')}")
    if again.begun and again.steps == again.trained:
        print(f"step {again.trained} was begun and is not trained; --until {again.trained + 1} repeats it too")
