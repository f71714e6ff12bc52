"""Proximal Policy Optimization without a critic (arXiv 1707.06347), as the TPO paper runs it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.groups import Groups, candidate_mean, token_sum
from tpo_dist.objective.ratios import log_ratios
from tpo_dist.objective.reinforce import single_sample_advantages


def ppo_loss(logps_GKT: Tensor, groups: Groups, advantages_GKT: Tensor, clip: float) -> Tensor:
    """-mean_candidates sum_t min(rho_t A_t, clip(rho_t, 1 - clip, 1 + clip) A_t) (PPO, Eq. 7): a scalar."""
    ratio_GKT = log_ratios(logps_GKT, groups.old_logps_GKT, groups.mask_GKT).exp()
    clipped_GKT = ratio_GKT.clamp(1.0 - clip, 1.0 + clip)
    value_GKT = torch.minimum(ratio_GKT * advantages_GKT, clipped_GKT * advantages_GKT)
    return -candidate_mean(token_sum(value_GKT, groups.mask_GKT), groups.present_GK)


@dataclass(frozen=True, slots=True, kw_only=True)
class PPO:
    """Clipped surrogate per token; A_t = r_t minus the batch mean at that position."""

    clip: float = 0.2
    """The ratio is clipped to [1 - clip, 1 + clip]."""

    epochs: ClassVar[int] = 4
    min_group_size: ClassVar[int] = 1
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.clip < 1:
            raise UsageError(f"clip = {self.clip}", "the ratio is kept in [1 - clip, 1 + clip]", "give 0 < clip < 1")

    def signal(self, groups: Groups) -> Tensor:
        """Advantages A [G, K, T]."""
        return single_sample_advantages(groups)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """Sum over the tokens of a candidate, mean over candidates."""
        return ppo_loss(logps_GKT, groups, signal, self.clip)

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Nothing: there is no target."""
        return {}
