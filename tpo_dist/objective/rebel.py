"""REBEL: regression to relative rewards (Gao et al. 2024, arXiv 2404.16767)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.groups import Groups, token_sum
from tpo_dist.objective.scores import moments


@dataclass(frozen=True, slots=True, kw_only=True)
class REBEL:
    """loss = mean over pairs i < j of a group of ((d_i - d_j) - eta (r_i - r_j))^2, d = l - l_old; mean over groups.

    Algorithm 1 of the paper for every pair of the group instead of one, with its residual multiplied by eta. l is the
    summed log-prob of a candidate.
    """

    eta: float = 1.0
    """How far a difference of rewards moves a difference of log-probs (nats per unit of reward)."""

    epochs: ClassVar[int] = 4
    min_group_size: ClassVar[int] = 2
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise UsageError(
                f"eta = {self.eta}", "it says how far the rewards move the policy", "give a number above 0"
            )

    def signal(self, groups: Groups) -> Tensor:
        """Rewards minus their group's mean [G, K]; only differences count."""
        return moments(groups.scores_GK, groups.present_GK)[0].to(groups.old_logps_GKT.dtype)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """Mean squared residual of all pairs, which is twice the sample variance of d - eta r; mean over groups."""
        present_GK = groups.present_GK
        residual_GK = token_sum(logps_GKT - groups.old_logps_GKT, groups.mask_GKT) - self.eta * signal
        residual_GK = torch.where(present_GK, residual_GK, 0.0)
        sizes_G1 = present_GK.sum(dim=-1, keepdim=True)
        centred_GK = torch.where(present_GK, residual_GK - residual_GK.sum(dim=-1, keepdim=True) / sizes_G1, 0.0)
        return (2.0 * centred_GK.square() / (sizes_G1 - 1).clamp(min=1)).sum(dim=-1).mean()

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Nothing: there is no target."""
        return {}
