"""A sink in a process of its own: what it prints, imports or waits for, and its death, are no matter of the driver's.

driver --a JSON line for each step--> `seat.py` --a JSON line for each problem--> driver
"""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any

from tpo_dist.metrics import Metrics
from tpo_dist.programs.sinks.contract import Subject

FOLDER = "sinks"
"""In the run's folder: what such sinks print, and by what they know the run again."""
_MOST = 1000  # rows under way
_CLOSE_SECONDS = 120.0  # for the last rows to arrive


class Apart:
    """Hands rows to the process, without ever waiting for it before the end of the run."""

    def __init__(self, name: str, subject: Subject, problem: Callable[[str], None]) -> None:
        """`problem` hears, from another thread, of each row that was lost. Raises OSError where nothing can start."""
        folder = subject.folder / FOLDER
        folder.mkdir(exist_ok=True)
        self._problem = problem
        self._rows: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST)
        with (folder / f"{name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tpo_dist.programs.sinks.seat", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the driver, which then ends it in order
            )
        about = {"name": subject.name, "folder": str(subject.folder), "project": subject.project, "step": subject.step}
        self._rows.put_nowait({**about, "config": subject.config})
        self._threads = [
            threading.Thread(target=self._send, args=(self._process.stdin,), daemon=True),
            threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def write(self, row: Mapping[str, float], metrics: Metrics) -> None:
        """One step. Raises OSError where the process has ended, or has not kept up with the last thousand steps."""
        self._put(dict(row))

    def go_back(self, step: int) -> None:
        """Nothing is taken back there: steps that are done again show twice."""

    def close(self, status: str) -> None:
        """Wait until all has arrived. Raises OSError where it does not within two minutes; then it is killed."""
        try:
            self._put({"end": status})
            self._rows.put(None, timeout=1.0)
            self._process.wait(_CLOSE_SECONDS)
        except (subprocess.TimeoutExpired, queue.Full):
            raise OSError(f"it has not taken the last steps within {_CLOSE_SECONDS:g} s") from None
        finally:
            self._process.kill()
            self._process.wait()
            for thread in self._threads:
                thread.join(1.0)
        if self._process.returncode != 0:
            raise OSError(f"its process ended with code {self._process.returncode}")

    def _put(self, message: dict[str, Any]) -> None:
        if self._process.poll() is not None:
            raise OSError(f"its process has ended with code {self._process.returncode}")
        try:
            self._rows.put_nowait(message)
        except queue.Full:
            raise OSError(f"{_MOST} steps wait for it") from None

    def _send(self, pipe: IO[str]) -> None:
        try:
            with pipe:
                while (message := self._rows.get()) is not None:
                    pipe.write(json.dumps(message) + "\n")
                    pipe.flush()
        except OSError:
            return  # it has ended, which the next write finds

    def _listen(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self._problem(str(json.loads(line)))
