"""Off-policy corrections: frozen weights per token that multiply the gradient W = dloss/dlogp of any objective.

The ratio is that of the learner's policy at the start of the batch to the policy that sampled it. They differ where
the engine computes other numbers than the learner, and where the batch is stale.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.ratios import log_ratios


class Correction(Protocol):
    """A rule for the weights. Implementations are frozen dataclasses whose fields are the rule's options."""

    def weights(self, start_logps_GKT: Tensor, behavior_logps_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
        """Weights [G, K, T] from log-probs at the start of the batch and at sampling; 0 on padding. No gradient."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCorrection:
    """Every sampled token counts fully."""

    def weights(self, start_logps_GKT: Tensor, behavior_logps_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
        """1 at every sampled token."""
        return torch.where(mask_GKT, torch.ones_like(_log_ratios(start_logps_GKT, behavior_logps_GKT, mask_GKT)), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TIS:
    """Truncated importance sampling: min(rho_t, cap) (Ionides 2008; Yao et al. 2025 for engines)."""

    cap: float = 2.0
    """Largest weight."""

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise UsageError(f"cap = {self.cap}", "no token would count", "give a number above 0")

    def weights(self, start_logps_GKT: Tensor, behavior_logps_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
        """min(rho_t, cap)."""
        return torch.where(
            mask_GKT, _log_ratios(start_logps_GKT, behavior_logps_GKT, mask_GKT).exp().clamp(max=self.cap), 0.0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IcePop:
    """Masking: rho_t where it lies in [low, high], 0 elsewhere (Ling team 2025, ringtech.notion.site/icepop)."""

    low: float = 0.5
    """Smallest ratio that still counts."""
    high: float = 5.0
    """Largest ratio that still counts."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 <= self.high:
            where = f"low = {self.low}, high = {self.high}"
            raise UsageError(where, "tokens on policy have ratio 1 and must count", "give 0 <= low <= 1 <= high")

    def weights(self, start_logps_GKT: Tensor, behavior_logps_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
        """rho_t inside the band, 0 outside."""
        ratio_GKT = _log_ratios(start_logps_GKT, behavior_logps_GKT, mask_GKT).exp()
        return torch.where(mask_GKT & (ratio_GKT >= self.low) & (ratio_GKT <= self.high), ratio_GKT, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class VTrace:
    """For stale or reused batches: the product of min(c_bar, rho_i) over the tokens i <= t of the candidate.

    The trace coefficients of V-trace (arXiv 1802.01561, section 4.1) and Retrace (arXiv 1606.02647), used as
    weights of the tokens: what follows an unlikely token counts no more than that token. Neither paper weighs a
    likelihood with them; that use is ours to judge. Weights fall along long candidates, and with them the step.
    """

    c_bar: float = 1.0
    """Largest factor of one token."""

    def __post_init__(self) -> None:
        if not 0 < self.c_bar <= 1:
            raise UsageError(f"c_bar = {self.c_bar}", "above 1 the product explodes", "give 0 < c_bar <= 1")

    def weights(self, start_logps_GKT: Tensor, behavior_logps_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
        """prod_{i <= t} min(c_bar, rho_i)."""
        factors_GKT = _log_ratios(start_logps_GKT, behavior_logps_GKT, mask_GKT).clamp(max=math.log(self.c_bar))
        factors_GKT = torch.where(mask_GKT, factors_GKT, 0.0)  # padding before a token takes no factor
        return torch.where(mask_GKT, factors_GKT.cumsum(dim=-1).exp(), 0.0)


CORRECTIONS: dict[str, type[Correction]] = {
    "none": NoCorrection,
    "tis": TIS,
    "icepop": IcePop,
    "vtrace": VTrace,
}


def effective_sample_size(ratios: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of any number of weights: how many equal ones would say as much. 0 where all are 0."""
    weights = ratios.double() / ratios.double().amax().clamp(min=torch.finfo(torch.float64).tiny)
    return weights.sum().square() / weights.square().sum().clamp(min=torch.finfo(torch.float64).tiny)


def _log_ratios(start_logps_GKT: Tensor, behavior_logps_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
    if not start_logps_GKT.shape == behavior_logps_GKT.shape == mask_GKT.shape:
        shapes = [list(tensor.shape) for tensor in (start_logps_GKT, behavior_logps_GKT, mask_GKT)]
        raise ValueError(
            f"start, behavior and mask have shapes {shapes[0]}, {shapes[1]}, {shapes[2]}; expected one shape"
        )
    return log_ratios(start_logps_GKT.detach(), behavior_logps_GKT.detach(), mask_GKT)
