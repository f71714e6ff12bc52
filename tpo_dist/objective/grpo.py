"""Group Relative Policy Optimization as the TPO paper runs it (DeepSeekMath, arXiv 2402.03300; appendix F)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.groups import Groups, group_sum_mean, token_sum
from tpo_dist.objective.ratios import k3
from tpo_dist.objective.scores import group_advantages, zero_variance


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPO:
    """loss = -mean_groups sum_i (min(rho A, clip(rho) A) - beta k3), rho = exp(clamp(l - l_old, -20, 20)).

    DeepSeekMath Eq. 3 with one ratio for the whole candidate and the KL taken to the rollout snapshot; A is z-scored
    in the group.
    """

    clip: float = 0.2
    """The ratio is clipped to [1 - clip, 1 + clip]."""
    beta: float = 0.04
    """Weight of the KL to the snapshot; 0 switches it off."""
    mask_zero_variance: bool = False
    """Leave out groups whose scores are all equal, KL included: mean over the others, as in the author's code."""

    epochs: ClassVar[int] = 4
    min_group_size: ClassVar[int] = 2
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.clip < 1:
            raise UsageError(f"clip = {self.clip}", "the ratio is kept in [1 - clip, 1 + clip]", "give 0 < clip < 1")
        if self.beta < 0:
            raise UsageError(f"beta = {self.beta}", "a negative weight would reward drifting away", "give 0 or more")

    def signal(self, groups: Groups) -> Tensor:
        """Advantages A [G, K]."""
        return group_advantages(groups.scores_GK, groups.present_GK, groups.old_logps_GKT.dtype)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """Clipped surrogate with the KL penalty, summed over candidates, mean over the groups that count."""
        log_ratio_GK = token_sum(logps_GKT - groups.old_logps_GKT, groups.mask_GKT).clamp(-20.0, 20.0)
        ratio_GK = log_ratio_GK.exp()
        clipped_GK = ratio_GK.clamp(1.0 - self.clip, 1.0 + self.clip)
        value_GK = torch.minimum(ratio_GK * signal, clipped_GK * signal)
        if self.beta > 0:
            value_GK = value_GK - self.beta * k3(log_ratio_GK)
        if self.mask_zero_variance:
            keep_G = ~zero_variance(groups.scores_GK, groups.present_GK)
            kept = torch.where(keep_G.unsqueeze(-1) & groups.present_GK, value_GK, 0.0).sum()
            return -kept / keep_G.sum().clamp(min=1)
        return -group_sum_mean(value_GK, groups.present_GK)

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Nothing: there is no target."""
        return {}
