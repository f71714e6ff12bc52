"""The one signature that every objective has, and the one function that evaluates any of them."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from tpo_dist.objective.groups import Groups, expect_like, make_groups


class Objective(Protocol):
    """A method: it turns frozen scores into a signal once, and log-probs into a loss every epoch.

    Implementations are frozen dataclasses whose fields are the method's options.
    """

    epochs: ClassVar[int]
    """Gradient epochs per batch in the method's own paper."""
    min_group_size: ClassVar[int]
    """2 where the method compares candidates of one prompt, 1 where it does not."""

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


def weigh(objective: Objective, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Evaluation:
    """Loss and its exact gradient with respect to the log-probs, for surrogates that run in micro-batches."""
    expect_like("logps_GKT", logps_GKT, groups)
    leaf = logps_GKT.detach().requires_grad_(True)
    loss = objective.loss(leaf, groups, signal)
    loss.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return Evaluation(loss=loss.item(), weights_GKT=leaf.grad)


def evaluate(
    objective: Objective,
    logps_GKT: Tensor,
    old_logps_GKT: Tensor,
    scores_GK: Tensor,
    mask_GKT: Tensor | None = None,
    *,
    present_GK: Tensor | None = None,
    token_rewards_GKT: Tensor | None = None,
) -> Evaluation:
    """Any objective from plain tensors: (log-probs, old log-probs, scores, mask) -> loss and dloss/dlogps.

    Raises ValueError where the shapes do not agree.
    """
    groups = make_groups(old_logps_GKT, scores_GK, mask_GKT, present_GK=present_GK, token_rewards_GKT=token_rewards_GKT)
    return weigh(objective, logps_GKT, groups, objective.signal(groups))
