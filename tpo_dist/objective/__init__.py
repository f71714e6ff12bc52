"""The mathematics: plain tensors and floats in, tensors out. Knows nothing of configs, records or Ray."""

from tpo_dist.objective.contract import Evaluation, Objective, evaluate, mean_kl, wants_reference, weigh
from tpo_dist.objective.corrections import CORRECTIONS, Correction, effective_sample_size
from tpo_dist.objective.diagnostics import target_diagnostics
from tpo_dist.objective.distribution import GroupDistribution, group_logits
from tpo_dist.objective.groups import Groups, make_groups
from tpo_dist.objective.progress import Progress, group_probabilities, progress
from tpo_dist.objective.registry import OBJECTIVES, Method
from tpo_dist.objective.scores import standardised_scores, zero_variance
from tpo_dist.objective.target import target_cross_entropy, tpo_target, tpo_target_no_anchor

__all__ = [
    "CORRECTIONS",
    "OBJECTIVES",
    "Correction",
    "Evaluation",
    "GroupDistribution",
    "Groups",
    "Method",
    "Objective",
    "Progress",
    "effective_sample_size",
    "evaluate",
    "group_logits",
    "group_probabilities",
    "make_groups",
    "mean_kl",
    "progress",
    "standardised_scores",
    "target_cross_entropy",
    "target_diagnostics",
    "tpo_target",
    "tpo_target_no_anchor",
    "wants_reference",
    "weigh",
    "zero_variance",
]
