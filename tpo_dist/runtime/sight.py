"""The stream as the driver sees it: asked about once a second, without waiting for its answer."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from tpo_dist.blocks import StreamStats
from tpo_dist.errors import RunFailed
from tpo_dist.runtime.answers import failed
from tpo_dist.runtime.faults import Faults

SILENT_SECONDS = 60.0
"""Without an answer, after which the stream's process counts as hanging."""

_EVERY_SECONDS = 1.0
_GIVE_UP_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The stream at one moment."""

    stats: StreamStats
    refused: Mapping[str, str]
    """Workers whose groups the learner refused since the last look, and why."""
    owed: Mapping[str, list[int]]
    """Finished blocks that live with each worker."""
    asked: float
    """When it was asked (monotonic seconds)."""


class StreamSight:
    """Asks, and notices when the stream's process is another or does not answer."""

    def __init__(self, stream: Any, faults: Faults, say: Callable[[str], None]) -> None:
        self._stream, self._faults, self._say = stream, faults, say
        self._looking: Any = None
        self._asked = 0.0
        self._life: str | None = None

    def look(self, step: int) -> Seen | None:
        """What it says, where there is something new. Raises RunFailed where it is gone for good."""
        now = time.monotonic()
        if self._looking is None:
            if now - self._asked >= _EVERY_SECONDS:
                self._asked, self._looking = now, self._stream.look.remote()
            return None
        if not ray.wait([self._looking], timeout=0)[0]:
            self._wait(now - self._asked, step)
            return None
        looking, self._looking = self._looking, None
        try:
            stats, refused, owed, life = ray.get(looking)
        except RayError as error:
            raise failed("the stream", error) from error
        self._lives(life, step)
        return Seen(stats, refused, owed, self._asked)

    def _wait(self, silent: float, step: int) -> None:
        if silent > SILENT_SECONDS and "stream" not in self._faults.open:
            self._faults.begin("stream", "stream", "hung", f"no answer for {silent:.0f} s", step)
            self._say(f"the stream has not answered for {silent:.0f} s")
        if silent > _GIVE_UP_SECONDS:
            raise RunFailed(f"the stream failed: no answer for {silent:.0f} s")

    def _lives(self, life: str, step: int) -> None:
        if self._life not in (None, life):
            if "stream" not in self._faults.open:
                self._faults.begin("stream", "stream", "died", "its process died", step)
            self._say("the stream's process died and is back; finished blocks that it held are made again")
        self._life = life
        self._faults.over("stream")
