"""One scorer process, as the rollout worker's process holds it: started, asked, killed, started again."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.tasks.scorer_process import GRACE_SECONDS, LINE_LIMIT, NO_MEMORY, TIMEOUT

START_SECONDS = 120.0
"""For loading a task's data and importing a user's scorer."""
_SIDE_BY_SIDE = 64
"""Jobs at a time where scorers wait for something elsewhere."""

Answer = Mapping[str, Any]
"""`score` and `parts`, or `cause` and `detail`; `again` where the same job may come to something else."""


class Seat:
    """A scorer process and its successors. All methods run in the pool's event loop."""

    def __init__(self, first: Mapping[str, Any]) -> None:
        """`first`: what the process is told at its start."""
        self._first, self._seconds = first, float(first["seconds"])
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._starting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._next_job = 0
        self.concurrent = False
        """Whether the process takes several jobs at a time."""
        self.deaths = 0
        """Processes that died or were killed."""

    @property
    def width(self) -> int:
        """Jobs that it takes at a time."""
        return _SIDE_BY_SIDE if self.concurrent else 1

    @property
    def pid(self) -> int | None:
        """Of the process that is there now."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """A process that is ready, unless there is one. Raises UsageError where the task is refused there, and
        RunFailed where no process comes up."""
        async with self._starting:
            if self._process is not None:
                return
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = process = _launch(theirs)
            reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE_LIMIT)
            try:
                async with asyncio.timeout(START_SECONDS):
                    self._writer.write(json.dumps(dict(self._first)).encode() + b"\n")
                    hello = json.loads(await reader.readline() or b"{}")
            except TimeoutError:
                hello = {"broken": f"no word of it within {START_SECONDS:g} s"}
            except OSError:
                hello = {}
            if "ready" not in hello:
                code = await self.stop()
                if "refused" in hello:
                    raise UsageError(*hello["refused"])
                why = hello.get("broken", f"it ended while it started, {_ending(code)}")
                raise RunFailed(f"no scorer of {self._first['task']} could be started: {why}")
            self.concurrent = bool(hello["concurrent"])
            self._reading = asyncio.create_task(self._read(reader, process))

    async def ask(self, draw: int, completion: str) -> Answer:
        """The answer for one completion; the process is killed where it does not come in time."""
        await self.start()
        process = self._process
        assert self._writer is not None
        number, self._next_job = self._next_job, self._next_job + 1
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        line = json.dumps({"job": number, "draw": draw, "completion": completion}).encode() + b"\n"
        limit = self._seconds + (GRACE_SECONDS / 2 if self.concurrent else 0.0)  # side by side, they end themselves
        try:
            async with asyncio.timeout(limit):
                with contextlib.suppress(OSError):  # it has died: who reads from it says so
                    self._writer.write(line)
                    await self._writer.drain()
                answer = await answered
        except TimeoutError:
            crowd = self._process is not process or len(self._waiting) > 1
            if self._process is process:
                await self.stop()
            detail = f"{len(completion)} characters took longer than scoring.seconds = {self._seconds:g}"
            return {"cause": TIMEOUT, "detail": detail, "again": True, "suspect": crowd}
        finally:
            self._waiting.pop(number, None)
        if answer.get("cause") == NO_MEMORY:  # who leaked it is not known, and there is little left for those after it
            await self.stop()
        return answer

    async def stop(self) -> int | None:
        """Kill the process and all that it started; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        writer, reading, waiting = self._writer, self._reading, self._waiting  # the next process has its own
        self._writer, self._reading, self._waiting = None, None, {}
        self.deaths += 1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()  # soon: nothing keeps a process from that signal
        if reading is not None:
            reading.cancel()
        if writer is not None:
            writer.close()
        cause = TIMEOUT if code == -signal.SIGALRM else f"scorer process died, {_ending(code)}"
        lost = {"cause": cause, "detail": cause, "again": True, "suspect": len(waiting) > 1}
        for answered in waiting.values():
            if not answered.done():
                answered.set_result(lost)
        return code

    async def _read(self, reader: asyncio.StreamReader, process: "subprocess.Popen[bytes]") -> None:
        """Hand out the answers of a process until it ends."""
        with contextlib.suppress(OSError, ValueError):  # it ended, or a scorer wrote where only answers belong
            while line := await reader.readline():
                answer = json.loads(line)
                answered = self._waiting.pop(answer["job"], None)
                if answered is not None and not answered.done():
                    answered.set_result(answer)
        if self._process is process:
            self._reading = None  # stop() is not to cancel who calls it
            await self.stop()


def _launch(connection: socket.socket) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that Ctrl-C does not reach it and its children end with it. What it prints goes to
    standard error: standard output may be promised to one JSON value."""
    number = connection.fileno()
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tpo_dist.tasks.scorer_process", str(number)],
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=(number,),
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
    )


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
