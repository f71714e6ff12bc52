"""Group Sequence Policy Optimization (Zheng et al. 2025, arXiv 2507.18071)."""

from dataclasses import dataclass

from torch import Tensor

from tpo_dist.objective.groups import Groups
from tpo_dist.objective.ratios import BOUND, log_ratios
from tpo_dist.objective.surrogate import Aggregation, Surrogate


@dataclass(frozen=True, slots=True, kw_only=True)
class GSPO(Surrogate):
    """The ratio is one for the whole candidate, s = exp(mean_t(log pi_t - log old_t)) (Eqs. 5 and 7).

    Each token carries it as sg[s] pi_t / sg[pi_t] (GSPO-token, Eqs. 13 and 14), so that its gradient is s / length.
    Mean over the tokens of a candidate, then over candidates. The ratio hardly leaves 1: so do the clips.
    """

    clip_low: float | None = 3e-4
    """The ratio is clipped to at least 1 - clip_low."""
    clip_high: float | None = 4e-4
    """The ratio is clipped to at most 1 + clip_high."""
    aggregation: Aggregation = "sequence_mean"
    """token_mean, sequence_mean or constant_length."""

    def _ratio(self, logps_GKT: Tensor, groups: Groups) -> Tensor:
        live_GKT = groups.live
        lengths_GK1 = live_GKT.sum(dim=-1, keepdim=True).clamp(min=1)
        drift_GKT = (logps_GKT.detach() - groups.old_logps_GKT).where(live_GKT, 0.0)
        mean_GK1 = (drift_GKT.sum(dim=-1, keepdim=True) / lengths_GK1).clamp(-BOUND, BOUND)
        return (mean_GK1 + log_ratios(logps_GKT, logps_GKT.detach(), live_GKT)).exp()
