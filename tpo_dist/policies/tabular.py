"""A table of logits: one row per context, one column per arm (arXiv 2604.06159, sections 3.1 and 3.2)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tpo_dist.errors import UsageError
from tpo_dist.policies.contexts import ContextPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class TabularOptions:
    """How the table starts."""

    initial_std: float = 0.0
    """Deviation of the initial logits, drawn from a normal around 0; 0 makes every arm equally likely."""

    def __post_init__(self) -> None:
        if not 0 <= self.initial_std < float("inf"):
            raise UsageError(f"initial_std = {self.initial_std}", "is no deviation", "give 0 or more")

    def build_for_contexts(
        self, arms: int, context_count: int, features: NDArray[np.float32] | None, seed: int
    ) -> "TabularPolicy":
        """The table; it does not look at features."""
        return TabularPolicy(self, arms, context_count, seed)


class TabularPolicy(ContextPolicy):
    """Contexts share nothing: each has logits of its own."""

    def __init__(self, options: TabularOptions, arms: int, context_count: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(options.initial_std * torch.randn(context_count, arms, generator=generator))

    def logits(self, contexts_G: Tensor) -> Tensor:
        """Rows of the table."""
        return self.table.index_select(0, contexts_G)
