"""The driver's view of a run: what the learner reports, whether the workers live, and when to give up."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.runtime.actors import Step

_LOOK_SECONDS = 0.5  # how soon a stop request is seen
_SAVE_SECONDS = 60.0  # for the learner's last checkpoint after another process failed
_DEATH_SECONDS = 2.0  # for Ray to notice a death of which the learner has seen the consequence


def follow(
    reports: Any, loops: Mapping[Any, str], stop: Callable[[], bool], close: Callable[[], Any], seconds: float
) -> Iterator[Step]:
    """Yield the learner's reports as they come.

    Consumes the learner's stream of reports and the workers' endings; waits for the learner, at most `seconds` from
    one report to the next. `stop` asks for an early end, which `close` brings about. Raises RunFailed where a process
    ends that should not; a learner that still lives writes its checkpoint first.
    """
    working, closed = dict(loops), False
    heard = time.monotonic()
    while True:
        ready, _ = ray.wait([reports, *working], num_returns=1, timeout=_LOOK_SECONDS, fetch_local=False)
        if stop() and not closed:
            close()
            closed = True
        if reports in ready:
            try:
                report = ray.get(next(reports))
            except StopIteration:
                return
            except RayError as error:
                raise _learner_failed(error, working) from error
            heard = time.monotonic()
            yield report
            continue
        for loop in ready:
            name = working.pop(loop)
            try:
                ray.get(loop)
            except RayError as error:
                close()
                yield from _last_reports(reports)
                raise _failed(name, error) from error
        if time.monotonic() - heard > seconds:
            raise RunFailed(f"waited {seconds:g} s for the next step, which the learner owes")


def _last_reports(reports: Any) -> Iterator[Step]:
    """What the learner still reports once its stream is closed, up to its last checkpoint."""
    end = time.monotonic() + _SAVE_SECONDS
    while ray.wait([reports], timeout=max(0.0, end - time.monotonic()), fetch_local=False)[0]:
        try:
            report: Step = ray.get(next(reports))
        except (StopIteration, RayError):
            return
        yield report


def _learner_failed(error: RayError, working: Mapping[Any, str]) -> RunFailed:
    """The learner's failure, or that of a worker whose death it met first: a block may be lost with its maker."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, RayError) and working:
        for loop in ray.wait(list(working), num_returns=len(working), timeout=_DEATH_SECONDS)[0]:
            try:
                ray.get(loop)
            except RayTaskError:
                continue  # it had troubles of its own, but lives
            except RayError as death:
                return _failed(working[loop], death)
    return _failed("the learner", error)


def _failed(name: str, error: RayError) -> RunFailed:
    if isinstance(error, RayTaskError) and isinstance(error.cause, RayActorError):
        name = "the stream"  # of the run's actors, the only one that others call
    return RunFailed(f"{name} failed: {reason(error)}")


def reason(error: RayError) -> str:
    """Why a Ray call failed, in one line: the original exception where there is one."""
    dead = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(dead, RayActorError):
        lines = str(dead).strip().splitlines()
        return "its process died (" + " ".join(lines[0].split()) + ")"
    if isinstance(error, RayTaskError) and error.cause is not None:
        return " ".join(f"{type(error.cause).__name__}: {error.cause}".split())
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def await_all(starting: Mapping[Any, str], seconds: float) -> None:
    """Wait until every actor stands.

    Raises RunFailed, naming those that do not or why one cannot, and UsageError where one says what to do about it.
    """
    done, late = ray.wait(list(starting), num_returns=len(starting), timeout=seconds)
    for ready in done:
        try:
            ray.get(ready)
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, UsageError):
                raise error.cause from None
            raise RunFailed(f"{starting[ready]} could not start: {reason(error)}") from error
    if late:
        names = ", ".join(sorted(starting[one] for one in late))
        raise RunFailed(f"waited {seconds:g} s for {names} to start")
