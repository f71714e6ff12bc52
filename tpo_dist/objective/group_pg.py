"""Group PG: TPO's scores without its target (arXiv 2604.06159, section 3.7 and appendix C)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tpo_dist.objective.groups import Groups, group_sum_mean, token_sum
from tpo_dist.objective.scores import standardised_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPG:
    """loss = -mean_groups sum_i u_i l_i, with the same standardised scores u as TPO and l the summed log-prob."""

    epochs: ClassVar[int] = 4
    min_group_size: ClassVar[int] = 2
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def signal(self, groups: Groups) -> Tensor:
        """Standardised scores u [G, K]."""
        return standardised_scores(groups.scores_GK, groups.present_GK, groups.old_logps_GKT.dtype)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """Score-weighted log-likelihood, summed over the candidates of a group, mean over groups."""
        return -group_sum_mean(signal * token_sum(logps_GKT, groups.mask_GKT), groups.present_GK)

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Nothing: there is no target."""
        return {}
