"""Why a Ray call failed, in words, and waiting for actors to stand."""

from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from tpo_dist.errors import RunFailed, UsageError


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


def failed(name: str, error: RayError) -> RunFailed:
    """What the user reads when a process has failed for good.

    An actor that died under a call of this one is the stream: of a run's actors, the only one that others call.
    """
    met = isinstance(error, RayTaskError) and isinstance(error.cause, RayActorError)
    return RunFailed(f"{'the stream' if met else name} failed: {reason(error)}")
