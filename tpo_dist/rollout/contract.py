"""What a sampler is: frozen weights that turn prompts into candidates.

Shapes: G groups (one prompt each), K candidates, T tokens of a candidate.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tpo_dist.records import Prompts, Snapshot


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
        """K candidates for each prompt, a pure function of weights, seed and draw ids."""
        ...


class WrongWeights(RuntimeError):
    """The weights in a process are not those that their version and digest promise."""
