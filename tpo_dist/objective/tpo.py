"""Target Policy Optimization (Kaddour 2026, arXiv 2604.06159)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.diagnostics import target_diagnostics
from tpo_dist.objective.distribution import GroupDistribution, group_logits
from tpo_dist.objective.groups import Groups
from tpo_dist.objective.scores import standardised_scores, zero_variance
from tpo_dist.objective.target import target_cross_entropy, tpo_target, tpo_target_no_anchor
from tpo_dist.objective.temperature import solve_temperature, tilt_divergence

PAPER_LENGTH = 10
"""Tokens of the paper's longest outputs with scores for whole answers; its `sequence` is what runs up to there take."""
LONG: GroupDistribution = "ratio"
"""What runs with longer outputs take (study `long_outputs`)."""
ETA_RANGE = 1e4
"""Factor by which a KL budget may move eta either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TPO:
    """loss = -mean_groups sum_i q_i log p_i, with q_i proportional to p_i^old exp(u_i / eta) (Eqs. 1 to 3).

    A group whose scores are all equal has q = p_old: its gradient is exactly zero while the policy is the snapshot,
    and an anchor back to it in later epochs. It is never masked.
    """

    eta: float = 1.0
    """Temperature of the target; smaller trusts the scores more."""
    group_distribution: GroupDistribution | None = None
    """sequence (the paper's), length_mean or ratio: see `distribution.py`. null: in a run, sequence for outputs of up
    to 10 tokens, the paper's longest, and ratio for longer ones; elsewhere sequence."""
    score_floor: float = 0.0
    """f in u = (s - mean) / sqrt(var + f^2) (ours): scores that differ by much less than f hardly count."""
    kl_budget: float | None = None
    """Nats (ours). Each batch then has the eta, within a factor of 10^4 of `eta`, at which KL(q | p_old), averaged over
    the groups whose scores differ, equals the budget; the nearer end where none does."""
    dg_gate: bool = False
    """Weigh each group's cross-entropy by sigmoid(sum_i q_i u_i (-log p_i^old) / dg_eta) (ours): DG's gate, delight
    being score times surprisal, for whole groups. Frozen like the target; 1/2 for a group without preference, near 1
    where the target wants what the snapshot found unlikely. It scales p - q, never turns it."""
    dg_eta: float = 1.0
    """Temperature of that gate."""

    epochs: ClassVar[int] = 4
    min_group_size: ClassVar[int] = 2
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise UsageError(f"eta = {self.eta}", "the target divides the scores by it", "give a number above 0")
        if self.score_floor < 0:
            raise UsageError(f"score_floor = {self.score_floor}", "it is added to a deviation", "give 0 or more")
        if self.kl_budget is not None and not self.kl_budget > 0:
            raise UsageError(
                f"kl_budget = {self.kl_budget}", "the target could not leave p_old", "give a number above 0"
            )
        if not self.dg_eta > 0:
            raise UsageError(f"dg_eta = {self.dg_eta}", "the gate divides by it", "give a number above 0")

    def signal(self, groups: Groups) -> Tensor:
        """The target q [G, K]."""
        return tpo_target(self._logits(groups.old_logps_GKT, groups), self._scores(groups), self._temperature(groups))

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """Cross-entropy from the target to the policy over each group, mean over groups."""
        loss_G = target_cross_entropy(self._logits(logps_GKT, groups), signal)
        if self.dg_gate:
            loss_G = loss_G * self._gate(groups, signal)
        return loss_G.mean()

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Effective group size, p_max, sum|q - p_old| and KL(q | p_old); the eta in use where a budget sets it."""
        p_old_GK = self.probabilities(groups.old_logps_GKT, groups)
        numbers = target_diagnostics(p_old_GK, signal)
        return numbers if self.kl_budget is None else {**numbers, "eta": self._temperature(groups)}

    def probabilities(self, logps_GKT: Tensor, groups: Groups) -> Tensor:
        """The policy over each group, p [G, K] (Eq. 1)."""
        return torch.softmax(self._logits(logps_GKT, groups), dim=-1)

    def _logits(self, logps_GKT: Tensor, groups: Groups) -> Tensor:
        distribution = self.group_distribution or "sequence"
        return group_logits(logps_GKT, groups.old_logps_GKT, groups.mask_GKT, groups.present_GK, distribution)

    def _scores(self, groups: Groups) -> Tensor:
        dtype = groups.old_logps_GKT.dtype
        return standardised_scores(groups.scores_GK, groups.present_GK, dtype, floor=self.score_floor)

    def _temperature(self, groups: Groups) -> float:
        budget = self.kl_budget
        active_G = ~zero_variance(groups.scores_GK, groups.present_GK)
        if budget is None or not bool(active_G.any()):
            return self.eta
        logits_GK = self._logits(groups.old_logps_GKT, groups).double()[active_G]
        u_GK = self._scores(groups).double()[active_G]
        low, high = self.eta / ETA_RANGE, self.eta * ETA_RANGE
        return solve_temperature(lambda eta: tilt_divergence(logits_GK, u_GK, eta).mean().item(), budget, low, high)

    def _gate(self, groups: Groups, target_GK: Tensor) -> Tensor:
        log_p_GK = torch.log_softmax(self._logits(groups.old_logps_GKT, groups), dim=-1)
        delight_GK = torch.where(target_GK > 0, -target_GK * self._scores(groups) * log_p_GK, 0.0)
        return torch.sigmoid(delight_GK.sum(dim=-1) / self.dg_eta)


@dataclass(frozen=True, slots=True, kw_only=True)
class TPONoAnchor(TPO):
    """The ablation with q = softmax(u / eta): the target forgets the snapshot (section 3.7)."""

    def __post_init__(self) -> None:
        TPO.__post_init__(self)
        if self.kl_budget is not None:
            reason = "the ablation forgets the snapshot that the budget measures from"
            raise UsageError(f"kl_budget = {self.kl_budget}", reason, "leave it out, or take tpo")

    def signal(self, groups: Groups) -> Tensor:
        """The target q [G, K], without p_old."""
        return tpo_target_no_anchor(self._scores(groups), groups.present_GK, self.eta)
