"""Ray's job server, over HTTP from anywhere: jobs submitted, followed and stopped, each answer with a deadline."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient
from ray.util.state import list_actors, list_nodes
from ray.util.state.exception import RayStateApiException

from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.runtime.plan import NodeRoom

_SILENCE_SECONDS = 60.0
_LOOK_SECONDS = 1.0
_MANY = 10_000
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as its server knows it."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    exit_code: int | None
    started: float | None
    """Seconds since 1970."""
    ended: float | None
    command: str
    metadata: Mapping[str, str]

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in _OVER


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """What is submitted."""

    id: str
    command: str
    runtime_env: Mapping[str, Any]
    metadata: Mapping[str, str]
    cpus: float = 0.0
    gpus: float = 0.0
    resources: Mapping[str, float]


class JobServer:
    """The job server at one address."""

    def __init__(self, address: str, seconds: float) -> None:
        """`seconds`: until an answer counts as missing. Raises UsageError where it cannot be reached, or refuses."""
        self.address, self._seconds = address.rstrip("/"), seconds
        host, port = _parts(address)
        try:
            socket.create_connection((host, port), timeout=seconds).close()
        except OSError as error:
            raise self._refusal(f"nothing answers there ({error.strerror or error})", _START) from None
        for chatty in ("dashboard_sdk", "job.sdk"):
            logging.getLogger(f"ray.dashboard.modules.{chatty}").setLevel(logging.WARNING)
        with self._asking(), _address_as_given():
            self._client: Any = _Client(self.address, seconds=seconds)

    def submit(self, order: JobOrder) -> None:
        """Hand a job over, with the files it needs. Raises UsageError where the server refuses it."""
        with self._asking(order.id):
            self._client.submit_job(
                entrypoint=order.command,
                submission_id=order.id,
                runtime_env=dict(order.runtime_env),
                metadata=dict(order.metadata),
                entrypoint_num_cpus=order.cpus or None,
                entrypoint_num_gpus=order.gpus or None,
                entrypoint_resources=dict(order.resources) or None,
            )

    def look(self, job: str) -> JobState:
        """A job at this moment. Raises UsageError for one that the server does not know."""
        with self._asking(job):
            return _state(self._client.get_job_info(job))

    def jobs(self) -> list[JobState]:
        """Every job that was submitted, the oldest first."""
        with self._asking():
            found = [_state(each) for each in self._client.list_jobs() if each.submission_id is not None]
        return sorted(found, key=lambda job: job.started or 0.0)

    def stop(self, job: str) -> None:
        """Ask a job to end: SIGTERM, on which a run takes its checkpoint. It does not wait."""
        with self._asking(job):
            self._client.stop_job(job)

    def wait(self, job: str, seconds: float) -> JobState:
        """The state of a job that is over, or at the end of that time."""
        end = time.monotonic() + seconds
        while not (state := self.look(job)).over and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        return state

    def follow(self, job: str, say: Callable[[str], None]) -> JobState:
        """Pass on what the job writes until it ends; its last state.

        Consumes the job's log over a connection of its own and waits for the job, as long as its server says that it
        goes on: it is asked whenever the log is silent. Raises UsageError for a job that the server does not know, and
        RunFailed where it has not answered for too long.
        """
        self.look(job)
        told = _Told(say)
        while True:
            with contextlib.suppress(OSError, RuntimeError, ClientError):  # whether it is alive is asked next
                asyncio.run(told.tail(self._client.tail_job_logs(job)))
            state = self._look_patiently(job)
            if state.over:
                with self._asking(job):
                    told.rest(self._client.get_job_logs(job))
                return state
            time.sleep(_LOOK_SECONDS)

    def nodes(self) -> list[NodeRoom]:
        """The living nodes, and what running actors leave free of them."""
        with self._asking(), _address_as_given():
            about: dict[str, Any] = {"limit": _MANY, "timeout": int(self._seconds), "detail": True}
            alive: list[Any] = [("state", "=", "ALIVE")]
            nodes = list_nodes(self.address, filters=alive, **about)
            actors = list_actors(self.address, filters=alive, **about)
        rooms = []
        for node in nodes:
            here = [actor.required_resources or {} for actor in actors if actor.node_id == node.node_id]
            rooms.append(_room(node, here))
        return sorted(rooms, key=lambda room: (not room.head, room.kind, room.address))

    def _look_patiently(self, job: str) -> JobState:
        """The state once the server answers: a head that is busy misses one."""
        end = time.monotonic() + _SILENCE_SECONDS
        while True:
            try:
                return self.look(job)
            except UsageError as error:
                if time.monotonic() > end:
                    raise RunFailed(f"{error.where}: {error.reason}") from None
            time.sleep(_LOOK_SECONDS)

    @contextmanager
    def _asking(self, job: str | None = None) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise self._unauthenticated(str(error)) from None
        except (RuntimeError, RayStateApiException) as error:
            raise self._refused(str(error), job) from None
        except (OSError, ValueError, KeyError) as error:
            raise self._refusal(f"gives no answer of a job server ({_short(error)})", _START) from None

    def _unauthenticated(self, words: str) -> UsageError:
        shown = next((name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)), None)
        if "nvalid" in words and shown is not None:
            return self._refusal(f"the token in {shown} is not that of the cluster", "set the token of its head")
        return self._refusal(
            "the cluster asks for a token, and none was shown",
            "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its head",
        )

    def _refused(self, words: str, job: str | None) -> UsageError:
        if job is not None and "does not exist" in words:
            return UsageError(f"job {job}", f"{self.address} does not know it", "see tpo-dist submit --list")
        if job is not None and "already" in words:
            return UsageError(f"--id {job}", "the cluster has had a job of that name", "give another, or none")
        if "ersion" in words and not words.startswith("Request failed"):  # with a traceback, in which any word may be
            return self._refusal(f"is a job server of another Ray ({_short(words)})", "install the same version here")
        return self._refusal(f"the job server refused ({_short(words)})", "correct what it names")

    def _refusal(self, reason: str, fix: str) -> UsageError:
        return UsageError(f"--address {self.address}", reason, fix)


class _Told:
    """How much of a log has been passed on: a connection that was lost begins at the beginning."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._shown = say, 0

    async def tail(self, pieces: AsyncIterator[str]) -> None:
        """Pass on what is new, until the log ends or is silent for long."""
        at = 0
        with contextlib.suppress(TimeoutError, StopAsyncIteration):
            while True:
                piece = await asyncio.wait_for(anext(pieces), _SILENCE_SECONDS)
                at += len(piece)
                self._new(piece, at)

    def rest(self, text: str) -> None:
        """Pass on what a whole log has beyond that."""
        self._new(text, len(text))

    def _new(self, piece: str, at: int) -> None:
        if at > self._shown:
            self._say(piece[max(0, len(piece) - (at - self._shown)) :])
            self._shown = at


_START = "start a head, or give the address of its dashboard, such as http://HEAD:8265"


class _Client(JobSubmissionClient):
    """Ray's own, which would wait for an answer for ever."""

    def __init__(self, address: str, *, seconds: float) -> None:
        self._seconds = seconds
        super().__init__(address)

    def _do_request(self, *request: Any, **options: Any) -> Any:
        return super()._do_request(*request, **{"timeout": self._seconds, **options})


@contextmanager
def _address_as_given() -> Iterator[None]:
    """Ray would go by these variables rather than by the address it is given."""
    kept = {name: os.environ.pop(name, None) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in kept.items() if value is not None})


def _parts(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    try:
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        pass
    raise UsageError(f"--address {address}", "is not the address of a job server", "give http://HEAD:8265") from None


def _state(details: Any) -> JobState:
    at = [None if each is None else each / 1000 for each in (details.start_time, details.end_time)]
    return JobState(
        id=str(details.submission_id),
        status=str(details.status.value),
        message=str(details.message or ""),
        exit_code=details.driver_exit_code,
        started=at[0],
        ended=at[1],
        command=str(details.entrypoint),
        metadata=dict(details.metadata or {}),
    )


def _room(node: Any, actors: Sequence[Mapping[str, float]]) -> NodeRoom:
    total = {name: amount for name, amount in (node.resources_total or {}).items() if ":" not in name}
    free = dict(total)
    for needs in actors:
        for name, amount in needs.items():
            if name in free:
                free[name] = max(0.0, free[name] - amount)
    labels = node.labels or {}
    kind = labels.get("tpo-role") or labels.get("ray.io/node-group") or ("head" if node.is_head_node else "node")
    return NodeRoom(str(node.node_id), str(node.node_ip), str(kind), bool(node.is_head_node), total, free)


def _short(error: object) -> str:
    """In one line; of a traceback, what it ends with."""
    lines = str(error).strip().splitlines()
    told = lines[-1:] if "Traceback (most recent call last)" in str(error) else lines
    return " ".join(" ".join(told).split())[:200]
