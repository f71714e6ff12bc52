"""Starting Ray here or joining it elsewhere, with a deadline, and leaving it as it was found."""

import logging
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import ray
import ray._private.node
import ray._private.worker
from ray._private.services import canonicalize_bootstrap_address_or_die

from tpo_dist.config import ClusterConfig
from tpo_dist.errors import RunFailed, UsageError

_NAMESPACE = "tpo_dist"
_ATTEMPTS = 2  # to start Ray at least: it gives itself 30 s, which a machine at its limits may exceed
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # how a client of gRPC begins, and so of Ray
_log = logging.getLogger(__name__)

T = TypeVar("T")


@contextmanager
def cluster(config: ClusterConfig, connect_seconds: float) -> Iterator[None]:
    """Inside, this process is a Ray driver. A cluster started here ends with the block; one joined is left running.

    Raises UsageError where the address cannot be reached, or a driver is already connected elsewhere, and RunFailed
    where Ray does not come up here in `connect_seconds` and two attempts.
    """
    if ray.is_initialized():
        yield  # the caller's own cluster, a test's or a notebook's
        return
    leave_standard_output_alone()
    with _own_signal_handlers():
        if config.address is None:
            _start(config, connect_seconds)
        else:
            _join(config.address, connect_seconds)
    try:
        yield
    finally:
        ray.shutdown()


def started_here(config: ClusterConfig) -> bool:
    """Whether the cluster has this machine only, and so can never grow."""
    return config.address is None


def leave_standard_output_alone() -> None:
    """What Ray prints for people, such as that a process died, goes to standard error: the other may be one JSON value.

    To be called before Ray is joined, which has no option for that.
    """
    if not isinstance(ray._private.worker.print_to_stdstream, partial):
        ray._private.worker.print_to_stdstream = partial(_to_standard_error, ray._private.worker.print_to_stdstream)


def _to_standard_error(show: Any, data: dict[str, Any], **options: Any) -> None:
    show({**data, "is_err": True}, **options)


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Ray puts handlers of its own in place of the program's: one exits at once, one prints the native stack."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ray leaves them alone as well
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):  # not the system's defaults: those would end the driver without its farewell
                signal.signal(number, handler)


def patiently(start: Callable[[], T], seconds: float, what: str) -> T:
    """What `start` gives: it starts processes of Ray, which give up after half a minute on a machine that is overrun.

    It is called again until `seconds` have passed, and twice at least; what an attempt left is ended before the next.
    Raises RunFailed, saying why the last one failed; ValueError, of arguments that cannot be, as it comes.
    """
    began, failures = time.monotonic(), 0
    while True:
        try:
            return start()
        except ValueError:
            raise
        except Exception as error:  # Ray raises the plainest of exceptions here
            _end_what_is_left_of(error)
            failures += 1
            reason, passed = " ".join(str(error).split())[:300], time.monotonic() - began
            if failures >= _ATTEMPTS and passed >= seconds:
                fix = "end what else keeps this machine busy, or raise deadlines.connect_seconds"
                raise RunFailed(
                    f"{what} did not start in {passed:.0f} s and {failures} attempts ({reason}). Fix: {fix}."
                ) from error
            _log.warning("%s did not start (%s); it is tried again", what, reason)


def _end_what_is_left_of(error: Exception) -> None:
    """The processes of a node whose start failed: Ray leaves them running, and nobody but the traceback knows them."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for node in frame.f_locals.values():
            if isinstance(node, ray._private.node.Node):
                with suppress(Exception):
                    node.kill_all_processes(check_alive=False, allow_graceful=False)


def _start(config: ClusterConfig, connect_seconds: float) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A local cluster has token authentication by default, which is as it should be and needs no announcement.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    memory = None if config.object_store_mb is None else config.object_store_mb * 1024**2

    def start() -> None:
        try:
            ray.init(
                address="local",  # else Ray would join a cluster that somebody else has started on this machine
                num_cpus=config.num_cpus,
                object_store_memory=memory,
                include_dashboard=False,
                logging_level=logging.WARNING,
                namespace=_NAMESPACE,
            )
        except BaseException:
            ray.shutdown()  # it may have joined what it started
            raise

    patiently(start, connect_seconds, "Ray")


def _join(address: str, connect_seconds: float) -> None:
    try:
        # Ray finds "auto" in its own notes, where a head that is long gone may stand.
        there = canonicalize_bootstrap_address_or_die(address) if address == "auto" else address
        _probe(there, connect_seconds)
        ray.init(address=there, logging_level=logging.WARNING, namespace=_NAMESPACE)
    except UsageError:
        raise
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"cluster.address = {address!r}",
            f"Ray could not be joined ({reason})",
            "start one with `ray start --head`, set RAY_AUTH_MODE and its token as there, or leave the address out",
        ) from None


def _probe(address: str, seconds: float) -> None:
    """A plain connection first: Ray itself takes minutes to give up on an address where nobody listens, or listens and
    never speaks."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    fix = "give HOST:PORT of a running head node, or leave cluster.address out to start Ray here"
    if not host or not port.isdigit():
        raise UsageError(f"cluster.address = {address!r}", "is not of the form HOST:PORT", fix)
    try:
        with socket.create_connection((host, int(port)), timeout=seconds) as connection:
            spoke = _speaks_as_ray(connection)
    except TimeoutError:
        reason = f"nothing answers there in {seconds:g} s (deadlines.connect_seconds)"
        raise UsageError(f"cluster.address = {address!r}", reason, fix) from None
    except OSError as error:
        reason = f"nothing answers there ({error.strerror or error})"
        raise UsageError(f"cluster.address = {address!r}", reason, fix) from None
    if not spoke:
        raise UsageError(f"cluster.address = {address!r}", "what listens there is not Ray", fix)


def _speaks_as_ray(connection: socket.socket) -> bool:
    """Whether a server of gRPC is at the other end: its first frame has its settings."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return True  # it speaks once it is spoken to in another way
    connection.sendall(_HELLO)
    heard = b""
    while len(heard) < 4 and (more := connection.recv(64)):
        heard += more
    return heard[3:4] == b"\4"
