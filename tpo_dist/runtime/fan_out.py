"""Many independent pieces of work, spread over a Ray cluster; each is done once, whoever dies on the way."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError

from tpo_dist.errors import RunFailed
from tpo_dist.runtime.answers import reason

T = TypeVar("T")
R = TypeVar("R")

_LOOK_SECONDS = 1.0
_TELL_SECONDS = 1.0  # a piece of work tells its progress no more often
_BOARD_SECONDS = 120.0  # for the progress of all, which takes milliseconds where machines are not overrun
_RETRIES = 3  # of a piece whose process died; an exception of its own is final


@dataclass(frozen=True, slots=True)
class Event(Generic[R]):
    """A piece of work got on, or ended."""

    index: int
    done: float
    """As the work itself counts."""
    result: R | None = None
    """Given once, when it ended."""


def fan_out(
    function: Callable[[T, Callable[[float], None]], R],
    items: Sequence[T],
    names: Sequence[str],
    silent_seconds: float = 1800.0,
    gpus: Sequence[float] | None = None,
) -> Iterator[Event[R]]:
    """Call `function(item, report)` for every item, one CPU each, and yield what is heard of them.

    `gpus`: how many each item gets besides; from one that gets none, Ray hides them. A process that dies is replaced,
    and its item begins again. Raises RunFailed, naming the item, where one raises, where its process died too often,
    where it asks for more GPUs than there are, or where nothing is heard of any for `silent_seconds`.
    """
    wanted, there = gpus or [0.0] * len(items), ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    for name, number in zip(names, wanted, strict=True):
        if number > there:
            raise RunFailed(f"{name} asks for {number:g} of {there:g} GPUs of the cluster; it would wait for ever")
    board = _Board.remote()  # type: ignore[attr-defined]
    pending = {
        _work.options(num_gpus=wanted[index]).remote(function, item, index, board): index
        for index, item in enumerate(items)
    }
    heard = time.monotonic()
    known: dict[int, float] = {}
    try:
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=_LOOK_SECONDS, fetch_local=True)
            for one in ready:
                index = pending.pop(one)
                heard = time.monotonic()
                done, result = _outcome(one, names[index])
                yield Event(index, done, result)
            told = _read(board)
            if told != known:
                heard, known = time.monotonic(), told
            waiting = set(pending.values())
            yield from (Event(index, done) for index, done in told.items() if index in waiting)
            if time.monotonic() - heard > silent_seconds:
                raise RunFailed(f"nothing was heard for {silent_seconds:g} s of {_list(names, waiting)}")
    finally:
        for one in pending:
            ray.cancel(one, force=True)


def _read(board: Any) -> dict[int, float]:
    try:
        told: dict[int, float] = ray.get(board.read.remote(), timeout=_BOARD_SECONDS)
    except RayError as error:
        reported = f"waited {_BOARD_SECONDS:g} s for it" if isinstance(error, GetTimeoutError) else reason(error)
        raise RunFailed(f"the process that collects progress failed: {reported}") from error
    return told


def _outcome(reference: Any, name: str) -> Any:
    try:
        return ray.get(reference)
    except RayError as error:
        raise RunFailed(f"{name} failed: {reason(error)}") from error


def _list(names: Sequence[str], indices: set[int]) -> str:
    shown = [names[index] for index in sorted(indices)[:5]]
    return ", ".join(shown) + (f" and {len(indices) - 5} more" if len(indices) > 5 else "")


@ray.remote(num_cpus=1, max_retries=_RETRIES)
def _work(function: Any, item: Any, index: int, board: Any) -> tuple[float, Any]:
    told, latest = 0.0, 0.0

    def report(done: float) -> None:
        nonlocal told, latest
        latest = done
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            board.tell.remote(index, done)

    board.tell.remote(index, 0.0)
    result = function(item, report)
    return latest, result


@ray.remote(num_cpus=0)
class _Board:
    """What every piece of work last said of itself."""

    def __init__(self) -> None:
        self._told: dict[int, float] = {}

    def tell(self, index: int, done: float) -> None:
        self._told[index] = done

    def read(self) -> dict[int, float]:
        return self._told
