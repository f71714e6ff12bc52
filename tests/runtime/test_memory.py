"""A run whose node runs low on memory: Ray kills processes of its choice, and the run goes on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.run_cli import ROOT

_SPARE = 5 * 2**29  # the processes of the run take half of it
_NEEDED = 3 * _SPARE


def memory(name):
    """Bytes, as /proc/meminfo has them."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/meminfo").read_text())[1])


@pytest.mark.ray
def test_what_ray_kills_for_want_of_memory_is_replaced_and_named_so(tmp_path):
    """A cluster of its own, whose memory monitor sees the node as full when one worker has taken a gigabyte or so."""
    total, available = memory("MemTotal"), memory("MemAvailable")
    if available < _NEEDED:
        pytest.skip(f"takes {_NEEDED >> 30} GiB of memory")
    monitor = {
        "RAY_memory_usage_threshold": str((total - available + _SPARE) / total),
        "RAY_memory_monitor_refresh_ms": "100",
    }
    command = [sys.executable, "-m", "tests.runtime.hungry", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **monitor}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["equal"]
    assert result["complete"]
    reasons = [fault["reason"] for fault in result["faults"] if fault["role"] == "rollout"]
    assert reasons
    words = r"^Ray killed its process, as its node ran low on memory \([\d.]+ ?GB used / [\d.]+ ?GB limit\)$"
    assert all(re.match(words, reason) for reason in reasons), reasons
