"""Delightful policy gradient (Osband 2026, arXiv 2603.14608)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.groups import Groups, token_sum
from tpo_dist.objective.reinforce import single_sample_advantages, weighted_likelihood_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class DG:
    """loss = -mean sum_t w_t log pi_t, w = stop_grad(sigmoid(A (-log pi) / eta) A): delight gates each token.

    With `gate="candidate"` all tokens of a candidate have one gate, of the delight summed over them: gates of their own
    take the gradient from the rare tokens of a failure, which are useful mistakes too. One epoch per batch: the method
    has no trust region and diverges with more (arXiv 2604.06159, appendix E).
    """

    eta: float = 1.0
    """Temperature of the gate."""
    gate: Literal["token", "candidate"] = "token"
    """What is gated: each token by itself, as in the paper's sequences, or a candidate as a whole, the default for
    language models."""

    epochs: ClassVar[int] = 1
    min_group_size: ClassVar[int] = 1
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise UsageError(f"eta = {self.eta}", "the gate divides by it", "give a number above 0")

    def signal(self, groups: Groups) -> Tensor:
        """Advantages A [G, K, T]."""
        return single_sample_advantages(groups)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """Sum over the tokens of a candidate, mean over candidates; the gate follows the current policy."""
        delight_GKT = torch.where(groups.mask_GKT, -logps_GKT.detach(), 0.0) * signal
        if self.gate == "candidate":
            delight_GKT = token_sum(delight_GKT, groups.mask_GKT).unsqueeze(-1)
        return weighted_likelihood_loss(logps_GKT, groups, torch.sigmoid(delight_GKT / self.eta) * signal)

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Nothing: there is no target."""
        return {}
