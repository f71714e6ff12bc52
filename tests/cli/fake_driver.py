"""A driver without a training: it holds the lock, says how it is, and obeys what is asked of it, or does not.

`python -m tests.cli.fake_driver FOLDER [BEHAVIOUR …]`; behaviours say what it does when a wish arrives:
dies, ends, deaf (takes no note), refuses, no-room (one worker fewer than asked), silent (says nothing any more),
and, from the start: alone (writes no status), frozen (its status is a minute old), torn (its status is no JSON).
"""

import json
import os
import sys
import time
from pathlib import Path

from tpo_dist.programs import control
from tpo_dist.programs.folder import write_whole
from tpo_dist.programs.lock import hold

STEPS = 1000
COMING_SECONDS = 0.3


class FakeDriver:
    """Workers that come up and leave in a fraction of a second."""

    def __init__(self, folder, behaviours):
        self.folder, self.behaviours = folder, behaviours
        self.step, self.wanted, self.auto, self.heard, self.error = 7, 2, False, None, None
        self.since = {f"rollout-{number}": (0.0, "working") for number in range(2)}

    def fleet(self):
        now = time.time()
        for name, (since, state) in list(self.since.items()):
            if now - since > COMING_SECONDS and state == "starting":
                self.since[name] = (now, "working")
            if now - since > COMING_SECONDS and state == "retiring":
                del self.since[name]
        place = max(0, self.wanted - ("no-room" in self.behaviours and self.heard is not None))
        number = 0
        while sum(state != "retiring" for _, state in self.since.values()) < place:
            if f"rollout-{number}" not in self.since:
                self.since[f"rollout-{number}"] = (now, "starting")
            number += 1
        staying = [name for name, (_, state) in self.since.items() if state != "retiring"]
        for name in staying[self.wanted :]:
            self.since[name] = (now, "retiring")
        return [
            {"name": name, "pid": 100, "node": "nœud", "state": state, "seconds": 1.0, "block": 3, "version": 7}
            for name, (since, state) in self.since.items()
        ]

    def hear(self):
        wish = control.read_wish(self.folder)
        if wish is None or "deaf" in self.behaviours or wish.id == self.heard:
            return
        if "dies" in self.behaviours:
            os._exit(9)
        if "ends" in self.behaviours:
            self.summary("completed", STEPS)
            sys.exit()
        if "silent" in self.behaviours:
            time.sleep(1000)
        self.heard, self.error = wish.id, None
        if "refuses" in self.behaviours:
            self.error = f"{wish.rollouts} workers hold 40 blocks and a step has 16"
        elif wish.rollouts == "auto":
            self.auto = True
        else:
            self.auto, self.wanted = False, wish.rollouts

    def say(self):
        workers = self.fleet()
        status = {
            "run": str(self.folder),
            "status": "running",
            "step": self.step,
            "steps": STEPS,
            "version": 7,
            "max_staleness": 1,
            "rollouts": {"wanted": self.wanted, "alive": len(workers), "auto": self.auto, "workers": workers},
            "stream": {"queued": 0, "in_flight": 2, "ready": 1, "trained": 28, "failed": 0, "groups_per_second": 12.5},
            "learner": {"state": "waiting", "waits_for": "2 blocks of step 7", "seconds": 0.5, "idle_share": 0.125},
            "faults": {"worker killed": 2},
            "wish_id": self.heard,
            "last_wish_error": self.error,
        }
        if "frozen" in self.behaviours:
            status["updated"] = time.time() - 60.0
        control.write_status(self.folder, status)
        if "torn" in self.behaviours:
            (self.folder / "status.json").write_text('{"run": ')

    def summary(self, word, step):
        summary = {"run": str(self.folder), "status": word, "reason": None, "step": step, "steps": STEPS, "error": 0.25}
        write_whole(self.folder / "summary.json", json.dumps(summary))

    def drive(self):
        with hold(self.folder):
            control.forget_wish(self.folder)
            self.summary("running", 0)
            while True:
                if "alone" not in self.behaviours:
                    self.hear()
                    self.say()
                (self.folder / "up").touch()
                time.sleep(0.02)


if __name__ == "__main__":
    FakeDriver(Path(sys.argv[1]), sys.argv[2:]).drive()
