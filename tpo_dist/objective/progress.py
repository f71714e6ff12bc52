"""How far the policy has come within a batch: away from the snapshot, and towards its target."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_dist.objective.contract import Objective
from tpo_dist.objective.diagnostics import kl_divergence, target_distance
from tpo_dist.objective.distribution import group_logits
from tpo_dist.objective.groups import Groups, candidate_mean, token_sum
from tpo_dist.objective.ratios import BOUND, divergence_under_base, log_ratios
from tpo_dist.objective.tpo import TPO


@dataclass(frozen=True, slots=True)
class Progress:
    """Means over the groups of a batch."""

    kl: float
    """KL(p | p_old) over each group in nats where the method has a group distribution; else KL(pi | pi_old) of whole
    candidates, as those that pi_old drew estimate it: the mean of rho log rho - rho + 1."""
    distance: float | None
    """sum|p - q| between 0 and 2, where the method builds a target."""


def group_probabilities(objective: Objective, logps_GKT: Tensor, groups: Groups) -> Tensor:
    """The policy over each group [G, K]: as the method itself defines it, where it has a group distribution; else the
    paper's Eq. 1, the softmax of summed log-probs."""
    if isinstance(objective, TPO):
        return objective.probabilities(logps_GKT, groups)
    old_GKT, present_GK = groups.old_logps_GKT, groups.present_GK
    return torch.softmax(group_logits(logps_GKT, old_GKT, groups.mask_GKT, present_GK, "sequence"), dim=-1)


@torch.no_grad()
def progress(objective: Objective, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Progress:
    """Where the policy stands at these log-probs."""
    if isinstance(objective, TPO):
        p_GK = objective.probabilities(logps_GKT, groups)
        p_old_GK = objective.probabilities(groups.old_logps_GKT, groups)
        return Progress(kl_divergence(p_GK, p_old_GK).mean().item(), target_distance(p_GK, signal).mean().item())
    moved_GK = token_sum(log_ratios(logps_GKT, groups.old_logps_GKT, groups.live), groups.mask_GKT)
    moved_GK = moved_GK.clamp(-BOUND, BOUND)
    return Progress(candidate_mean(divergence_under_base(moved_GK), groups.present_GK).item(), None)
