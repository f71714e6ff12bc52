"""Delightful policy gradient (Osband 2026, arXiv 2603.14608)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.groups import Groups
from tpo_dist.objective.reinforce import single_sample_advantages, weighted_likelihood_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class DG:
    """loss = -mean sum_t w_t log pi_t, w = stop_grad(sigmoid(A (-log pi) / eta) A): delight gates each token.

    One epoch per batch: the method has no trust region and diverges with more (arXiv 2604.06159, appendix E).
    """

    eta: float = 1.0
    """Temperature of the gate."""

    epochs: ClassVar[int] = 1
    min_group_size: ClassVar[int] = 1
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise UsageError(f"eta = {self.eta}", "the gate divides by it", "give a number above 0")

    def signal(self, groups: Groups) -> Tensor:
        """Advantages A [G, K, T]."""
        return single_sample_advantages(groups)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """Sum over the tokens of a candidate, mean over candidates; the gate follows the current policy."""
        surprisal_GKT = torch.where(groups.mask_GKT, -logps_GKT.detach(), 0.0)
        gate_GKT = torch.sigmoid(signal * surprisal_GKT / self.eta)
        return weighted_likelihood_loss(logps_GKT, groups, gate_GKT * signal)

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Nothing: there is no target."""
        return {}
