"""Starting fake drivers for the commands that talk to one."""

import os
import subprocess
import sys
from contextlib import contextmanager

from tests.cli.run_cli import ROOT
from tests.processes import wait_for


def make_run(runs, name):
    """The folder of a run that nobody trains."""
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@contextmanager
def driver(folder, *behaviours):
    """A process that holds the run, up and saying so; killed at the end."""
    command = [sys.executable, "-m", "tests.cli.fake_driver", str(folder), *behaviours]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        wait_for(lambda: (folder / "up").exists() or process.poll() is not None, "the driver", 60)
        yield process
    finally:
        process.kill()
        process.wait()
