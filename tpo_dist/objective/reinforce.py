"""REINFORCE with a batch-mean baseline (Williams 1992), the paper's PG."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tpo_dist.objective.groups import Groups, candidate_mean, token_sum
from tpo_dist.objective.scores import batch_advantages


def single_sample_advantages(groups: Groups) -> Tensor:
    """A = r minus the batch mean at that position [G, K, T]; a score without token rewards counts for every token."""
    rewards = groups.token_rewards_GKT
    if rewards is None:
        rewards = groups.scores_GK.unsqueeze(-1).expand_as(groups.old_logps_GKT)
    present_GKT = groups.mask_GKT & groups.present_GK.unsqueeze(-1)
    return batch_advantages(rewards, present_GKT, groups.old_logps_GKT.dtype)


def weighted_likelihood_loss(logps_GKT: Tensor, groups: Groups, weights_GKT: Tensor) -> Tensor:
    """-mean_candidates sum_t w_t log pi_t: a scalar whose gradient reaches the log-probs only."""
    values_GKT = torch.where(groups.mask_GKT, logps_GKT, 0.0) * weights_GKT.detach()
    return -candidate_mean(token_sum(values_GKT, groups.mask_GKT), groups.present_GK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforce:
    """loss = -mean_candidates sum_t A_t log pi_t."""

    epochs: ClassVar[int] = 1
    min_group_size: ClassVar[int] = 1
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def signal(self, groups: Groups) -> Tensor:
        """Advantages A [G, K, T]."""
        return single_sample_advantages(groups)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """Sum over the tokens of a candidate, mean over candidates."""
        return weighted_likelihood_loss(logps_GKT, groups, signal)

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Nothing: there is no target."""
        return {}
