"""The one signature that every objective has, and the one function that evaluates any of them."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from tpo_dist.objective.groups import Groups, expect_like, make_groups
from tpo_dist.objective.ratios import k3, log_ratios


class Objective(Protocol):
    """A method: it turns frozen scores into a signal once, and log-probs into a loss every epoch.

    Implementations are frozen dataclasses whose fields are the method's options.
    """

    epochs: ClassVar[int]
    """Gradient epochs per batch in the method's own paper."""
    min_group_size: ClassVar[int]
    """2 where the method compares candidates of one prompt, 1 where it does not."""
    needs_greedy: ClassVar[bool]
    """True where the signal needs the score of each prompt's greedy completion."""
    uses_reference: ClassVar[bool]
    """True where the method can hold on to a reference policy; `wants_reference` says whether its options do."""

    def signal(self, groups: Groups) -> Tensor:
        """The target q or the advantages [G, K] or [G, K, T]: computed once, frozen for all epochs of the batch."""
        ...

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """A differentiable scalar of the log-probs under the current policy."""
        ...

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Numbers for the logs; the target diagnostics where the method builds a target."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Evaluation:
    """An objective at one set of log-probs."""

    loss: float
    weights_GKT: Tensor
    """dloss/dlogps: what each token's log-prob is pulled by. Zero on padding."""


def wants_reference(objective: Objective) -> bool:
    """Whether the log-probs of a reference policy would change anything: a KL weight of its options is above 0."""
    weights = (getattr(objective, name, 0.0) for name in ("beta", "reward_beta"))
    return objective.uses_reference and any(weight > 0 for weight in weights)


def mean_kl(logps_GKT: Tensor, groups: Groups) -> Tensor:
    """KL (nats per token, k3) from the reference of the batch, in the mean over its tokens: a scalar."""
    kl_GKT = k3(log_ratios(logps_GKT, groups.reference, groups.live))
    return torch.where(groups.live, kl_GKT, 0.0).sum() / groups.live.sum().clamp(min=1)


def weigh(
    objective: Objective,
    logps_GKT: Tensor,
    groups: Groups,
    signal: Tensor,
    token_weights_GKT: Tensor | None = None,
    reference_kl: float = 0.0,
) -> Evaluation:
    """Loss and its exact gradient with respect to the log-probs, for surrogates that run in micro-batches.

    `token_weights_GKT`: frozen weights of an off-policy correction; they multiply the gradient, never the loss.
    `reference_kl`: weight of a KL to the reference, k3 in the mean over all tokens, beside the objective's own.
    """
    expect_like("logps_GKT", logps_GKT, groups)
    if token_weights_GKT is not None:
        expect_like("token_weights_GKT", token_weights_GKT, groups)
    leaf = logps_GKT.detach().requires_grad_(True)
    loss = objective.loss(leaf, groups, signal)
    if reference_kl > 0:
        loss = loss + reference_kl * mean_kl(leaf, groups)
    loss.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    weights_GKT = leaf.grad
    if token_weights_GKT is not None:  # padding may hold anything
        weights_GKT = torch.where(groups.live, weights_GKT * token_weights_GKT.detach(), 0.0)
    return Evaluation(loss=loss.item(), weights_GKT=weights_GKT)


def evaluate(
    objective: Objective,
    logps_GKT: Tensor,
    old_logps_GKT: Tensor,
    scores_GK: Tensor,
    mask_GKT: Tensor | None = None,
    *,
    present_GK: Tensor | None = None,
    token_rewards_GKT: Tensor | None = None,
    reference_logps_GKT: Tensor | None = None,
    greedy_scores_G: Tensor | None = None,
    token_weights_GKT: Tensor | None = None,
) -> Evaluation:
    """Any objective from plain tensors: (log-probs, old log-probs, scores, mask) -> loss and dloss/dlogps.

    Raises ValueError where the shapes do not agree.
    """
    groups = make_groups(
        old_logps_GKT,
        scores_GK,
        mask_GKT,
        present_GK=present_GK,
        token_rewards_GKT=token_rewards_GKT,
        reference_logps_GKT=reference_logps_GKT,
        greedy_scores_G=greedy_scores_G,
    )
    return weigh(objective, logps_GKT, groups, objective.signal(groups), token_weights_GKT)
