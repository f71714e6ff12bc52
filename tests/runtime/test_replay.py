"""What real processes trained, some of which were killed, is repeated bit for bit without them."""

import os
import signal

import pytest

from tpo_dist.audit import audit
from tpo_dist.ledger import Ledger
from tpo_dist.programs.distributed import launch
from tpo_dist.programs.replay import Replay
from tpo_dist.programs.run import create_run
from tpo_dist.schedule import schedule

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_an_asynchronous_run_whose_worker_and_learner_were_killed_is_repeated(small_config):
    options = ("rollout.workers=2", "stream.max_staleness=2", "learner.correction.name=tis", "checkpoint.every_steps=4")
    run = create_run(small_config("steps=30", *options))
    to_kill = {6: "worker", 14: "learner"}  # two steps after a checkpoint
    with launch(run) as system:
        for report in system.train(run.config.steps):
            victim = to_kill.pop(report.step, None)
            if victim is not None:
                supervisor = system.supervisor
                where = supervisor.learner.where if victim == "learner" else supervisor.fleet.members[0].where
                os.kill(where.pid, signal.SIGKILL)
    assert to_kill == {}
    path = run.folder / "ledger.db"
    found = audit(path)
    assert found.complete
    assert found.steps == 30
    assert len(found.rollbacks) == 1
    with Ledger.read(path) as ledger:
        plan = schedule(ledger)
    late = [step - each.version for step, blocks in enumerate(plan.steps) for each in blocks]
    assert max(late) > 0
    again = Replay(run.folder)
    for _ in again.train():
        pass
    assert again.compared == 30
    assert again.checkpoint.name == "step-00000030"
