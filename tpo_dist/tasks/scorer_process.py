"""The process in which completions are scored: started by `rollout/scorer_pool.py`, and killed by it.

    python -m tpo_dist.tasks.scorer_process FD

It is given a task by name and options, and draws by number, never code or pickles; it makes the questions itself. One
JSON object a line, both ways, over the socket FD:

    to it     {"task", "options", "seed", "seconds", "memory_mb"}            first
              {"job", "draw", "completion"}                                  then, any number
    from it   {"ready": true, "concurrent": bool} or {"refused": [where, reason, fix]} or {"broken": traceback}
              {"job", "score", "parts"} or {"job", "cause", "detail"} with "again" where it may be tried again

Where scorers are `async`, jobs run side by side; else one after another. It ends when the socket does, or who started
it, and takes along what scorers have started. If it hangs in code that nothing interrupts, the kernel's alarm ends it,
also when nobody is left to kill it.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
import traceback
from functools import lru_cache
from typing import Any

from tpo_dist.errors import UsageError
from tpo_dist.quarantine import shorten
from tpo_dist.tasks import build_text_task
from tpo_dist.tasks.rewards import Judge, NoScore
from tpo_dist.tasks.text import Question, TextTask, ask

GRACE_SECONDS = 2.0
"""After the limit of a job, the process ends by itself this much later."""
LINE_LIMIT = 1 << 28
"""Bytes of the longest line: a completion of that many characters is nobody's answer."""
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
TIMEOUT, NO_MEMORY = "scorer took too long", "scorer ran out of memory"


class Scoring:
    """Jobs of one task."""

    def __init__(self, task: TextTask, seed: int, seconds: float) -> None:
        self._judge, self._seconds = Judge(task), seconds
        self._question = lru_cache(maxsize=256)(lambda draw: ask(task, seed, draw))
        self._running = 0

    @property
    def concurrent(self) -> bool:
        """Whether jobs are to run side by side."""
        return self._judge.concurrent

    async def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job's grade, or what went wrong with it."""
        self._running += 1
        self._alarm()
        try:
            question: Question = self._question(job["draw"])
            async with asyncio.timeout(self._seconds):
                grade = await self._judge.grade(question, job["completion"])
            return {"job": job["job"], "score": grade.score, "parts": dict(grade.parts)}
        except NoScore as error:
            return {"job": job["job"], "cause": error.cause, "detail": shorten(str(error))}
        except MemoryError:
            return _failed(job, NO_MEMORY)
        except TimeoutError as error:
            late = isinstance(error.__cause__, asyncio.CancelledError)
            return _failed(job, TIMEOUT if late else "scorer raised TimeoutError")
        except BaseException as error:  # noqa: BLE001  # whatever a user's code raises, SystemExit and its like too
            return _failed(job, f"scorer raised {type(error).__name__[:80]}")
        finally:
            self._running -= 1
            self._alarm()

    def _alarm(self) -> None:
        """Each job that begins or ends sets the clock back; where none does for long, the kernel ends the process."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # libraries with time limits of their own leave theirs behind
        signal.setitimer(signal.ITIMER_REAL, self._seconds + GRACE_SECONDS if self._running else 0)


def _failed(job: dict[str, Any], cause: str) -> dict[str, Any]:
    """Of the exception at hand; another attempt may come to something else."""
    return {"job": job["job"], "cause": cause, "detail": shorten(traceback.format_exc()), "again": True}


async def serve(connection: socket.socket) -> None:
    """Build the task that the first line names, then answer jobs until the connection ends."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=LINE_LIMIT)

    def say(message: dict[str, Any]) -> None:
        writer.write(json.dumps(message).encode() + b"\n")

    first = json.loads(await reader.readline() or b"null")
    if first is None:
        return None
    try:
        task = build_text_task(first["task"], first["options"])
        scoring = Scoring(task, first["seed"], first["seconds"])
        hello = {"ready": True, "concurrent": scoring.concurrent}
        _load(task, first["seed"])
    except UsageError as error:
        say({"refused": [error.where, error.reason, error.fix]})
        return await writer.drain()
    except Exception:  # noqa: BLE001  # a user's code may raise anything
        say({"broken": shorten(traceback.format_exc())})
        return await writer.drain()
    if first["memory_mb"] is not None:
        limit_memory(first["memory_mb"] << 20)
    say(hello)
    running: set[asyncio.Task[None]] = set()
    ours = os.getpid()

    async def work(job: dict[str, Any]) -> None:
        answer = await scoring.answer(job)
        if os.getpid() != ours:
            os._exit(1)  # a scorer has forked, and this is its copy of us
        say(answer)
        await writer.drain()

    while line := await reader.readline():
        started = asyncio.create_task(work(json.loads(line)))
        running.add(started)
        started.add_done_callback(running.discard)
    return None


def _load(task: TextTask, seed: int) -> None:
    """Load what scoring needs, before its time and memory are limited: data, and a question that uses it."""
    for source in task.sources:
        task.member(source).question(seed, 0)


def limit_memory(extra_bytes: int) -> None:
    """Let the address space grow by so much beyond what is mapped now (Linux; elsewhere there is no limit)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (mapped + extra_bytes, mapped + extra_bytes))


def _end_with_starter() -> None:
    """Have the kernel say so when the thread that started this process is gone (Linux): a scorer that waits for a
    process of its own would not see the socket end."""
    signal.signal(signal.SIGTERM, _end)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(*_: object) -> None:
    """End, with all processes that scorers have started."""
    with contextlib.suppress(OSError):  # they are of another session where a scorer has forked
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Serve the socket whose number is the first argument."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _end_with_starter()
    connection = socket.socket(fileno=int(sys.argv[1]))
    with contextlib.suppress(ConnectionError):  # whoever asked is gone
        asyncio.run(serve(connection))
    _end()  # threads of a user's scorer do not keep it


if __name__ == "__main__":
    main()
