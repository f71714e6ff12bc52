"""Running the command line in this process, and in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tpo_dist.cli.main import main

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "tpo_dist"]


def call(monkeypatch, capsys, *arguments):
    """Exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["tpo-dist", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as ending:
        code = ending.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def spawn(*arguments, **options):
    """A process of its own, in a group of its own."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
        **options,
    )
