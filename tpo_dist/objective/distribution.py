"""The policy over a group: which numbers the softmax over the K candidates is taken of."""

from typing import Literal

import torch
from torch import Tensor

from tpo_dist.objective.groups import token_sum

GroupDistribution = Literal["sequence", "length_mean", "ratio"]
"""sequence: the paper's Eq. 1, p = softmax(l), l the summed log-prob of a candidate.
length_mean: p = softmax(l / number of tokens), the author's form for language models (huggingface/trl#5591).
ratio: p = softmax(l - l_old), uniform under the snapshot: the candidates were drawn from it, so the draw already
weights them once. Its stationary points are those of Eq. 2; it does not collapse on long outputs."""


def group_logits(
    logps_GKT: Tensor, old_logps_GKT: Tensor, mask_GKT: Tensor, present_GK: Tensor, distribution: GroupDistribution
) -> Tensor:
    """Logits [G, K] of the policy over each group; -inf where a candidate does not exist.

    Pass the same tensor twice for the logits under the snapshot.
    """
    if distribution == "sequence":
        logits_GK = token_sum(logps_GKT, mask_GKT)
    elif distribution == "length_mean":
        logits_GK = token_sum(logps_GKT, mask_GKT) / mask_GKT.sum(dim=-1).clamp(min=1)
    elif distribution == "ratio":
        logits_GK = token_sum(logps_GKT - old_logps_GKT, mask_GKT)
    else:
        raise ValueError(f"group distribution {distribution!r} is not one of sequence, length_mean, ratio")
    return torch.where(present_GK, logits_GK, -torch.inf)
