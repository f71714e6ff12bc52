"""What an objective may see of a batch: log-probs, scores and masks, nothing else.

Shapes, here and in every module beside this one: G groups, K candidates, T tokens of a candidate.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Groups:
    """The frozen part of a batch: everything but the log-probs under the current policy.

    Raises ValueError, naming both shapes, where ranks, shapes or dtypes do not fit together.
    """

    old_logps_GKT: Tensor
    """Per-token log-probs (nats) under the snapshot that sampled the candidates."""
    scores_GK: Tensor
    """Raw scores of the candidates, any unit."""
    mask_GKT: Tensor
    """True where a token was sampled by the policy; False is padding."""
    present_GK: Tensor
    """True where a candidate exists; a group may have fewer than K."""
    token_rewards_GKT: Tensor | None = None
    """Rewards per token, where the task gives them; single-sample methods use them."""
    reference_logps_GKT: Tensor | None = None
    """Per-token log-probs (nats) under a fixed reference policy; None where there is none: see `reference`."""
    greedy_scores_G: Tensor | None = None
    """Score of the greedy completion of each prompt; only ReMax asks for it."""

    def __post_init__(self) -> None:
        _expect(self.old_logps_GKT.ndim == 3, "old_logps_GKT", self.old_logps_GKT, "three axes [G, K, T]")
        _expect(self.old_logps_GKT.is_floating_point(), "old_logps_GKT", self.old_logps_GKT, "a floating-point dtype")
        g, k, t = self.old_logps_GKT.shape
        _expect(self.scores_GK.shape == (g, k), "scores_GK", self.scores_GK, f"shape [{g}, {k}] of old_logps_GKT")
        _expect(self.mask_GKT.shape == (g, k, t), "mask_GKT", self.mask_GKT, f"shape [{g}, {k}, {t}] of old_logps_GKT")
        _expect(self.mask_GKT.dtype == torch.bool, "mask_GKT", self.mask_GKT, "dtype bool")
        _expect(self.present_GK.shape == (g, k), "present_GK", self.present_GK, f"shape [{g}, {k}] of old_logps_GKT")
        _expect(self.present_GK.dtype == torch.bool, "present_GK", self.present_GK, "dtype bool")
        if not bool(self.present_GK.any(dim=-1).all()):
            raise ValueError("present_GK has a group without any candidate; a group needs at least one")
        if self.token_rewards_GKT is not None:
            rewards = self.token_rewards_GKT
            _expect(rewards.shape == (g, k, t), "token_rewards_GKT", rewards, f"shape [{g}, {k}, {t}] of old_logps_GKT")
        if self.reference_logps_GKT is not None:
            expect_like("reference_logps_GKT", self.reference_logps_GKT, self)
        if self.greedy_scores_G is not None:
            greedy = self.greedy_scores_G
            _expect(greedy.shape == (g,), "greedy_scores_G", greedy, f"shape [{g}]: one score for each group")

    @property
    def live(self) -> Tensor:
        """True for the sampled tokens of candidates that exist [G, K, T]."""
        return self.mask_GKT & self.present_GK.unsqueeze(-1)

    @property
    def reference(self) -> Tensor:
        """Log-probs [G, K, T] that a KL penalty holds on to: the reference's, or the snapshot's where none is given."""
        return self.old_logps_GKT if self.reference_logps_GKT is None else self.reference_logps_GKT


def make_groups(
    old_logps_GKT: Tensor,
    scores_GK: Tensor,
    mask_GKT: Tensor | None = None,
    *,
    present_GK: Tensor | None = None,
    token_rewards_GKT: Tensor | None = None,
    reference_logps_GKT: Tensor | None = None,
    greedy_scores_G: Tensor | None = None,
) -> Groups:
    """`Groups` with every token and every candidate present unless a mask says otherwise."""
    if mask_GKT is None:
        mask_GKT = torch.ones_like(old_logps_GKT, dtype=torch.bool)
    if present_GK is None:
        present_GK = torch.ones_like(scores_GK, dtype=torch.bool)
    return Groups(
        old_logps_GKT=old_logps_GKT,
        scores_GK=scores_GK,
        mask_GKT=mask_GKT,
        present_GK=present_GK,
        token_rewards_GKT=token_rewards_GKT,
        reference_logps_GKT=reference_logps_GKT,
        greedy_scores_G=greedy_scores_G,
    )


def expect_like(name: str, value: Tensor, groups: Groups) -> None:
    """Raise ValueError unless `value` has the [G, K, T] shape of the batch."""
    shape = list(groups.old_logps_GKT.shape)
    _expect(list(value.shape) == shape, name, value, f"shape {shape} of old_logps_GKT")


def _expect(holds: bool, name: str, value: Tensor, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} has shape {list(value.shape)} and dtype {value.dtype}; expected {wanted}")


def token_sum(values_GKT: Tensor, mask_GKT: Tensor) -> Tensor:
    """Sum over the sampled tokens of each candidate: [G, K]. Padding may hold anything, NaN included."""
    return torch.where(mask_GKT, values_GKT, 0.0).sum(dim=-1)


def candidate_mean(values_GK: Tensor, present_GK: Tensor) -> Tensor:
    """Mean over all candidates of the batch that exist: a scalar."""
    return torch.where(present_GK, values_GK, 0.0).sum() / present_GK.sum().clamp(min=1)


def group_sum_mean(values_GK: Tensor, present_GK: Tensor) -> Tensor:
    """Sum over the candidates of a group, mean over the groups: a scalar.

    The scale of TPO's own loss, and what the author's code does for every grouped method.
    """
    return torch.where(present_GK, values_GK, 0.0).sum(dim=-1).mean()
