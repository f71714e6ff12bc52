"""The command line in a forked process, which may be told to kill itself at a certain point.

Processes are forked from one that has imported everything, so that starting one takes no seconds.
"""

import multiprocessing
import os
import signal
import sys
from itertools import count
from pathlib import Path

from tpo_dist.learner import checkpoint, checkpoint_tensors
from tpo_dist.learner.learner import Learner
from tpo_dist.ledger import Ledger

PLACES = {
    "tensors": (checkpoint_tensors, "write_file"),  # twice for each checkpoint
    "state": (checkpoint, "_fingerprint"),  # three times
    "flush": (checkpoint, "_flush"),  # six times
    "rename": (Path, "rename"),  # once; nothing else renames
    "drop": (checkpoint, "list_checkpoints"),  # once
    "ledger": (Ledger, "write"),
    "update": (Learner, "update"),
}


def forked(function, *arguments):
    """A process that calls the function."""
    context = multiprocessing.get_context("forkserver")
    modules = ["tests.cli.deadly", "tpo_dist.programs.local", "tpo_dist.programs.distributed", "tpo_dist.cli.execute"]
    context.set_forkserver_preload(modules)
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def run(arguments, log, point=None, errors=None, **environment):
    """`tpo-dist` with these arguments: a process, whose exit code is negative where it was killed by that signal.

    What it prints goes to the file `log`, or to `errors` what is for standard error.
    """
    return forked(_run, [str(argument) for argument in arguments], str(log), point, str(errors or log), environment)


def _run(arguments, log, point, errors, environment):
    os.environ.update(environment)
    for descriptor, path in ((1, log), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    if point is not None:
        _arm(*point)
    from tpo_dist.cli.main import main

    sys.argv = ["tpo-dist", *arguments]
    main()


def _arm(place, number, when):
    """The process dies at that call of it, before or after."""
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), count(1)

    def deadly(*arguments, **options):
        due = next(calls) == number
        if due and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)
