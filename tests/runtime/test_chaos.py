"""Training on three Ray nodes while workers, stream, learner and nodes are killed: every draw is accounted for."""

import json
import os
import subprocess
import sys

import pytest

MINUTES = os.environ.get("TPO_DIST_CHAOS_MINUTES", "0.4")


@pytest.mark.ray
@pytest.mark.parametrize("mode", [(), ("--sync",)], ids=["asynchronous", "synchronous"])
def test_nothing_is_lost_and_the_model_learns(mode, tmp_path):
    """A process of its own: the nodes are no part of the cluster that the other tests share."""
    command = [sys.executable, "-m", "tpo_dist", "bench", "chaos", "--json", "--minutes", MINUTES, "--seed", "3", *mode]
    done = subprocess.run([*command, "--folder", tmp_path / "run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["ledger_complete"]
    assert result["draws"]["trained"] == result["steps"] * 24
    assert result["draws"]["failed"] == 0
    assert sum(result["kills"].values()) >= 3
    assert result["reward_last"] > 2 * result["reward_first"]
    if mode:
        assert result["equal"]
