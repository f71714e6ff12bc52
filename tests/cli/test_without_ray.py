"""A machine without Ray trains and runs studies in one process: nothing on that way imports Ray."""

import json
import subprocess
import sys

import pytest

WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from tpo_dist.cli.main import main; main()"
SMALL = ("steps=2", "task.length=3", "rollout.groups_per_step=8", "rollout.block_size=8", "rollout.workers=1")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "JOB", *SMALL, "--local", "--json"),
        ("study", "masking", "--seeds", "1", "--budget", "0.02", "--local", "--json"),
        ("study", "one_context", "--seeds", "2", "--budget", "0.1", "--local", "--json"),
        ("bench", "step", "--token-level", "--repeats", "1", "--threads", "1", "--json", "task.length=3"),
    ],
    ids=["train", "study of training runs", "study of bandits", "bench"],
)
def test_it_runs_where_ray_cannot_be_imported(arguments, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("name: t\n")
    words = [str(job) if word == "JOB" else word for word in arguments]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, *words], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
