"""A sampler of whole blocks as one that streams: while one block is scored, the next is sampled."""

from collections import deque

from tpo_dist.records import Prompts, Snapshot
from tpo_dist.rollout.contract import Candidates, Sampler


class InTurn:
    """Samples the blocks that were submitted one after another, each whole, in the `step` that hands it out."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._waiting: deque[tuple[int, Prompts, int]] = deque()

    @property
    def version(self) -> int | None:
        """The version of the loaded snapshot; None before the first."""
        return self._sampler.version

    @property
    def digest(self) -> str:
        """The checksum of its weights."""
        return self._sampler.digest

    def load(self, snapshot: Snapshot) -> None:
        """Take over these weights; no block may be waiting. Raises WrongWeights as the sampler does."""
        assert not self._waiting, "blocks that were submitted are sampled from the weights of then"
        self._sampler.load(snapshot)

    def sample(self, prompts: Prompts, group_size: int) -> Candidates:
        """K candidates for each prompt."""
        return self._sampler.sample(prompts, group_size)

    @property
    def pending(self) -> int:
        """Blocks that were submitted and not yet handed out."""
        return len(self._waiting)

    def submit(self, key: int, prompts: Prompts, group_size: int) -> None:
        """Put a block behind those that wait."""
        self._waiting.append((key, prompts, group_size))

    def step(self) -> list[tuple[int, Candidates]]:
        """Sample the block that has waited longest; takes as long as that does."""
        if not self._waiting:
            return []
        key, prompts, group_size = self._waiting.popleft()
        return [(key, self._sampler.sample(prompts, group_size))]

    @property
    def in_flight(self) -> bool:
        """No: a block comes from one version."""
        return False
