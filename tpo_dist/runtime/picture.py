"""A run at one moment, as numbers and names: what `tpo-dist status` shows."""

import time
from typing import TYPE_CHECKING, Any

from tpo_dist.blocks import StreamStats, owner
from tpo_dist.supervision import State

if TYPE_CHECKING:
    from tpo_dist.runtime.supervisor import Supervisor


def picture(of: "Supervisor") -> dict[str, Any]:
    """Step, version, workers, stream, learner and faults of a run, in plain types."""
    stats = None if of.seen is None else of.seen.stats
    return {
        "status": "stopping" if of.closed else "starting" if of.learner.state == "starting" else "running",
        "step": of.step,
        "version": -1 if stats is None else stats.version,
        "rollouts": _rollouts(of, stats),
        "stream": _stream(of, stats),
        "learner": _learner(of, stats),
        "faults": dict(of.faults.counts),
    }


def _rollouts(of: "Supervisor", stats: StreamStats | None) -> dict[str, Any]:
    now = time.monotonic()
    held: dict[str, tuple[int, float]] = {}  # the oldest where a worker has several under way
    for name, number, age in sorted(stats.leases if stats else (), key=lambda lease: lease[2]):
        held[owner(name)] = number, age
    workers = []
    for _, member in sorted(of.fleet.members.items()):
        block, seconds = held.get(member.name, (None, now - max(member.since, member.busy)))
        state: State = member.state
        if member.state == "working" and block is None:
            state = "idle" if of.seen is None or member.name in of.seen.asking else "loading"
        workers.append(
            {
                "name": member.name,
                "pid": member.where.pid if member.where else None,
                "node": member.where.host if member.where else None,
                "state": state,
                "block": block,
                "version": of.seen.versions.get(member.name) if of.seen else None,
                "seconds": round(seconds, 1),
                "restarts": member.deaths,
                "blocks": stats.handed_in.get(member.name, 0) if stats else 0,
            }
        )
    alive = sum(member.where is not None for member in of.fleet.members.values())
    return {"wanted": of.sizing.wanted, "alive": alive, "auto": of.sizing.auto, "workers": workers}


def _stream(of: "Supervisor", stats: StreamStats | None) -> dict[str, Any]:
    names = ("queued", "in_flight", "ready", "trained", "failed", "reissued", "dropped")
    counts: dict[str, Any] = {name: getattr(stats, name) if stats else 0 for name in names}
    counts["pid"] = of.sight.where.pid if of.sight.where else None
    counts["failed_groups"] = dict(stats.failed_groups) if stats else {}
    shares = of.sizing.idle_shares
    return counts | {"groups_per_second": of.pace, "workers_idle": shares[1] if shares else None}


def _learner(of: "Supervisor", stats: StreamStats | None) -> dict[str, Any]:
    waits_for = stats.waiting if stats else None
    state = "waiting" if of.learner.state == "training" and waits_for else of.learner.state
    shares = of.sizing.idle_shares
    where = of.learner.where
    return {
        "pid": where.pid if where else None,
        "node": where.host if where else None,
        "state": state,
        "waits_for": waits_for,
        "seconds": round(time.monotonic() - of.learner.heard, 1),
        "idle_share": shares[0] if shares else None,
        "restarts": of.learner.deaths,
    }
