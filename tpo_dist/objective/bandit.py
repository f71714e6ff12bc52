"""Bandit feedback where the policy over all arms is known (arXiv 2604.06159, sections 3.1 to 3.3, appendices B and C).

A *field* is a direction of ascent in the logits: minus the gradient of a method's loss. Every operation here gives a
row the same bits whatever other rows stand beside it, so runs batched along a leading axis equal runs by themselves.

Shapes: ... any leading axes, B samples, C arms.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from tpo_dist.objective.scores import ZERO_STD, standardised_scores

BanditMethod = Literal["pg", "dg", "grpo", "tpo", "group_pg"]
BANDIT_METHODS: tuple[BanditMethod, ...] = get_args(BanditMethod)
PooledMethod = Literal["pg", "dg", "grpo", "tpo"]
POOLED_METHODS: tuple[PooledMethod, ...] = get_args(PooledMethod)
PopulationMethod = Literal["ce", "pg", "dg", "grpo", "tpo"]
POPULATION_METHODS: tuple[PopulationMethod, ...] = get_args(PopulationMethod)
_LARGEST_EXPONENT = 80.0  # odds of e^80 still fit float32


def delight_gate(advantages: Tensor, surprisals: Tensor, eta: float) -> Tensor:
    """sigmoid(A (-log pi) / eta), DG's weight (arXiv 2603.14608).

    Spelled out, because torch.sigmoid rounds the last elements of a tensor differently from the others.
    """
    return 1 / (1 + (-advantages * surprisals / eta).exp())


def one_hot(arms: Tensor, like: Tensor) -> Tensor:
    """Rows e_a over the last axis of `like`, in its dtype."""
    return F.one_hot(arms, like.shape[-1]).to(like.dtype)


def standardised_rewards(rewards_B: Tensor) -> Tensor:
    """(r - mean) / (std + 1e-8) over the batch, population std: single-sample GRPO [..., B]."""
    centred = rewards_B - rewards_B.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True).sqrt() + 1e-8)


def sample_fields(
    method: BanditMethod, logps_BC: Tensor, arms_B: Tensor, rewards_B: Tensor, *, eta: float = 1.0
) -> Tensor:
    """The field of each sample [..., B, C], one arm drawn in each context; the batch's field is their mean.

    PG, DG, TPO and Group PG measure a reward against the policy's own collision probability, A = r - sum pi^2;
    GRPO standardises the rewards over the batch (section 3.3, appendix C).
    """
    _check(logps_BC, arms_B, rewards_B)
    if method == "grpo":
        return weighted_fields(logps_BC, arms_B, standardised_rewards(rewards_B))
    advantages_B = rewards_B - logps_BC.exp().square().sum(dim=-1)
    return advantage_fields(method, logps_BC, arms_B, advantages_B, eta=eta)


def advantage_fields(
    method: BanditMethod, logps_BC: Tensor, arms_B: Tensor, advantages_B: Tensor, *, eta: float = 1.0
) -> Tensor:
    """The field of each sample [..., B, C] from its advantage."""
    _check(logps_BC, arms_B, advantages_B)
    if method == "tpo":
        return _target_fields(logps_BC.exp(), arms_B, score_signs(advantages_B, logps_BC.shape[-1]), eta)
    weights_B = advantages_B
    if method == "dg":
        surprisals_B = -logps_BC.gather(-1, arms_B.unsqueeze(-1)).squeeze(-1)
        weights_B = advantages_B * delight_gate(advantages_B, surprisals_B, eta)
    elif method == "group_pg":
        weights_B = score_signs(advantages_B, logps_BC.shape[-1]) * (logps_BC.shape[-1] - 1) ** 0.5
    return weighted_fields(logps_BC, arms_B, weights_B)


def weighted_fields(logps_BC: Tensor, arms_B: Tensor, weights_B: Tensor) -> Tensor:
    """w (e_a - pi) [..., B, C]: minus the gradient of -w log pi_a with w held."""
    return weights_B.unsqueeze(-1) * (one_hot(arms_B, logps_BC) - logps_BC.exp())


def score_signs(advantages_B: Tensor, arms: int) -> Tensor:
    """What standardising the scores A e_a over the arms keeps of A: its sign [..., B].

    u is sqrt(C - 1) at the arm drawn and -1/sqrt(C - 1) elsewhere, times the sign of A; 0 where the deviation
    |A| sqrt(C - 1) / C is no more than 1e-6.
    """
    flat_B = advantages_B.abs() * ((arms - 1) ** 0.5 / arms) <= ZERO_STD
    return torch.where(flat_B, 0.0, advantages_B.sign())


def _target_fields(probs_BC: Tensor, arms_B: Tensor, signs_B: Tensor, eta: float) -> Tensor:
    """q - pi with q = softmax(log pi + u / eta) [..., B, C]; exactly 0 where u is.

    The target multiplies the odds of the arm drawn by L to the power of the sign; here the larger factor is 1.
    """
    drawn_BC = one_hot(arms_B, probs_BC)
    least = target_tilt(probs_BC.shape[-1], eta) ** -1
    one_B = torch.ones_like(signs_B)
    own_B, others_B = (torch.where(signs_B == sign, least * one_B, one_B) for sign in (-1, 1))
    own_part_B = (probs_BC * drawn_BC).sum(dim=-1)
    rest_B = (probs_BC * (1 - drawn_BC)).sum(dim=-1)  # 1 - pi_a would lose what is left beside a sure arm
    total_B = own_B * own_part_B + others_B * rest_B
    factors_BC = torch.where(drawn_BC > 0, (own_B / total_B).unsqueeze(-1), (others_B / total_B).unsqueeze(-1))
    return probs_BC * (factors_BC - 1) * (signs_B != 0).unsqueeze(-1)


def pooled_field(
    method: PooledMethod,
    logps_C: Tensor,
    counts_C: Tensor,
    rewards_C: Tensor,
    *,
    baseline: float = 0.5,
    eta: float = 1.0,
) -> Tensor:
    """The field [..., C] of B samples of one context (section 3.1), given how often each arm was drawn and its reward.

    PG, DG and TPO take A = r - baseline, GRPO standardises over the samples. TPO averages A e_a over the samples and
    standardises that over the arms: one target from all samples.
    """
    if logps_C.shape != counts_C.shape:
        raise ValueError(f"counts_C has shape {list(counts_C.shape)}; expected {list(logps_C.shape)} of logps_C")
    samples = counts_C.sum(dim=-1, keepdim=True)
    share_C = counts_C / samples
    probs_C = torch.softmax(logps_C, dim=-1)
    advantages_C = (rewards_C - baseline).expand_as(probs_C)
    if method == "tpo":
        everywhere = torch.ones_like(probs_C, dtype=torch.bool)
        u_C = standardised_scores(share_C * advantages_C, everywhere, probs_C.dtype)
        return torch.softmax(logps_C + u_C / eta, dim=-1) - probs_C
    if method == "grpo":
        mean = (share_C * rewards_C).sum(dim=-1, keepdim=True)
        variance = (share_C * (rewards_C - mean).square()).sum(dim=-1, keepdim=True)
        advantages_C = (rewards_C - mean) / (variance + 1e-8).sqrt()
    elif method == "dg":
        advantages_C = advantages_C * delight_gate(advantages_C, -logps_C, eta)
    pulls_C = share_C * advantages_C
    return pulls_C - probs_C * pulls_C.sum(dim=-1, keepdim=True)


def population_weights(method: PopulationMethod, p: Tensor, arms: int) -> Tensor:
    """beta(p), where the expected field of a context is beta(p) (e_y - pi) and p = pi_y (appendix B, eta = 1).

    CE 1, PG p, DG p / (1 + p), GRPO sqrt(p / (1 - p)), TPO p (L - 1) / (1 - p + L p) with L = exp(10/3) for 10 arms.
    """
    if method == "ce":
        return torch.ones_like(p)
    if method == "pg":
        return p
    if method == "dg":
        return p / (1 + p)
    if method == "grpo":
        return (p / (1 - p + 1e-8)).sqrt()
    tilt = target_tilt(arms)
    return p * (tilt - 1) / (1 - p + tilt * p)


def target_tilt(arms: int, eta: float = 1.0) -> float:
    """L: what the target multiplies the odds of a rewarded arm by, exp of the gap between its u and the others'."""
    root = (arms - 1) ** 0.5
    return math.exp(min((root + 1 / root) / eta, _LARGEST_EXPONENT))


def expected_field(method: BanditMethod, probs_C: Tensor, label: Tensor, *, eta: float = 1.0) -> Tensor:
    """The mean of `sample_fields` over the arm drawn [..., C] (appendix C). GRPO has none: it depends on the batch."""
    if method == "grpo":
        raise ValueError("the expected field of grpo depends on the rest of its batch")
    arms = probs_C.shape[-1]
    logps_CC = probs_C.clamp_min(1e-30).log().unsqueeze(-2).expand(*probs_C.shape, arms)
    drawn_C = torch.arange(arms, device=probs_C.device).expand(probs_C.shape)
    rewards_C = one_hot(label, probs_C)
    return (probs_C.unsqueeze(-1) * sample_fields(method, logps_CC, drawn_C, rewards_C, eta=eta)).sum(dim=-2)


def wrong_arm_concentration(probs_C: Tensor, label: Tensor) -> Tensor:
    """c = max over wrong arms of pi / (1 - pi_y) [...]: 1 where one wrong arm holds all that is not right."""
    right = one_hot(label, probs_C).bool()
    wrong_C = torch.where(right, 0.0, probs_C)
    return wrong_C.amax(dim=-1) / wrong_C.sum(dim=-1).clamp_min(1e-8)


def first_order_gains(
    method: BanditMethod, probs_C: Tensor, label: Tensor, *, eta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """How fast p_y grows along the expected field, and along its one-vs-rest surrogate: two tensors [...].

    The surrogate is beta(p) (e_y - pi) with the beta of a policy that spreads its wrong mass evenly (appendix C).
    """
    arms = probs_C.shape[-1]
    right_C = one_hot(label, probs_C)
    direction_C = right_C - probs_C
    p = (right_C * probs_C).sum(dim=-1)
    even_C = torch.where(right_C.bool(), probs_C, ((1 - p) / (arms - 1)).unsqueeze(-1))
    pull = (right_C * expected_field(method, even_C, label, eta=eta)).sum(dim=-1)
    beta = pull / (1 - p).clamp_min(1e-12)
    exact = p * (direction_C * expected_field(method, probs_C, label, eta=eta)).sum(dim=-1)
    return exact, p * beta * direction_C.square().sum(dim=-1)


def misalignment(field: Tensor, oracle: Tensor, axes: tuple[int, ...]) -> Tensor:
    """1 - cos between two fields over these axes; 1 where either vanishes."""
    norms = [(x.square().sum(dim=axes) + 1e-12).sqrt() for x in (field, oracle)]
    return 1 - (field * oracle).sum(dim=axes) / (norms[0] * norms[1])


def normalised_step(logits: Tensor, field: Tensor, size: float, axes: tuple[int, ...]) -> Tensor:
    """Logits moved by `size` along the field, whose norm is taken over these axes; not moved by a zero field."""
    return logits + size * field / (field.square().sum(dim=axes, keepdim=True) + 1e-30).sqrt()


def _check(logps_BC: Tensor, arms_B: Tensor, values_B: Tensor) -> None:
    if not logps_BC.shape[:-1] == arms_B.shape == values_B.shape:
        raise ValueError(
            f"log-probs {list(logps_BC.shape)}, arms {list(arms_B.shape)} and values {list(values_B.shape)} do not "
            "fit together; expected [..., B, C], [..., B] and [..., B]"
        )
    if logps_BC.shape[-1] < 2:
        raise ValueError(f"log-probs have shape {list(logps_BC.shape)}; a bandit has 2 arms or more")
