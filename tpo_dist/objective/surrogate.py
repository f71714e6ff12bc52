"""One token-level policy gradient, of which DAPO, Dr. GRPO, RLOO, REINFORCE++, ReMax and MaxRL are presets."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.advantages import AdvantageKind, advantages
from tpo_dist.objective.groups import Groups, candidate_mean
from tpo_dist.objective.ratios import k2, k3, log_ratios

Aggregation = Literal["token_mean", "sequence_mean", "constant_length"]
"""token_mean: mean over all tokens of the batch. sequence_mean: mean over the tokens of a candidate, then over the
candidates. constant_length: sum over the tokens of a candidate divided by `length`, mean over candidates."""


def aggregate(values_GKT: Tensor, groups: Groups, aggregation: Aggregation, length: int = 1) -> Tensor:
    """One number from a value per token: a scalar. What is not a sampled token does not count."""
    live_GKT = groups.live
    values_GKT = torch.where(live_GKT, values_GKT, 0.0)
    if aggregation == "token_mean":
        return values_GKT.sum() / live_GKT.sum().clamp(min=1)
    lengths = live_GKT.sum(dim=-1).clamp(min=1) if aggregation == "sequence_mean" else length
    return candidate_mean(values_GKT.sum(dim=-1) / lengths, groups.present_GK)


def clipped(ratio: Tensor, advantages: Tensor, low: float, high: float, dual: float | None = None) -> Tensor:
    """min(rho A, clip(rho, 1 - low, 1 + high) A) (PPO, Eq. 7), and no less than dual * A where A < 0.

    The second bound is Dual-clip PPO (arXiv 1912.09729, Eq. 5).
    """
    value = torch.minimum(ratio * advantages, ratio.clamp(1.0 - low, 1.0 + high) * advantages)
    if dual is None:
        return value
    return torch.where(advantages < 0, torch.maximum(value, dual * advantages), value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """loss = -agg min(rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t) + beta agg KL_t, rho_t = pi_t / old_t.

    With both clips None there is no ratio and the token's term is A_t log pi_t, as in REINFORCE. Methods of this
    family average over candidates, not over groups of summed candidates as the TPO paper's own baselines do.
    """

    clip_low: float | None = 0.2
    """The ratio is clipped to at least 1 - clip_low."""
    clip_high: float | None = 0.2
    """The ratio is clipped to at most 1 + clip_high."""
    dual_clip: float | None = None
    """Bound on the ratio of tokens with a negative advantage; 3 is usual."""
    aggregation: Aggregation = "token_mean"
    """token_mean, sequence_mean or constant_length."""
    length: int = 1
    """Divisor of constant_length; the token budget of a completion keeps its scale near that of the others."""
    beta: float = 0.0
    """Weight of the KL to the reference policy in the loss."""
    kl: Literal["k2", "k3"] = "k3"
    """Estimator of that KL."""
    reward_beta: float = 0.0
    """Weight of log pi_old - log pi_ref in the reward."""

    advantage: ClassVar[AdvantageKind] = "group_standardised"
    epochs: ClassVar[int] = 1
    min_group_size: ClassVar[int] = 2
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        low, high, dual = self.clip_low, self.clip_high, self.dual_clip
        if (low is None) != (high is None):
            raise UsageError(
                f"clip_low = {low}, clip_high = {high}", "one bound alone has no meaning", "set both or none"
            )
        if low is not None and not 0 < low <= 1:
            raise UsageError(f"clip_low = {low}", "the ratio is kept above 1 - clip_low", "give 0 < clip_low <= 1")
        if high is not None and not high > 0:
            raise UsageError(f"clip_high = {high}", "the ratio is kept below 1 + clip_high", "give a number above 0")
        if dual is not None and (low is None or not dual > 1):
            raise UsageError(
                f"dual_clip = {dual}", "it bounds a clipped ratio from above", "set clips and a bound above 1"
            )
        if self.length < 1:
            raise UsageError(f"length = {self.length}", "sums over tokens are divided by it", "give 1 or more")
        for name in ("beta", "reward_beta"):
            if getattr(self, name) < 0:
                reason = "a negative weight would reward drifting away"
                raise UsageError(f"{name} = {getattr(self, name)}", reason, "give 0 or more")

    def signal(self, groups: Groups) -> Tensor:
        """Advantages A [G, K, T]."""
        return advantages(self.advantage, groups, self.reward_beta)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """The aggregated surrogate with its KL penalty."""
        values_GKT = self._values(logps_GKT, groups, signal)
        if self.beta > 0:
            estimate = k2 if self.kl == "k2" else k3
            values_GKT = values_GKT - self.beta * estimate(log_ratios(logps_GKT, groups.reference, groups.live))
        return -aggregate(values_GKT, groups, self.aggregation, self.length)

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Nothing: there is no target."""
        return {}

    def _values(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        if self.clip_low is None or self.clip_high is None:
            return torch.where(groups.live, logps_GKT, 0.0) * signal
        return clipped(self._ratio(logps_GKT, groups), signal, self.clip_low, self.clip_high, self.dual_clip)

    def _ratio(self, logps_GKT: Tensor, groups: Groups) -> Tensor:
        return log_ratios(logps_GKT, groups.old_logps_GKT, groups.live).exp()
