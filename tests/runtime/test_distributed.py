"""The same training on real Ray: bit for bit what one process does, and clear when something breaks."""

import os
import re
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
import ray

from tests.processes import pids_running, wait_for
from tests.programs.test_local import assert_equal_runs
from tests.test_records import make_groups
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.learner.checkpoint import list_checkpoints, read_state
from tpo_dist.programs import distributed, local
from tpo_dist.programs.legible import Reader
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.programs.run import create_run
from tpo_dist.runtime.answers import await_all
from tpo_dist.runtime.learner_actor import LearnerActor
from tpo_dist.runtime.placement import Need, check_room
from tpo_dist.runtime.rollout_actor import RolloutActor

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def local_run(tmp_path_factory):
    """Twenty steps in one process, its error at each, and the groups that it shows."""
    from tests.conftest import SMALL
    from tpo_dist.programs.job import configure

    run = create_run(configure({}, (*SMALL, f"runs_dir={tmp_path_factory.mktemp('local')}")))
    reports = list(local.train(run))
    return run, [report.metrics["error"] for report in reports], shown(run, reports)


def shown(run, reports):
    """The rows of groups.jsonl."""
    reader = Reader(run.config)
    return [reader.row(report.step, group) for report in reports for group in report.groups]


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_weights_of_one_process_bit_for_bit(workers, small_config, local_run):
    run = create_run(small_config(f"rollout.workers={workers}"))
    reports = list(distributed.train(run))
    errors = [report.metrics["error"] for report in reports]
    assert len(errors) == 20
    assert errors == local_run[1]
    assert shown(run, reports) == local_run[2] != []
    assert_equal_runs(run, local_run[0])
    wait_for(
        lambda: not any(pids_running(f"ray::{name}") for name in ("StreamShell", "RolloutShell", "LearnerShell")),
        "the actors to end",
    )


@ray.remote
def look_at(block):
    """What a receiving process sees of the arrays: writeable, and inside a mapping of the object store or not."""
    mappings = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            if "plasma" in line or "/dev/shm" in line:
                start, _, end = line.split()[0].partition("-")
                mappings.append((int(start, 16), int(end, 16)))

    def shared(array):
        address = array.__array_interface__["data"][0]
        return any(start <= address and address + array.nbytes <= end for start, end in mappings)

    return {name: (array.flags.writeable, shared(array)) for name, array in block.arrays().items()}


def test_groups_arrive_as_read_only_views_on_shared_memory():
    block = make_groups(count=300, size=16)
    assert all(seen == (False, True) for seen in ray.get(look_at.remote(ray.put(block))).values())
    here = ray.get(ray.put(block))
    with pytest.raises(ValueError, match="read-only"):
        here.scores[0] = 1.0
    for name, array in block.arrays().items():
        np.testing.assert_array_equal(here.arrays()[name], array)


def start(run, failures):
    """Train in a thread, so that the test can act meanwhile."""

    def train():
        try:
            for report in distributed.train(run):
                reached.append(report.step)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    reached = []
    thread = threading.Thread(target=train)
    thread.start()
    return thread, reached


NO_RESTARTS = ("faults.worker_restarts=0", "faults.learner_restarts=0", "faults.stream_restarts=0")


def after_a_kill(small_config, shell, *overrides):
    """What became of a run that may restart nothing, after the process of that title was killed: its failure, its last
    step, its checkpoint."""
    run = create_run(small_config("steps=100000", *NO_RESTARTS, *overrides))
    failures = []
    others = set(pids_running(f"ray::{shell}"))  # of an earlier run, on their way out
    thread, reached = start(run, failures)
    wait_for(lambda: len(reached) > 3, "a few steps", 180)
    os.kill(min(set(pids_running(f"ray::{shell}")) - others), signal.SIGKILL)
    thread.join(120)
    assert not thread.is_alive()
    (error,) = failures
    assert isinstance(error, RunFailed)
    assert "\n" not in str(error)
    saved = list_checkpoints(run.checkpointer.folder)
    return str(error), reached[-1], int(read_state(saved[-1])["step"]) if saved else None


def test_without_restarts_a_killed_worker_ends_the_run_with_its_name_and_a_checkpoint(small_config):
    message, last, saved = after_a_kill(small_config, "RolloutShell", "rollout.workers=2")
    assert re.match(r"rollout-\d failed: its process died", message)
    assert saved == last


def test_without_restarts_a_killed_learner_ends_the_run_with_its_name(small_config):
    message, _, saved = after_a_kill(small_config, "LearnerShell")
    assert message.startswith("the learner failed: its process died")
    assert saved is None


def test_without_restarts_a_killed_stream_is_blamed_itself_and_leaves_a_checkpoint(small_config):
    message, last, saved = after_a_kill(small_config, "StreamShell", "rollout.workers=2")
    assert message.startswith("the stream failed: its process died")
    assert saved in (last, last + 1)  # the report of the last step may be lost with the stream, the step is not


def test_a_part_that_cannot_be_built_says_why_in_its_own_words(small_config):
    config = small_config("learner.device=cuda:99", "learner.gpus=1")
    run = create_run(config)
    learner = LearnerActor.remote(1, partial(make_learner, config), run.checkpointer, None)
    with pytest.raises(UsageError, match=r"learner.device = 'cuda:99': torch .* CUDA devices here"):
        await_all({learner.ready.remote(): "learner"}, 60.0)
    ray.kill(learner)


def test_a_hanging_worker_is_named_when_the_wait_for_groups_ends(small_config):
    """The wait for groups ends before the worker's own time is up."""
    run = create_run(small_config("steps=100000", "deadlines.groups_seconds=2.0", "deadlines.update_seconds=5.0"))
    failures = []
    others = set(pids_running("ray::RolloutShell"))
    thread, reached = start(run, failures)
    wait_for(lambda: len(reached) > 3, "a few steps", 180)
    (pid,) = set(pids_running("ray::RolloutShell")) - others
    os.kill(pid, signal.SIGSTOP)
    try:
        thread.join(60)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert not thread.is_alive()
    (error,) = failures
    assert "DeadlineExceeded: waited 2 s for the groups of step" in str(error)
    assert list_checkpoints(run.checkpointer.folder)
    assert "with rollout-0 for" in str(error) or "which no worker has asked for" in str(error)


def test_a_failing_part_is_reported_with_its_own_words(small_config):
    run = create_run(small_config("objective.name=ppo", "learner.optimizer.lr=1e18", "task.reward=bag_of_tokens"))
    with pytest.raises(RunFailed, match="the learner failed: FloatingPointError: the gradient of step"):
        for _ in distributed.train(run):
            pass


def test_room_that_the_cluster_does_not_have_is_refused_at_once(small_config):
    started = time.monotonic()
    with pytest.raises(UsageError, match="placement of 40.5 CPU .* this cluster has 4 CPU to give"):
        next(distributed.train(create_run(small_config("rollout.cpus=40"))))
    with pytest.raises(UsageError, match="1 GPU.* this cluster has .*0 GPU"):
        next(distributed.train(create_run(small_config("learner.gpus=1"))))
    assert time.monotonic() - started < 10


def test_room_that_is_taken_is_waited_for_until_the_deadline():
    wait_for(lambda: ray.available_resources().get("CPU") == 4, "earlier tests' room to come back")

    @ray.remote(num_cpus=3)
    class Tenant:
        def here(self):
            return True

    tenant = Tenant.remote()
    assert ray.get(tenant.here.remote())
    with pytest.raises(UsageError, match="after 0.5 s the cluster still has only 1 CPU"):
        check_room([Need(2, 0)], "PACK", 0.5, can_grow=True)
    ray.kill(tenant)
    check_room([Need(2, 0), Need(2, 0)], "PACK", 30.0, can_grow=True)


def test_actors_without_needs_need_no_room():
    check_room([Need(0, 0), Need(0, 0)], "PACK", 1.0, can_grow=False)
    assert Need(0, 0).options(1, "PACK")["num_cpus"] == 0


def test_threads_are_set_in_every_process(small_config):
    """One thread count for each role, whatever the machine has."""
    actor = RolloutActor.options(**Need(1, 0).options(3, "SPREAD")).remote("w", 3, partial(make_worker, small_config()))
    counts = ray.get(actor.__ray_call__.remote(threads_of))
    ray.kill(actor)
    assert counts == (3, "3")


def threads_of(_self):
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]
