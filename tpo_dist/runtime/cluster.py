"""Starting Ray here or joining it elsewhere, with a deadline, and leaving it as it was found."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import ray._private.worker

from tpo_dist.config import ClusterConfig
from tpo_dist.errors import UsageError

_NAMESPACE = "tpo_dist"


@contextmanager
def cluster(config: ClusterConfig, connect_seconds: float) -> Iterator[None]:
    """Inside, this process is a Ray driver. A cluster started here ends with the block; one joined is left running.

    Raises UsageError where the address cannot be reached, or a driver is already connected elsewhere.
    """
    if ray.is_initialized():
        yield  # the caller's own cluster, a test's or a notebook's
        return
    leave_standard_output_alone()
    with _own_signal_handlers():
        if config.address is None:
            _start(config)
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


def _start(config: ClusterConfig) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A local cluster has token authentication by default, which is as it should be and needs no announcement.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    memory = None if config.object_store_mb is None else config.object_store_mb * 1024**2
    ray.init(
        address="local",  # else Ray would join a cluster that somebody else has started on this machine
        num_cpus=config.num_cpus,
        object_store_memory=memory,
        include_dashboard=False,
        logging_level=logging.WARNING,
        namespace=_NAMESPACE,
    )


def _join(address: str, connect_seconds: float) -> None:
    if address != "auto":
        _probe(address, connect_seconds)
    try:
        ray.init(address=address, logging_level=logging.WARNING, namespace=_NAMESPACE)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"cluster.address = {address!r}",
            f"Ray could not be joined ({reason})",
            "start one with `ray start --head`, set RAY_AUTH_MODE and its token as there, or leave the address out",
        ) from None


def _probe(address: str, seconds: float) -> None:
    """A plain connection first: Ray itself takes minutes to give up on an address where nobody listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    fix = "give HOST:PORT of a running head node, or leave cluster.address out to start Ray here"
    if not host or not port.isdigit():
        raise UsageError(f"cluster.address = {address!r}", "is not of the form HOST:PORT", fix)
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except OSError as error:
        reason = f"nothing answers there ({error.strerror or error})"
        raise UsageError(f"cluster.address = {address!r}", reason, fix) from None
