"""The stream as the driver sees it: asked about once a second, without waiting for its answer."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from tpo_dist.blocks import StreamStats
from tpo_dist.errors import RunFailed
from tpo_dist.runtime import nodes
from tpo_dist.runtime.answers import failed
from tpo_dist.runtime.faults import Faults
from tpo_dist.runtime.messages import Whereabouts
from tpo_dist.supervision import WARN_AT

SILENT_SECONDS = 30.0
"""Without an answer, after which the stream's process counts as hanging and is killed. Learner and workers wait for
messages.GRACE_SECONDS longer than they have to: by then another one has to answer them."""

_EVERY_SECONDS = 1.0
_GIVE_UP_SECONDS = 180.0
_NAP_SECONDS = 2.0  # longer between two looks, and it was the driver that slept


@dataclass(frozen=True, slots=True)
class Seen:
    """The stream at one moment."""

    stats: StreamStats
    refused: Mapping[str, str]
    """Workers whose groups the learner refused since the last look, and why."""
    owed: Mapping[str, list[int]]
    """Finished blocks that live with each worker."""
    asking: Collection[str]
    """Workers that wait for its answer."""
    versions: Mapping[str, int]
    """Of the weights that each worker samples from."""
    asked: float
    """When it was asked (monotonic seconds)."""


class StreamSight:
    """Asks, notices when the stream's process is another or does not answer, and kills one that hangs."""

    def __init__(self, stream: Any, faults: Faults, say: Callable[[str], None]) -> None:
        """`stream`: an actor that Ray restarts."""
        self._stream, self._faults, self._say = stream, faults, say
        self._looking: Any = None
        self._asked, self._looked, self._silent = 0.0, 0.0, 0.0
        self._life: str | None = None
        self._where: Whereabouts | None = None
        self._locating: Any = None

    @property
    def where(self) -> Whereabouts | None:
        """Its process, where that is known."""
        return self._where

    def look(self, step: int) -> Seen | None:
        """What it says, where there is something new. Raises RunFailed where it is gone for good."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _NAP_SECONDS), now
        if self._looking is None:
            if now - self._asked >= _EVERY_SECONDS:
                self._asked, self._silent, self._looking = now, 0.0, self._stream.look.remote()
            return None
        self._locate()
        if not ray.wait([self._looking], timeout=0)[0]:
            before, self._silent = self._silent, self._silent + passed
            self._wait(before, step)
            return None
        looking, self._looking = self._looking, None
        try:
            stats, refused, owed, asking, versions, life = ray.get(looking)
        except RayError as error:
            raise failed("the stream", error) from error
        self._lives(life, step)
        return Seen(stats, refused, owed, asking, versions, self._asked)

    def _wait(self, before: float, step: int) -> None:
        """It has not answered. `before`: for how long it had not at the look before this one (seconds)."""
        silent, where = self._silent, self._where
        if where is not None and not nodes.is_there(where):
            self._where = None
            self._faults.begin("stream", "stream", "died", "its process died", step)
        elif where is not None and silent > SILENT_SECONDS:
            self._where = None
            self._faults.begin("stream", "stream", "hung", f"no answer for {silent:.0f} s", step)
            self._say(f"the stream has not answered for {silent:.0f} s: it is killed, and another takes its place")
            nodes.kill(where)
        elif where is not None and before <= WARN_AT * SILENT_SECONDS < silent:
            why = f"the stream has not answered for {silent:.0f} s, and is killed after {SILENT_SECONDS:g} s"
            nodes.log_stacks(where, why)
        if silent > _GIVE_UP_SECONDS:
            raise RunFailed(f"the stream failed: no answer for {silent:.0f} s")

    def _lives(self, life: str, step: int) -> None:
        """It has answered, in this life."""
        if life != self._life:
            if self._life is not None:
                if "stream" not in self._faults.open:
                    self._faults.begin("stream", "stream", "died", "its process died", step)
                self._say("the stream's process died and is back; finished blocks that it held are made again")
            self._life, self._where, self._locating = life, None, self._stream.where.remote()
        self._faults.over("stream")

    def _locate(self) -> None:
        """Note where it is, once it has said so; whether it has died since is for the next look to find."""
        if self._locating is not None and ray.wait([self._locating], timeout=0)[0]:
            locating, self._locating = self._locating, None
            try:
                self._where = ray.get(locating)
            except RayError as error:
                raise failed("the stream", error) from error
