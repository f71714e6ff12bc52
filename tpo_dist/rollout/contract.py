"""What a sampler is: frozen weights that turn prompts into candidates.

Shapes: G groups (one prompt each), K candidates, T tokens of a candidate.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tpo_dist.records import Prompts, Snapshot
from tpo_dist.weight_group import Announcement, Sender


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Candidates:
    """Sampled and not yet scored: this never leaves the worker."""

    tokens_GKT: NDArray[np.int32]
    """Padded behind each candidate's end."""
    lengths_GK: NDArray[np.int32]
    logps_GKT: NDArray[np.float32]
    """Log-probs (nats) of the distribution that each token was drawn from."""
    stop_reasons_GK: NDArray[np.int8]
    """`StopReason` of each candidate."""
    greedy_GT: NDArray[np.int32] | None = None
    """The greedy completion of each prompt, where the objective asks for one."""
    greedy_lengths_G: NDArray[np.int32] | None = None
    """Tokens of each; None: as many as its first candidate has."""
    versions_GKT: NDArray[np.int64] | None = None
    """Which weights drew each token, where they changed on the way; None: those under which the block was asked for."""


class Sampler(Protocol):
    """Draws candidates from the snapshot that it loaded last."""

    @property
    def version(self) -> int | None:
        """The version of the loaded snapshot; None before the first."""
        ...

    @property
    def digest(self) -> str:
        """The checksum of the weights in the sampler's memory, taken at loading or, where asked for, at every block."""
        ...

    def load(self, snapshot: Snapshot) -> None:
        """Take over these weights. Raises WrongWeights where they are not what the snapshot says."""
        ...

    def sample(self, prompts: Prompts, group_size: int) -> Candidates:
        """K candidates for each prompt, a pure function of weights, seed and draw ids.

        Batched arithmetic rounds differently in different company: samplers of language models are such a function for
        equal blocks, and across blocks up to a token on the edge. A candidate's end token is its last token, and has a
        log-prob; so a completion that says nothing has length 1.
        """
        ...


@runtime_checkable
class StreamingSampler(Sampler, Protocol):
    """A sampler that works on many blocks at a time, and takes new weights while it does."""

    @property
    def pending(self) -> int:
        """Blocks that were submitted and not yet handed out."""
        ...

    def submit(self, key: int, prompts: Prompts, group_size: int) -> None:
        """Begin a block of K candidates for each prompt; `step` hands it out under this key."""
        ...

    def step(self) -> list[tuple[int, Candidates]]:
        """Let the engine work for about one token of each candidate; the blocks whose last candidate ended since."""
        ...

    @property
    def in_flight(self) -> bool:
        """Whether `load` may come while blocks are under way: the rest of them is sampled from the new weights."""
        ...


class Streaming:
    """What the options of samplers that stream inherit from."""

    __slots__ = ()


@runtime_checkable
class FetchingSampler(Sampler, Protocol):
    """A sampler whose engine takes weights from the learner itself, by a process group."""

    def fetch(self, announced: Announcement, sender: Sender) -> None:
        """Take over announced weights. Raises WeightsLost where they do not arrive, WrongWeights as `load` does."""
        ...


class WeightsLost(RuntimeError):
    """Announced weights did not arrive; the sampler still has those that it had."""


class WrongWeights(RuntimeError):
    """The weights in a process are not those that their version and digest promise."""
