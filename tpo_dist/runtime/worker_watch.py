"""Which rollout workers are silent for too long: at work on a block, or gone quiet before they had one."""

from collections.abc import Iterable, Iterator

from tpo_dist.blocks import owner
from tpo_dist.runtime.fleet import Member
from tpo_dist.runtime.sight import Seen
from tpo_dist.supervision import Kill, Warn, Watched, watch


class WorkerWatch:
    """Judges workers by what the stream says of them; does nothing to them.

    A worker at work holds a block or waits for the stream. One that does neither loads its weights, which may take as
    long as a block.
    """

    def __init__(self, block_seconds: float, now: float) -> None:
        """`block_seconds`: deadlines.block_seconds."""
        self._seconds, self._before = block_seconds, now
        self._quiet: dict[str, float] = {}
        """Since when each worker has been seen with neither block nor question."""

    def verdicts(self, members: Iterable[Member], seen: Seen, now: float) -> Iterator[tuple[Member, Warn | Kill]]:
        """Those that are to be warned of, or killed; `now` is when the stream said so (monotonic seconds)."""
        held: dict[str, tuple[int, float]] = {}  # the oldest where a worker has several under way
        for name, number, seconds in sorted(seen.stats.leases, key=lambda lease: lease[2]):
            held[owner(name)] = number, now - seconds
        before, looked = self._quiet, self._before
        self._quiet, self._before = {}, now
        for member in members:
            if member.name in held:
                block, since = held[member.name]
                watched = self._watched(member, block, since)
            elif member.state == "working" and member.since < seen.asked and member.name not in seen.asking:
                since = self._quiet[member.name] = before.get(member.name, now)
                watched = self._watched(member, None, since)
            else:
                continue
            verdict = watch(watched, now, looked)
            if verdict is not None:
                yield member, verdict

    def _watched(self, member: Member, block: int | None, since: float) -> Watched:
        return Watched(
            name=member.name,
            state="loading" if block is None else "working",
            since=since,
            block=block,
            deadline_seconds=self._seconds,
            key="deadlines.block_seconds",
        )
