"""A learner of two ranks on Ray: a rank's death is the learner's, which begins again from its checkpoint."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.test_language_model import SCORER, SUMS
from tests.tiny import tiny_model
from tpo_dist.audit import audit
from tpo_dist.learner.checkpoint import list_checkpoints, load_checkpoint
from tpo_dist.programs.control import read_faults
from tpo_dist.programs.distributed import launch
from tpo_dist.programs.folder import LEDGER
from tpo_dist.programs.job import configure
from tpo_dist.programs.parts import alone, make_learner
from tpo_dist.programs.run import create_run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

RANKS = (
    "learner.ranks=2",
    "learner.cpus=0.25",
    "sampler.name=transformers",
    "checkpoint.every_steps=2",
    "rollout.groups_per_step=4",
    "rollout.group_size=4",
    "stream.max_staleness=0",
    "steps=6",
)


def ranks_of(pid):
    """The processes of the other ranks of the learner with this process."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for file in children for child in file.read_text().split()]
    return [child for child in found if b"tpo_dist.learner.rank" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_killed_rank_begins_the_learner_again_from_its_checkpoint(tmp_path):
    model, scorer = tiny_model(tmp_path / "model", spread=0.3), tmp_path / "scorer.py"
    scorer.write_text(SCORER)
    rewards = f'task.rewards={{task: 0.5, "{scorer}:digits": 0.5}}'
    run = create_run(configure({}, (*SUMS, *RANKS, rewards, f"policy.path={model}", f"runs_dir={tmp_path}")))
    steps = []
    with launch(run) as system:
        for report in system.train(6):
            steps.append(report.step)
            if steps == [1, 2, 3]:
                (rank,) = ranks_of(system.supervisor.learner.where.pid)
                os.kill(rank, signal.SIGKILL)
            last = system.supervisor.learner.where.pid
        assert len(ranks_of(last)) == 1
    assert steps in ([1, 2, 3, 3, 4, 5, 6], [1, 2, 3, 4, 3, 4, 5, 6])
    (fault,) = [each for each in read_faults(run.folder) if each.role == "learner"]  # a worker may have been refused
    assert fault.what == "died"
    assert "rank 1 of the learner was killed by SIGKILL during" in fault.reason
    assert fault.recovered_seconds is not None
    account = audit(run.folder / LEDGER)
    assert account.complete
    assert account.draws["trained"] == 6 * 4

    learner = make_learner(alone(run.config))
    first = learner.snapshot()
    load_checkpoint(list_checkpoints(run.folder / "checkpoints")[-1], learner)
    arrays = learner.snapshot().arrays
    assert learner.version == 6
    assert all(np.abs(array - first.arrays[name]).max() > 1e-3 for name, array in arrays.items())
