"""The stream in numbers: states of blocks, failures, what it dropped, how busy the workers are."""

from collections import Counter
from dataclasses import dataclass

from tpo_dist.blocks import BlockSummary, Event, Failure, Lease, StreamStats, Window, owner
from tpo_dist.history import History

WORKER_LOST = "worker lost"
"""Cause of the failure of a group with which too many workers died."""


def length_bin(tokens: float) -> str:
    """Under which a prompt of that length is counted: powers of two, such as `16-31`."""
    power = 1 << max(0, int(tokens).bit_length() - 1)
    return f"{power}-{2 * power - 1}"


def reward_bin(reward: float) -> str:
    """Under which a group of that mean score is counted: one digit, such as `0.3`."""
    return f"{reward:.1g}"


@dataclass(slots=True)
class _Sums:
    blocks: int = 0
    groups: int = 0
    wait: float = 0.0
    roll: float = 0.0


class Tally:
    """Counts since the stream's process started."""

    def __init__(self, now: float) -> None:
        """`now`: seconds, of the clock that `window` is asked with."""
        self.failed_groups: Counter[str] = Counter()
        """By cause."""
        self._dropped_by_length: Counter[str] = Counter()
        self._dropped_by_reward: Counter[str] = Counter()
        self._handed_in, self._since = _Sums(), now
        self._by_worker: Counter[str] = Counter()

    def hand_in(self, worker: str, summary: BlockSummary) -> None:
        """Count a block that came."""
        self._by_worker[owner(worker)] += 1
        self.failed_groups.update(failure.cause for failure in summary.failures)
        sums = self._handed_in
        sums.blocks, sums.groups = sums.blocks + 1, sums.groups + summary.groups
        sums.wait, sums.roll = sums.wait + summary.wait_seconds, sums.roll + summary.roll_seconds

    def give_up(self, lease: Lease, strikes: int, reason: str) -> Event:
        """Count a leased block with which that many workers were lost, the last for this reason; its failure."""
        failures = tuple(Failure(draw=draw, cause=WORKER_LOST, detail=reason) for draw in lease.draw_ids.tolist())
        self.failed_groups[WORKER_LOST] += lease.draws
        why = f"{strikes} workers were lost with it, the last so: {reason}"
        detail = BlockSummary(groups=0, failures=failures).to_json(why)
        return Event("failed", lease.block, worker=lease.worker, detail=detail)

    def drop(self, summary: BlockSummary) -> None:
        """Count a block that is dropped."""
        self._dropped_by_length[length_bin(summary.prompt_length)] += 1
        self._dropped_by_reward[reward_bin(summary.reward)] += 1

    def window(self, now: float) -> Window:
        """What came since the last window, and open the next."""
        sums, since = self._handed_in, self._since
        self._handed_in, self._since = _Sums(), now
        busy = sums.wait + sums.roll
        idle_share = sums.wait / busy if busy > 0 else None
        return Window(seconds=now - since, blocks=sums.blocks, groups=sums.groups, idle_share=idle_share)

    def stats(self, history: History, leases: tuple[tuple[str, int, float], ...], waiting: str | None) -> StreamStats:
        """These counts beside those of the blocks."""
        return StreamStats(
            version=history.version,
            finished=history.finished,
            queued=len(history.queued),
            in_flight=len(history.in_flight),
            ready=len(history.ready),
            taken=sum(map(len, history.taken.values())),
            trained=history.trained,
            failed=history.failed,
            failed_groups=dict(self.failed_groups),
            reissued=history.reissued,
            dropped=self._dropped_by_length.total(),
            dropped_by_length=dict(self._dropped_by_length),
            dropped_by_reward=dict(self._dropped_by_reward),
            handed_in=dict(self._by_worker),
            leases=leases,
            waiting=waiting,
        )
