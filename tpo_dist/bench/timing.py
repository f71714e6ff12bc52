"""Medians of named parts over repetitions."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """Adds up the seconds of named parts within one repetition, and keeps every repetition."""

    def __init__(self) -> None:
        self.repetitions: list[dict[str, float]] = []

    def start(self) -> None:
        """Begin a repetition."""
        self.repetitions.append({})

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block as part of the current repetition."""
        started = time.perf_counter()
        try:
            yield
        finally:
            parts = self.repetitions[-1]
            parts[name] = parts.get(name, 0.0) + time.perf_counter() - started

    def timed(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        """The function, timed as a part whenever it is called."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.part(name):
                return function(*args, **kwargs)

        return call

    def medians(self) -> dict[str, float]:
        """Median seconds of each part over the repetitions."""
        names = dict.fromkeys(name for parts in self.repetitions for name in parts)
        return {name: statistics.median(parts.get(name, 0.0) for parts in self.repetitions) for name in names}
