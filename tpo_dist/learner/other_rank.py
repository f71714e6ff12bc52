"""Another rank's process, as rank 0 holds it, and how the two talk: see `rank.py`."""

import contextlib
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
from typing import Any

_SIZE = struct.Struct("!Q")
_ENDING_SECONDS = 5.0


class OtherRank:
    """The process of another rank, as rank 0 holds it."""

    def __init__(self, threads: int) -> None:
        """Starts it. `threads`: of torch."""
        self._socket, theirs = socket.socketpair()
        count, number = str(threads), theirs.fileno()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tpo_dist.learner.rank", str(number), count],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(number,),
                start_new_session=True,  # Ctrl-C is for rank 0
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": count,
                    "MKL_NUM_THREADS": count,
                    "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
                },
            )

    def say(self, message: Any, seconds: float) -> None:
        """Send it a message; whether that arrives, `hear` will tell."""
        self._socket.settimeout(seconds)
        with contextlib.suppress(OSError):  # it has died, or takes nothing: whoever listens to it says so
            send(self._socket, message)

    def hear(self, seconds: float) -> tuple[str, str] | None:
        """How a call went: None, or the kind of the error and its text. Raises TimeoutError, and OSError at its end."""
        self._socket.settimeout(seconds)
        found: tuple[str, str] | None = receive(self._socket)
        return found

    def ending(self) -> str:
        """What became of it, once its socket has closed."""
        try:
            code = self.process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return "went silent"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        self._socket.close()


def describe(error: Exception) -> tuple[str, str]:
    """Its kind and its text, as a rank tells of it."""
    return type(error).__name__, f"{type(error).__name__}: {error}"


def send(connection: socket.socket, message: Any) -> None:
    """Send one message, pickled, behind its length."""
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    connection.sendall(_SIZE.pack(len(content)) + content)


def receive(connection: socket.socket) -> Any:
    """The next message, from a process of this run. Raises ConnectionError where the other end is gone."""
    (size,) = _SIZE.unpack(_exactly(connection, _SIZE.size))
    return pickle.loads(_exactly(connection, size))  # noqa: S301 (from a process of this run)


def _exactly(connection: socket.socket, size: int) -> bytearray:
    content = bytearray()
    while len(content) < size:
        piece = connection.recv(min(size - len(content), 1 << 20))
        if not piece:
            raise ConnectionError("the other end is gone")
        content += piece
    return content
