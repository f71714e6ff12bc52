"""From scores to advantages [G, K, T]: the baselines and scales in which the token-level methods differ.

Computed in float64, like everything that centres scores; see `scores.py`.
"""

from typing import Literal

import torch
from torch import Tensor

from tpo_dist.objective.groups import Groups, token_sum
from tpo_dist.objective.scores import moments

AdvantageKind = Literal[
    "group_mean",
    "group_standardised",
    "leave_one_out",
    "mean_relative",
    "greedy",
    "batch_whitened",
    "returns_whitened",
]
"""group_mean: r_i - mean. group_standardised: (r_i - mean) / (std + 1e-8). leave_one_out: r_i - mean of the others.
mean_relative: (r_i - mean) / (mean + 1e-6), 0 where the mean is not above 0. greedy: r_i - r(greedy completion).
batch_whitened: r_i - mean, whitened over the tokens of the batch. returns_whitened: the return from each token on,
whitened over the tokens of the batch."""


def advantages(kind: AdvantageKind, groups: Groups, reward_beta: float) -> Tensor:
    """Advantages [G, K, T] of every sampled token, 0 elsewhere.

    `reward_beta` > 0 first subtracts reward_beta * (log pi_old - log pi_ref) from the reward: from the score of a
    candidate, summed over its tokens, or token by token where the kind works with returns.
    """
    live_GKT = groups.live
    if kind == "returns_whitened":
        values_GKT = _whiten(_returns(groups, reward_beta), live_GKT)
    else:
        values_GKT = _by_candidate(kind, groups, reward_beta).unsqueeze(-1).expand_as(live_GKT)
        if kind == "batch_whitened":
            values_GKT = _whiten(values_GKT, live_GKT)
    return torch.where(live_GKT, values_GKT, 0.0).to(groups.old_logps_GKT.dtype)


def _by_candidate(kind: AdvantageKind, groups: Groups, reward_beta: float) -> Tensor:
    scores_GK = groups.scores_GK.double()
    if reward_beta > 0:
        scores_GK = scores_GK - reward_beta * token_sum(_drift(groups), groups.mask_GKT)
    if kind == "greedy":
        if groups.greedy_scores_G is None:
            raise ValueError(
                "greedy_scores_G is None, but the greedy advantage is the score minus that of the greedy completion; "
                "decode one completion of each prompt greedily and pass its score"
            )
        return torch.where(groups.present_GK, scores_GK - groups.greedy_scores_G.double().unsqueeze(-1), 0.0)
    centred_GK, std_G1 = moments(scores_GK, groups.present_GK)
    if kind == "group_standardised":
        return centred_GK / (std_G1 + 1e-8)
    sizes_G1 = groups.present_GK.sum(dim=-1, keepdim=True)
    if kind == "leave_one_out":
        return centred_GK * sizes_G1 / (sizes_G1 - 1).clamp(min=1)
    if kind == "mean_relative":
        mean_G1 = torch.where(groups.present_GK, scores_GK, 0.0).sum(dim=-1, keepdim=True) / sizes_G1
        return torch.where(mean_G1 > 0, centred_GK / (mean_G1 + 1e-6), 0.0)
    return centred_GK


def _drift(groups: Groups) -> Tensor:
    """log pi_old - log pi_ref at each sampled token, the KL that a reward can carry; 0 without a reference."""
    return torch.where(groups.live, groups.old_logps_GKT.double() - groups.reference.double(), 0.0)


def _returns(groups: Groups, reward_beta: float) -> Tensor:
    """Undiscounted sum of the rewards from each token on. A score without token rewards falls on the last token."""
    rewards_GKT = -reward_beta * _drift(groups)
    if groups.token_rewards_GKT is not None:
        rewards_GKT = rewards_GKT + torch.where(groups.live, groups.token_rewards_GKT.double(), 0.0)
    returns_GKT = rewards_GKT.flip(-1).cumsum(-1).flip(-1)
    if groups.token_rewards_GKT is None:
        returns_GKT = returns_GKT + groups.scores_GK.double().unsqueeze(-1)
    return returns_GKT


def _whiten(values_GKT: Tensor, live_GKT: Tensor) -> Tensor:
    """(x - mean) / (std + 1e-8) over the sampled tokens of the whole batch, with the population std."""
    flat, live = values_GKT.reshape(1, -1), live_GKT.reshape(1, -1)
    centred, std = moments(flat, live)
    return (centred / (std + 1e-8)).reshape(values_GKT.shape)
