"""`python -m tests.runtime.hungry FOLDER`: a run with a worker that takes ever more memory, and what came of it."""

import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from tests.conftest import SMALL
from tests.programs.test_local import assert_equal_runs
from tests.runtime.broken import Wrapped
from tpo_dist.audit import audit
from tpo_dist.programs import distributed, local
from tpo_dist.programs.control import read_faults
from tpo_dist.programs.folder import LEDGER
from tpo_dist.programs.job import configure
from tpo_dist.programs.run import create_run
from tpo_dist.runtime.placement import Need
from tpo_dist.runtime.rollout_actor import RolloutActor


class Hungry(Wrapped):
    """Takes memory until it is killed for it."""

    rolled = 0

    def roll(self, draw_ids):
        self.rolled += 1
        if self.rolled == 5 and self.once("hungry"):
            taken = []
            for _ in range(96):  # 6 GiB
                taken.append(np.ones(2**23))
                time.sleep(0.05)
        return super().roll(draw_ids)


def make_worker(folder, config, name):
    options = Need(config.rollout.cpus, 0).options(1, "PACK")
    return RolloutActor.options(**options).remote(name, 1, partial(Hungry, config, folder, name))


def main(folder):
    config = configure({}, (*SMALL, "rollout.workers=2", f"runs_dir={folder / 'runs'}", "faults.worker_restarts=100"))
    distributed._make_worker = partial(make_worker, str(folder))
    runs = [create_run(config), create_run(config)]
    for run, program in zip(runs, (distributed, local), strict=True):
        for _ in program.train(run):
            pass
    assert_equal_runs(*runs)
    faults = [fault.model_dump() for fault in read_faults(runs[0].folder)]
    print(json.dumps({"equal": True, "complete": audit(runs[0].folder / LEDGER).complete, "faults": faults}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
