"""The process of a sink: `python -m tpo_dist.programs.sinks.seat NAME`, started by `apart.py`."""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from tpo_dist.programs.sinks.contract import Sink, Subject, without_passwords


def main(name: str, incoming: IO[str]) -> int:
    """Show what comes, a JSON line for each step, until the run ends or its driver is gone; the exit code.

    What goes wrong is told on standard output, a JSON string a line; what others print goes to standard error.
    """
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(error: Exception) -> None:
        words = " ".join(without_passwords(str(error)).split())[:300]
        print(json.dumps(f"{type(error).__name__}: {words}"), file=told, flush=True)

    try:
        first = json.loads(incoming.readline())
        sink: Sink = importlib.import_module(f"tpo_dist.programs.sinks.{name}").open_sink(_subject(first))
    except Exception as error:  # noqa: BLE001 (whatever it is, the driver says it and goes on)
        tell(error)
        return 1
    status = "failed"  # where the driver dies without a word
    for line in incoming:
        message = json.loads(line)
        if "end" in message:
            status = message["end"]
            break
        try:
            sink.write(message, {})
        except Exception as error:  # noqa: BLE001 (the next step may be taken)
            tell(error)
    try:
        sink.close(status)
    except Exception as error:  # noqa: BLE001
        tell(error)
        return 1
    return 0


def _subject(told: dict[str, Any]) -> Subject:
    return Subject(**{**told, "folder": Path(told["folder"])})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.stdin))
