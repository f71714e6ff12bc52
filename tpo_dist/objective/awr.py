"""Advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.groups import Groups, candidate_mean, token_sum
from tpo_dist.objective.scores import group_advantages


@dataclass(frozen=True, slots=True, kw_only=True)
class AWR:
    """loss = -mean_candidates min(exp(A / beta), cap) l, l the summed log-prob (Algorithm 1).

    A is standardised in the group: the author's code standardises its advantages too, which is why beta is 1 there
    while the paper's text has 0.05 for raw ones. Every weight is positive: bad candidates are only pulled at less.
    """

    beta: float = 1.0
    """Temperature of the weights."""
    cap: float = 20.0
    """Largest weight."""

    epochs: ClassVar[int] = 5  # its code: 1000 mini-batches of 256 from a buffer of 50,000 in each iteration
    min_group_size: ClassVar[int] = 2
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("beta", "cap"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} = {getattr(self, name)}", "the weights need it", "give a number above 0")

    def signal(self, groups: Groups) -> Tensor:
        """Weights min(exp(A / beta), cap) [G, K]."""
        dtype = groups.old_logps_GKT.dtype
        advantages_GK = group_advantages(groups.scores_GK, groups.present_GK, torch.float64)
        return (advantages_GK / self.beta).exp().clamp(max=self.cap).to(dtype)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """Weighted log-likelihood, mean over candidates."""
        return -candidate_mean(signal * token_sum(logps_GKT, groups.mask_GKT), groups.present_GK)

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Nothing: there is no target."""
        return {}
