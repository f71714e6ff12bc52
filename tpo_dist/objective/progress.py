"""How far the policy has come within a batch: away from the snapshot, and towards its target."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_dist.objective.contract import Objective
from tpo_dist.objective.diagnostics import kl_divergence, target_distance
from tpo_dist.objective.groups import Groups, candidate_mean, token_sum
from tpo_dist.objective.ratios import k3, log_ratios
from tpo_dist.objective.tpo import TPO


@dataclass(frozen=True, slots=True)
class Progress:
    """Means over the groups of a batch."""

    kl: float
    """KL(p | p_old) over each group in nats where the method has a group distribution; else the k3 estimate over
    candidates of KL(pi | pi_old)."""
    distance: float | None
    """sum|p - q| between 0 and 2, where the method builds a target."""


@torch.no_grad()
def progress(objective: Objective, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Progress:
    """Where the policy stands at these log-probs."""
    if isinstance(objective, TPO):
        p_GK = objective.probabilities(logps_GKT, groups)
        p_old_GK = objective.probabilities(groups.old_logps_GKT, groups)
        return Progress(kl_divergence(p_GK, p_old_GK).mean().item(), target_distance(p_GK, signal).mean().item())
    moved_GK = token_sum(log_ratios(logps_GKT, groups.old_logps_GKT, groups.live), groups.mask_GKT)
    return Progress(candidate_mean(k3(moved_GK.clamp(-20.0, 20.0)), groups.present_GK).item(), None)
