"""The driver's view of a run: what the learner reports, whether the workers live, and when to give up."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from tpo_dist.runtime.actors import Step

_LOOK_SECONDS = 0.5  # how soon a stop request is seen


class RunFailed(RuntimeError):
    """A process of the run died, failed or fell silent; the message says which and why."""


def follow(
    reports: Any, loops: Mapping[Any, str], stop: Callable[[], bool], close: Callable[[], Any], seconds: float
) -> Iterator[Step]:
    """Yield the learner's reports as they come.

    Consumes the learner's stream of reports and the workers' endings; waits for the learner, at most `seconds` from
    one report to the next. `stop` asks for an early end, which `close` brings about. Raises RunFailed where a process
    ends that should not.
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
                raise RunFailed(f"the learner failed: {reason(error)}") from error
            heard = time.monotonic()
            yield report
            continue
        for loop in ready:
            name = working.pop(loop)
            try:
                ray.get(loop)
            except RayError as error:
                raise RunFailed(f"{name} failed: {reason(error)}") from error
        if time.monotonic() - heard > seconds:
            raise RunFailed(f"waited {seconds:g} s for the next step, which the learner owes")


def reason(error: RayError) -> str:
    """Why a Ray call failed, in one line: the original exception where there is one."""
    if isinstance(error, RayTaskError) and error.cause is not None:
        return f"{type(error.cause).__name__}: {error.cause}"
    lines = str(error).strip().splitlines()
    if isinstance(error, RayActorError):
        return "its process died (" + " ".join(lines[0].split()) + ")"
    return lines[-1] if lines else type(error).__name__


def await_all(starting: Mapping[Any, str], seconds: float) -> None:
    """Wait until every actor stands. Raises RunFailed, naming those that do not or why one cannot."""
    done, late = ray.wait(list(starting), num_returns=len(starting), timeout=seconds)
    for ready in done:
        try:
            ray.get(ready)
        except RayError as error:
            raise RunFailed(f"{starting[ready]} could not start: {reason(error)}") from error
    if late:
        names = ", ".join(sorted(starting[one] for one in late))
        raise RunFailed(f"waited {seconds:g} s for {names} to start")
