"""vLLM's processes end with the worker that they work for, however that ends; here they do nothing but that."""

import os
import subprocess
import sys

import pytest

from tests.processes import lives, wait_for
from tpo_dist.rollout.vllm import owner

FOLLOW = f"import runpy; runpy.run_path({owner.__file__!r})['follow_owner']()"
MODEL = f"import os, time\n{FOLLOW}\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
START = "import os, subprocess, sys\nprint(os.getpid(), flush=True)\nsubprocess.run([sys.executable, '-c', {!r}])"
WORKER = f"import os\nos.environ[{owner.OWNER!r}] = str(os.getpid())\n"


@pytest.mark.parametrize(
    "engine", [MODEL, START.format(MODEL)], ids=["an engine with a model", "an engine between worker and model"]
)
def test_they_end_with_a_worker_that_is_killed(engine):
    count = 2 if engine == MODEL else 3
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER + START.format(engine)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with worker:
        pids = [int(worker.stdout.readline()) for _ in range(count)]
        assert pids[0] == worker.pid
        assert len(set(pids)) == count
        assert all(map(lives, pids))
        worker.kill()
        wait_for(lambda: not any(map(lives, pids)), "the end of all of them")


def run(owned_by):
    return subprocess.run([sys.executable, "-c", FOLLOW], env={**os.environ, owner.OWNER: str(owned_by)}, check=False)


def test_one_that_comes_too_late_ends_at_once():
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert run(dead.pid).returncode == 1


def test_the_worker_itself_and_those_without_one_go_on():
    itself = f"import os\nos.environ[{owner.OWNER!r}] = str(os.getpid())\n{FOLLOW}"
    assert subprocess.run([sys.executable, "-c", itself], check=False).returncode == 0
    environment = {name: value for name, value in os.environ.items() if name != owner.OWNER}
    assert subprocess.run([sys.executable, "-c", FOLLOW], env=environment, check=False).returncode == 0
