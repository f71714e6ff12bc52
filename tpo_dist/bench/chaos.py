"""A run whose processes and nodes are killed at random while it trains, and the account of what came of it."""

import contextlib
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from tpo_dist.audit import audit
from tpo_dist.config import RunConfig
from tpo_dist.learner.checkpoint import list_checkpoints
from tpo_dist.learner.checkpoint_state import MODEL
from tpo_dist.programs import local
from tpo_dist.programs.control import Fault, read_faults
from tpo_dist.programs.distributed import System, launch
from tpo_dist.programs.folder import LEDGER
from tpo_dist.programs.job import configure
from tpo_dist.programs.run import Run, StepReport
from tpo_dist.runtime.messages import Whereabouts
from tpo_dist.runtime.several_nodes import Nodes, several_nodes

Target = Literal["worker", "hang", "stream", "learner", "node"]
TARGETS: tuple[Target, ...] = ("worker", "stream", "learner", "node", "hang")

JOB = (
    "task.name=judged_reversal",
    "task.length=4",
    "task.seconds=0.2",
    "rollout.groups_per_step=24",
    "rollout.block_size=4",
    "rollout.group_size=16",
    "rollout.workers=3",
    "rollout.cpus=1",
    "learner.cpus=1",
    "learner.schedule.name=linear",
    "cluster.placement=SPREAD",
    "checkpoint.every_steps=10",
    "deadlines.block_seconds=8",
    "faults.worker_restarts=1000",
    "faults.learner_restarts=1000",
    "faults.stream_restarts=1000",
    "faults.attempts=1000",
    "faults.backoff_limit_seconds=1",
    "log.sinks=[]",
    "log.plot=false",
)
"""Small, so that it learns within the minutes that the kills leave it; budgets without end, so that it has to."""

_STEP_SECONDS = 0.4  # of this job at least: a worker makes two blocks of a step, one after the other
_PAUSE_SECONDS = (3.0, 7.0)  # between two kills
_FINAL = 20  # steps


@dataclass(slots=True)
class Kill:
    """One process or node that was killed."""

    at: float
    """Seconds since the epoch."""
    target: Target
    place: str
    """Where the fault shows: rollout-N, stream or learner; every process of a node's has one."""


@dataclass(slots=True)
class Chaos:
    """Kills something every few seconds, for so long, or until it is told to stop."""

    system: System
    nodes: Nodes
    seed: int
    seconds: float
    targets: tuple[Target, ...] = TARGETS
    kills: list[Kill] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Chaos":
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(60.0)

    def _run(self) -> None:
        draw, end = random.Random(self.seed), time.monotonic() + self.seconds
        bag: list[Target] = []
        while not self._stop.wait(draw.uniform(*_PAUSE_SECONDS)) and time.monotonic() < end:
            bag = bag or draw.sample(self.targets, len(self.targets))  # each kind once before any comes again
            self.kills += self._strike(bag.pop(), draw)

    def _strike(self, target: Target, draw: random.Random) -> list[Kill]:
        """Kill something; not where a fault is being mended, as it would be taken for that one."""
        supervisor = self.system.supervisor
        if target == "node":
            return self._strike_node(draw)
        seats = [(f"rollout-{m.slot}", m.where) for _, m in sorted(supervisor.fleet.members.items())]
        if target in ("stream", "learner"):
            seats = [(target, supervisor.learner.where if target == "learner" else self._stream_where())]
        whole = [(place, where) for place, where in seats if where is not None and place not in supervisor.faults.open]
        if not whole:
            return []
        place, where = draw.choice(whole)
        at = time.time()
        with contextlib.suppress(ProcessLookupError):  # it died this moment
            os.kill(where.pid, signal.SIGSTOP if target == "hang" else signal.SIGKILL)
        return [Kill(at, target, place)]

    def _stream_where(self) -> Whereabouts | None:
        try:
            return self.system.supervisor.stream_where()
        except TimeoutError:
            return None

    def _strike_node(self, draw: random.Random) -> list[Kill]:
        supervisor = self.system.supervisor
        if not self.nodes.killable:
            return []
        seats = [(f"rollout-{m.slot}", m.where) for m in supervisor.fleet.members.values()]
        seats.append(("learner", supervisor.learner.where))
        whole = [(place, where) for place, where in seats if where is not None and place not in supervisor.faults.open]
        at = time.time()
        name = self.nodes.kill(draw)
        return [Kill(at, "node", place) for place, where in whole if where.node == name]


def bench_chaos(
    folder: Path,
    minutes: float = 3.0,
    seed: int = 0,
    overrides: tuple[str, ...] = (),
    targets: tuple[Target, ...] = TARGETS,
    *,
    sync: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train on several Ray nodes of this machine while processes and nodes are killed; what the ledger and the log say.

    The kills go on for `minutes`; scoring waits for so long that the steps take as much at least, also where machines
    are fast. The run is left in `folder`. `sync`: with max_staleness 0; the final weights are compared with those of a
    run of one process without faults.
    """
    steps = max(30, int(60 * minutes / _STEP_SECONDS))
    mode = f"stream.max_staleness={0 if sync else 1}"
    config = configure({}, (*JOB, f"steps={steps}", f"seed={seed}", f"runs_dir={folder.parent}", mode, *overrides))
    folder.mkdir(parents=True)
    run = Run(config, folder)
    reports: list[StepReport] = []
    with several_nodes(others=2, cpus=2) as nodes, launch(run) as system:
        with Chaos(system, nodes, seed, 60 * minutes, targets) as chaos:
            for report in system.train(steps):
                reports.append(report)
                nodes.fill_up()
                if report.step % 50 == 0:
                    tell(f"step {report.step} of {steps}, {len(chaos.kills)} killed, reward {_reward([report]):.2f}")
        kills = chaos.kills
    result = _account(config, folder, reports, kills)
    if sync:
        with TemporaryDirectory(prefix="tpo-bench-") as quiet:
            unhurried = configure(config.model_dump(), ("task.seconds=0.0",))
            result["equal"] = _equal(run, Run(unhurried, Path(quiet, "run")))
    return result


def _equal(run: Run, quiet: Run) -> bool:
    """Whether the run has the weights of one without faults, bit for bit."""
    for _ in local.train(quiet):
        pass
    weights = [load_file(list_checkpoints(each.checkpointer.folder)[-1] / MODEL) for each in (run, quiet)]
    return all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())


def _account(config: RunConfig, folder: Path, reports: list[StepReport], kills: list[Kill]) -> dict[str, Any]:
    faults = read_faults(folder)

    def found_after(target: str) -> Iterator[float]:
        return (fault.at - kill.at for kill, fault in _pairs(kills, faults) if kill.target == target)

    found = audit(folder / LEDGER)
    by_target: dict[str, int] = {}
    for kill in kills:
        by_target[kill.target] = by_target.get(kill.target, 0) + 1
    waited = sum(report.metrics["wait_seconds"].value for report in reports)
    return {
        "kills": by_target,
        "unnoticed": [f"{kill.target} {kill.place}" for kill in kills if _fault_of(kill, faults) is None],
        "detection_seconds": {target: _spread(found_after(target)) for target in by_target},
        "recovery_seconds": _spread(f.recovered_seconds for f in faults if f.recovered_seconds is not None),
        "steps": config.steps,
        "steps_made": len(reports),
        "blocks_reissued": sum(times * (count - 1) for count, times in found.attempts.items()),
        "learner_idle_share": waited / sum(report.seconds for report in reports),
        "ledger_complete": found.complete,
        "draws": dict(found.draws),
        "reward_first": _reward(reports[:_FINAL]),
        "reward_last": _reward(reports[-_FINAL:]),
    }


def _pairs(kills: list[Kill], faults: list[Fault]) -> Iterator[tuple[Kill, Fault]]:
    for kill in kills:
        fault = _fault_of(kill, faults)
        if fault is not None:
            yield kill, fault


def _fault_of(kill: Kill, faults: list[Fault]) -> Fault | None:
    """The first fault at the place of the kill after it."""
    later = [fault for fault in faults if fault.at >= kill.at - 0.5 and fault.name.split(".")[0] == kill.place]
    return min(later, key=lambda fault: fault.at, default=None)


def _spread(seconds: Iterator[float]) -> dict[str, float] | None:
    values = [max(0.0, value) for value in seconds]
    if not values:
        return None
    return {"median": round(statistics.median(values), 2), "worst": round(max(values), 2), "count": len(values)}


def _reward(reports: list[StepReport]) -> float:
    return statistics.fmean(report.metrics["reward"].value for report in reports)
