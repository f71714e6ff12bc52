"""CISPO (MiniMax-M1, arXiv 2506.13585), with the bounds of ScaleRL (arXiv 2510.13786)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.groups import Groups
from tpo_dist.objective.surrogate import Surrogate


@dataclass(frozen=True, slots=True, kw_only=True)
class CISPO(Surrogate):
    """loss = -mean_tokens sg[clip(rho_t, 1 - low, 1 + high)] A_t log pi_t (MiniMax-M1, Eqs. 4 and 5).

    The clip bounds the weight of a token but never takes its gradient away. Mean over all tokens of the batch.
    """

    clip_low: float | None = 1.0
    """The weight is clipped to at least 1 - clip_low."""
    clip_high: float | None = 4.0
    """The weight is clipped to at most 1 + clip_high."""

    def __post_init__(self) -> None:
        Surrogate.__post_init__(self)
        if self.clip_low is None:
            raise UsageError(
                "clip_low = None", "without a clip this is not CISPO", "give numbers, or take rloo or dapo"
            )
        if self.dual_clip is not None:
            raise UsageError(
                f"dual_clip = {self.dual_clip}", "the weight is bounded from above by clip_high", "leave it out"
            )

    def _values(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        assert self.clip_low is not None
        assert self.clip_high is not None
        weight_GKT = self._ratio(logps_GKT.detach(), groups).clamp(1.0 - self.clip_low, 1.0 + self.clip_high)
        return weight_GKT * signal * torch.where(groups.live, logps_GKT, 0.0)
