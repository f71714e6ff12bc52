"""One run from the command line: signals, records, the view, and the exit code."""

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tpo_dist.cli.logs import warnings_to
from tpo_dist.cli.view import View
from tpo_dist.errors import RunFailed, Stopped, UsageError
from tpo_dist.programs.folder import short_path
from tpo_dist.programs.recorder import Recorder, Status
from tpo_dist.programs.run import Run, StepReport
from tpo_dist.waiting import DeadlineExceeded

EXIT_CODES: dict[Status, int] = {"completed": 0, "failed": 1, "interrupted": 130}


def execute(run: Run, *, local: bool, as_json: bool) -> int:
    """Train, show, record; the exit code. Raises UsageError for what only shows when the cluster is asked."""
    recorder = Recorder(run)
    view = View(run, quiet=as_json, local=local)
    try:
        logs = warnings_to(run.folder, view.say, lambda: recorder.recorded, view.tell)
        with logs, _stopping_on_signals(run, view.say), view:
            status, reason = _attempt(run, local, recorder, view)
    except UsageError as error:
        recorder.close()
        if recorder.rows and recorder.rows[-1]["step"] > run.first_step:
            recorder.write_summary("failed", str(error))
        elif not run.resumed:
            shutil.rmtree(run.folder)  # nothing ran: leave nothing behind
        raise
    except BaseException as error:
        recorder.finish("failed", f"{type(error).__name__}: {error}")
        raise
    with warnings_to(run.folder, _say, lambda: recorder.recorded):  # of sinks that come to their end
        summary = recorder.finish(status, reason)
    if as_json:
        print(json.dumps(summary))
    else:
        view.conclude(summary)
    if status != "completed":
        _say_how_to_go_on(status, reason, summary, short_path(run.folder))
    return EXIT_CODES[status]


def _attempt(run: Run, local: bool, recorder: Recorder, view: View) -> tuple[Status, str | None]:
    """Train as far as it goes: the status, and the reason where it failed."""
    try:
        for report in _program(local)(run):
            if report.checkpoint_problem is not None:
                view.warn(report.checkpoint_problem)
            view.show(recorder.record(report))
    except KeyboardInterrupt:
        return "interrupted", "interrupted twice"
    except Stopped:
        return "interrupted", "stopped before the first step"
    except (RunFailed, DeadlineExceeded, FloatingPointError) as error:
        return "failed", str(error)
    return ("completed" if recorder.step >= run.config.steps else "interrupted"), None


def _program(local: bool) -> Callable[[Run], Iterator[StepReport]]:
    if local:
        from tpo_dist.programs import local as program

        return program.train
    from tpo_dist.programs import distributed

    return distributed.train


@contextmanager
def _stopping_on_signals(run: Run, say: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks for an orderly end, the second insists."""

    def ask(number: int, _frame: object) -> None:
        run.stop.set()
        signal.signal(number, signal.default_int_handler)
        say("stopping after this step, with a checkpoint; Ctrl-C again ends it at once")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _say_how_to_go_on(status: Status, reason: str | None, summary: dict[str, Any], folder: str) -> None:
    if status == "failed":
        print(f"error: {reason}", file=sys.stderr)
    if summary["checkpoint"] is None:
        print(f"there is no checkpoint yet; begin it again with: tpo-dist train --resume {folder}", file=sys.stderr)
    else:
        print(f"go on with: tpo-dist train --resume {folder}", file=sys.stderr)
