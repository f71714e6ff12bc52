"""Preference-based MPO: preference optimization as probabilistic inference (arXiv 2410.04166)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.groups import Groups, candidate_mean, token_sum
from tpo_dist.objective.ratios import k3, log_ratios
from tpo_dist.objective.scores import moments


@dataclass(frozen=True, slots=True, kw_only=True)
class PMPO:
    """loss = -alpha mean_{A > 0} l + (1 - alpha) mean_{A < 0} l + beta KL(pi_ref | pi).

    A is the score minus the group's mean and only its sign counts: above is accepted, below is rejected. The means are
    over the accepted and the rejected candidates of the batch, l is the summed log-prob; the KL is summed over tokens,
    mean over candidates, estimated by k3(-d), d = log pi - log pi_ref, whose gradient is zero at the reference.
    """

    alpha: float = 0.5
    """Weight of the accepted candidates; the rejected have 1 - alpha."""
    beta: float = 0.3
    """Weight of the KL to the reference policy."""

    epochs: ClassVar[int] = 1
    min_group_size: ClassVar[int] = 2
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha = {self.alpha}", "it shares one weight between two sides", "give 0 to 1")
        if self.beta < 0:
            raise UsageError(f"beta = {self.beta}", "a negative weight would reward drifting away", "give 0 or more")

    def signal(self, groups: Groups) -> Tensor:
        """1 for accepted candidates, -1 for rejected ones, 0 for those at the mean [G, K]."""
        return moments(groups.scores_GK, groups.present_GK)[0].sign().to(groups.old_logps_GKT.dtype)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """The two likelihoods and the KL."""
        live_GKT, present_GK = groups.live, groups.present_GK
        l_GK = token_sum(logps_GKT, live_GKT)
        loss = -self.alpha * candidate_mean(l_GK, present_GK & (signal > 0))
        loss = loss + (1.0 - self.alpha) * candidate_mean(l_GK, present_GK & (signal < 0))
        if self.beta > 0:
            kl_GKT = k3(-log_ratios(logps_GKT, groups.reference, live_GKT))
            loss = loss + self.beta * candidate_mean(token_sum(kl_GKT, live_GKT), present_GK)
        return loss

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Nothing: there is no target."""
        return {}
