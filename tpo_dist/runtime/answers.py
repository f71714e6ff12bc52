"""Why a Ray call failed, in words, and waiting for actors to stand."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from tpo_dist.errors import RunFailed, Stopped, UsageError
from tpo_dist.learner.team import RankLost
from tpo_dist.process import SAY_SECONDS
from tpo_dist.supervision import WARN_AT

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.25


def reason(error: RayError) -> str:
    """Why a Ray call failed, in one line: the original exception where there is one."""
    dead = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(dead, OutOfMemoryError):  # a page of text, of which its end is about something else
        found = re.search(r"[\d.]+ ?\w*B used / [\d.]+ ?\w*B limit", str(dead))
        return "Ray killed its process, as its node ran low on memory" + (f" ({found[0]})" if found else "")
    if isinstance(dead, ActorUnavailableError):
        return "its process, or its node, cannot be reached"
    if isinstance(dead, RayActorError):
        lines = str(dead).strip().splitlines()
        if dead.actor_init_failed:  # a page, of which the end is what was raised
            return "its process cannot start (" + " ".join(lines[-1].split()) + ")"
        return "its process died (" + " ".join(lines[0].split()) + ")"
    if isinstance(dead, RankLost):
        return str(dead)
    if isinstance(error, RayTaskError) and error.cause is not None:
        return " ".join(f"{type(error.cause).__name__}: {error.cause}".split())
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def is_death(error: RayError) -> bool:
    """Whether a process is gone: the actor's own, or one that it cannot go on without. Else it is an exception."""
    return not isinstance(error, RayTaskError) or isinstance(error.cause, RankLost)


def await_all(starting: Mapping[Any, str], seconds: float, stopping: Callable[[], bool] = lambda: False) -> None:
    """Wait until every actor stands.

    Raises RunFailed, naming those that do not or why one cannot, UsageError where one says what to do about it, and
    Stopped soon after `stopping` says that nobody wants them any more.
    """
    soon, next_word, began = WARN_AT * seconds, SAY_SECONDS, time.monotonic()
    done: list[Any] = []
    late, warned = list(starting), False
    while late and (passed := time.monotonic() - began) < seconds:
        done, late = ray.wait(list(starting), num_returns=len(starting), timeout=min(_LOOK_SECONDS, seconds - passed))
        if stopping():
            raise Stopped
        if late and not warned and time.monotonic() - began >= soon:
            warned = True
            _log.warning("waiting for %.3g s of %.3g s for %s to start", soon, seconds, _names(starting, late))
        elif late and passed >= next_word:
            _log.info("%.3g s of %.3g s: %s still starting", next_word, seconds, _names(starting, late))
            next_word *= 2
    for ready in done:
        try:
            ray.get(ready)
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, UsageError):
                raise error.cause from None
            raise RunFailed(f"{starting[ready]} could not start: {reason(error)}") from error
    if late:
        raise RunFailed(f"waited {seconds:g} s for {_names(starting, late)} to start")


def _names(starting: Mapping[Any, str], late: list[Any]) -> str:
    return ", ".join(sorted(starting[one] for one in late))


def failed(name: str, error: RayError) -> RunFailed | UsageError:
    """What the user reads when a process has failed for good; its own words where they say what to do.

    An actor that died under a call of this one is the stream: of a run's actors, the only one that others call.
    """
    if isinstance(error, RayTaskError) and isinstance(error.cause, UsageError):
        return error.cause
    met = isinstance(error, RayTaskError) and isinstance(error.cause, RayActorError)
    return RunFailed(f"{'the stream' if met else name} failed: {reason(error)}")
