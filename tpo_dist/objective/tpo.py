"""Target Policy Optimization (Kaddour 2026, arXiv 2604.06159)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.diagnostics import target_diagnostics
from tpo_dist.objective.distribution import GroupDistribution, group_logits
from tpo_dist.objective.groups import Groups
from tpo_dist.objective.scores import standardised_scores
from tpo_dist.objective.target import target_cross_entropy, tpo_target, tpo_target_no_anchor


@dataclass(frozen=True, slots=True, kw_only=True)
class TPO:
    """loss = -mean_groups sum_i q_i log p_i, with q_i proportional to p_i^old exp(u_i / eta) (Eqs. 1 to 3).

    A group whose scores are all equal has q = p_old: its gradient is exactly zero while the policy is the snapshot,
    and an anchor back to it in later epochs. It is never masked.
    """

    eta: float = 1.0
    """Temperature of the target; smaller trusts the scores more."""
    group_distribution: GroupDistribution = "sequence"
    """sequence (the paper's), length_mean or ratio: see `distribution.py`."""

    epochs: ClassVar[int] = 4
    min_group_size: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise UsageError(f"eta = {self.eta}", "the target divides the scores by it", "give a number above 0")

    def signal(self, groups: Groups) -> Tensor:
        """The target q [G, K]."""
        u_GK = standardised_scores(groups.scores_GK, groups.present_GK, groups.old_logps_GKT.dtype)
        return tpo_target(self._logits(groups.old_logps_GKT, groups), u_GK, self.eta)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """Cross-entropy from the target to the policy over each group, mean over groups."""
        return target_cross_entropy(self._logits(logps_GKT, groups), signal).mean()

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Effective group size, p_max, sum|q - p_old| and KL(q | p_old)."""
        p_old_GK = torch.softmax(self._logits(groups.old_logps_GKT, groups), dim=-1)
        return target_diagnostics(p_old_GK, signal)

    def _logits(self, logps_GKT: Tensor, groups: Groups) -> Tensor:
        return group_logits(
            logps_GKT, groups.old_logps_GKT, groups.mask_GKT, groups.present_GK, self.group_distribution
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TPONoAnchor(TPO):
    """The ablation with q = softmax(u / eta): the target forgets the snapshot (section 3.7)."""

    def signal(self, groups: Groups) -> Tensor:
        """The target q [G, K], without p_old."""
        u_GK = standardised_scores(groups.scores_GK, groups.present_GK, groups.old_logps_GKT.dtype)
        return tpo_target_no_anchor(u_GK, groups.present_GK, self.eta)
