"""Who holds which blocks, and since when."""

from collections.abc import Callable, Collection, Iterable

from tpo_dist.blocks import Lease


class Leases:
    """The leases that hold. A worker makes its blocks in the order in which it got them, and holds each until it hands
    it in; its clock starts with the first, and again whenever it hands one in."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds."""
        self._clock = clock
        self._held: dict[str, dict[int, Lease]] = {}
        self._since: dict[str, float] = {}

    def __contains__(self, lease: Lease) -> bool:
        return self._held.get(lease.worker, {}).get(lease.block) == lease

    def of(self, worker: str) -> list[Lease]:
        """Those of one worker, in order."""
        return list(self._held.get(worker, {}).values())

    def give(self, leases: Iterable[Lease]) -> None:
        """They hold from now on."""
        for lease in leases:
            if lease.worker not in self._held:
                self._held[lease.worker], self._since[lease.worker] = {}, self._clock()
            self._held[lease.worker][lease.block] = lease

    def end(self, lease: Lease) -> None:
        """It was handed in or given back."""
        del self._held[lease.worker][lease.block]
        self._since[lease.worker] = self._clock()
        if not self._held[lease.worker]:
            del self._held[lease.worker], self._since[lease.worker]

    def keep(self, blocks: Collection[int]) -> None:
        """Only leases of these blocks still hold."""
        for lease in [lease for held in self._held.values() for lease in held.values() if lease.block not in blocks]:
            self.end(lease)

    def seconds(self) -> dict[str, tuple[list[int], float]]:
        """The blocks of each worker, in order, and for how long it has been at work on the first."""
        now = self._clock()
        return {worker: (list(held), now - self._since[worker]) for worker, held in self._held.items()}
