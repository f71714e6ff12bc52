"""A rank of the learner beside the first: started by `team.py`, does what it is told, ends with it.

    python -m tpo_dist.learner.rank FD THREADS

Messages are pickled, behind their length, over the socket FD:

    to it     (Place, make)             first; make(team) gives its learner
              (call, arguments)         then, any number: it does call(learner, *arguments)
              None                      a call that failed here failed on all ranks alike: it goes on
    from it   None, or (kind, text) of an error, after each: imported, learner built, call done
"""

import contextlib
import os
import queue
import socket
import sys
import threading
import traceback
from typing import Any

import torch

from tpo_dist.learner.other_rank import describe, receive, send
from tpo_dist.learner.team import Member
from tpo_dist.process import keep_freed_memory

_ALONE_SECONDS = 10.0
"""After a call failed: if it has not failed on rank 0 by then, that one waits for this one in a collective. This one
ends, and so does the wait."""


def main() -> None:
    """Serve the socket whose number is the first argument, with as many threads as the second says."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    torch.set_num_threads(int(sys.argv[2]))
    keep_freed_memory()
    calls: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_listen, args=(connection, calls), daemon=True).start()
    with contextlib.suppress(ConnectionError, queue.Empty):  # rank 0 is gone, or waits for what failed here
        place, make = calls.get()
        send(connection, None)
        learner: Any = None

        def build() -> None:
            nonlocal learner
            learner = make(Member(place))

        send(connection, _try(build))
        while learner is not None:
            call, arguments = calls.get()
            trouble = _try(lambda call=call, arguments=arguments: call(learner, *arguments))
            send(connection, trouble)
            if trouble is not None:
                calls.get(timeout=_ALONE_SECONDS)
    os._exit(0)


def _listen(connection: socket.socket, calls: "queue.Queue[Any]") -> None:
    """Hands on what rank 0 says. When it is gone, so is this process, also where it hangs in a collective."""
    try:
        while True:
            calls.put(receive(connection))
    except OSError:
        os._exit(0)
    except Exception:  # noqa: BLE001  # a message that cannot be understood
        traceback.print_exc()
        os._exit(1)


def _try(call: Any) -> tuple[str, str] | None:
    try:
        call()
    except Exception as error:  # noqa: BLE001  # whatever it is, rank 0 has to hear of it
        return describe(error)
    return None


if __name__ == "__main__":
    main()
