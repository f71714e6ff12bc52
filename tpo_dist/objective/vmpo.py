"""V-MPO on the scores of groups (Song et al. 2019, arXiv 1909.12238)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.groups import Groups, token_sum
from tpo_dist.objective.ratios import k3, log_ratios
from tpo_dist.objective.scores import moments
from tpo_dist.objective.surrogate import aggregate
from tpo_dist.objective.temperature import solve_temperature, tilt_divergence


@dataclass(frozen=True, slots=True, kw_only=True)
class VMPO:
    """loss = -sum_i psi_i l_i + alpha mean_tokens KL(pi_old | pi), psi = softmax(A / eta) over the top half.

    A is the score minus the group's mean; the top half is that of the batch: the candidates at or above the median,
    ties included. eta minimises the dual eta eps + eta log mean exp(A / eta); its slope is eps - KL(psi | uniform), so
    the minimum is found by bisection. A batch without any preference has psi = 0: among equals there is no top half.
    The paper learns alpha as a multiplier across batches; an objective has no memory, so it is fixed here.
    """

    epsilon: float = 0.1
    """KL (nats) between psi and equal weights that the dual allows; the paper's for discrete actions."""
    alpha: float = 5.0
    """Weight of the KL to the snapshot: the paper's initial value. It acts from the second epoch on."""

    epochs: ClassVar[int] = 1
    min_group_size: ClassVar[int] = 2
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise UsageError(f"epsilon = {self.epsilon}", "no temperature is cold enough", "give a number above 0")
        if self.alpha < 0:
            raise UsageError(f"alpha = {self.alpha}", "a negative weight would reward drifting away", "give 0 or more")

    def signal(self, groups: Groups) -> Tensor:
        """Weights psi [G, K]; they sum to 1 over the batch."""
        top_GK, advantages_GK = _top_half(groups)
        weights_GK = torch.zeros_like(advantages_GK)
        if bool(top_GK.any()):
            chosen = advantages_GK[top_GK]
            weights_GK[top_GK] = torch.softmax(chosen / self._temperature(chosen), dim=-1)
        return weights_GK.to(groups.old_logps_GKT.dtype)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """Weighted likelihood, summed over the batch, and the KL to the snapshot, mean over all tokens."""
        loss = -(signal * token_sum(logps_GKT, groups.live)).sum()
        if self.alpha > 0:
            log_ratio_GKT = log_ratios(logps_GKT, groups.old_logps_GKT, groups.live)
            loss = loss + self.alpha * aggregate(k3(-log_ratio_GKT), groups, "token_mean")
        return loss

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """The temperature that the dual gives; absent where nothing is preferred."""
        top_GK, advantages_GK = _top_half(groups)
        return {"eta": self._temperature(advantages_GK[top_GK])} if bool(top_GK.any()) else {}

    def _temperature(self, chosen: Tensor) -> float:
        spread = max((chosen.max() - chosen.min()).item(), 1e-12)
        equal = torch.zeros_like(chosen)
        # Beyond these ends psi is one-hot or equal to nine digits, whatever the scores.
        return solve_temperature(
            lambda eta: tilt_divergence(equal, chosen, eta).item(), self.epsilon, 1e-5 * spread, 1e5 * spread
        )


def _top_half(groups: Groups) -> tuple[Tensor, Tensor]:
    """Which candidates are at or above the median advantage of the batch, and the advantages, in float64."""
    advantages_GK, _ = moments(groups.scores_GK, groups.present_GK)
    present = advantages_GK[groups.present_GK]
    if bool(present.max() == present.min()):
        return torch.zeros_like(groups.present_GK), advantages_GK
    # The upper median: with an even count and no ties, exactly half is kept.
    threshold = present.sort(descending=True).values[(len(present) - 1) // 2]
    return groups.present_GK & (advantages_GK >= threshold), advantages_GK
