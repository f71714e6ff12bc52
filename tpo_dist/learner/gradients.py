"""Exact gradients of objectives whose candidates are coupled, in as many micro-batches as memory asks for.

An objective sees log-probs only. So its gradient with respect to them, W = dL/dlogp, can be computed first, from
log-probs obtained without a graph, and the parameters' gradient is then that of sum(W * logp), a sum over tokens that
splits anywhere: between groups, or inside one. No approximation is involved, and memory is that of one micro-batch.
The ranks of a learner all compute W of the whole batch, from log-probs that each has found of its own candidates, and
then each the sum's part of these.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from tpo_dist.learner.batch import TrainingBatch
from tpo_dist.learner.micro_batches import MicroBatch, current_logps, gathered, split
from tpo_dist.learner.team import ALONE, Team
from tpo_dist.metrics import Mean, Metrics
from tpo_dist.objective import Correction, Groups, Objective, Progress, effective_sample_size, progress, weigh
from tpo_dist.objective.groups import token_sum
from tpo_dist.policies.contract import Policy, SamplingPolicy
from tpo_dist.policies.weights import whole


class EpochGradients:
    """Gradients of one objective on one batch, epoch after epoch, accumulated into the policy's parameters."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        batch: TrainingBatch,
        micro_batch_candidates: int | None,
        micro_batch_tokens: int | None = None,
        reference_kl: float = 0.0,
        team: Team = ALONE,
    ) -> None:
        self._policy, self._objective, self._team = policy, objective, team
        self._batch, self._limits = batch, (micro_batch_candidates, micro_batch_tokens)
        self._reference_kl = reference_kl
        self.signal = objective.signal(batch.groups)
        self.ratio_ess: Mean | None = None
        """Effective share of the candidates, by the ratios of the policy at the start of the first epoch to the ones
        that sampled them; None before that epoch."""
        self.start_logps_GKT: Tensor | None = None
        """Log-probs under the policy at the start of the first epoch, as far as a pass found them, NaN elsewhere."""
        self._parts: list[MicroBatch] | None = None

    def corrected(self, correction: Correction) -> Metrics:
        """Weigh tokens by how likely the policy of this moment is to sample them, before the first epoch.

        From here on, the objective's own ratios count from this moment too, so that nothing is corrected twice.
        """
        groups = self._batch.groups
        start_GKT = current_logps(self._all_parts(), self._batch, self._team)
        self._note_ratios(start_GKT)
        weights_GKT = correction.weights(start_GKT, groups.old_logps_GKT, groups.live)
        self._batch = replace(
            self._batch, groups=replace(groups, old_logps_GKT=start_GKT), token_weights_GKT=weights_GKT
        )
        self.signal = self._objective.signal(self._batch.groups)
        weights = weights_GKT[groups.live]
        size = effective_sample_size(weights).item()
        return {
            "correction_weight": Mean(float(weights.sum(dtype=torch.float64)), weights.numel()),
            "correction_dropped": Mean(float((weights == 0).sum()), weights.numel()),
            "effective_sample_size": Mean(size, weights.numel()),
        }

    @property
    def groups(self) -> Groups:
        """What the objective sees of the batch."""
        return self._batch.groups

    def on_policy_epoch(self, enough: Callable[[Progress], bool] | None = None) -> float | None:
        """The first epoch while the policy is still the snapshot; returns the loss, or None as `epoch` does.

        The snapshot's log-probs are the current ones, so W needs no pass of its own; groups whose W is exactly zero
        (nothing to prefer, nothing to undo) are left out of the pass altogether.
        """
        self._note_ratios(self._batch.groups.old_logps_GKT, found=False)
        if self._ends(self._batch.groups.old_logps_GKT, enough):
            return None
        loss, weights = self._weigh(self._batch.groups.old_logps_GKT)
        active = (weights != 0).flatten(1).any(dim=1)
        if bool(active.all()):
            found = self._backward(self._all_parts(), weights)
        elif bool(active.any()):
            kept = self._batch.candidates.select(active.nonzero().squeeze(-1))
            found = self._backward(split(self._policy, kept, *self._limits, self._team), weights[active])
        else:
            return loss
        if not isinstance(self._policy, SamplingPolicy):
            self.start_logps_GKT = torch.full_like(self._batch.groups.old_logps_GKT, torch.nan)
            self.start_logps_GKT[active] = self._team.total(found)
        return loss

    def epoch(self, enough: Callable[[Progress], bool] | None = None) -> float | None:
        """Any epoch, under whatever weights the policy has now; returns the loss.

        Where `enough` says so of what the epochs before have done, there is no gradient, and None comes back.
        """
        parts = self._all_parts()
        graph = parts[0].score() if len(parts) == 1 else None
        if graph is None:
            logps_GKT = current_logps(parts, self._batch, self._team)
        else:
            logps_GKT = gathered([(parts[0], graph.detach())], self._batch, self._team)
        self._note_ratios(logps_GKT)
        if self._ends(logps_GKT, enough):
            return None
        loss, weights = self._weigh(logps_GKT)
        if graph is None:
            self._backward(parts, weights)
        else:
            self._add_gradient(parts[0], weights, graph)
        return loss

    def _note_ratios(self, start_GKT: Tensor, *, found: bool = True) -> None:
        """Once for each batch, from the log-probs that come first and before a correction replaces the old ones.

        `found`: whether a pass gave them.
        """
        if self.ratio_ess is not None:
            return
        if found:
            self.start_logps_GKT = start_GKT
        groups = self._batch.groups
        moved = token_sum(start_GKT.double() - groups.old_logps_GKT.double(), groups.live)[groups.present_GK]
        size = effective_sample_size((moved - moved.max()).exp())  # the largest ratio is 1: nothing overflows
        self.ratio_ess = Mean(size.item(), moved.numel())

    def _ends(self, logps_GKT: Tensor, enough: Callable[[Progress], bool] | None) -> bool:
        return enough is not None and enough(progress(self._objective, logps_GKT, self._batch.groups, self.signal))

    def _weigh(self, logps_GKT: Tensor) -> tuple[float, Tensor]:
        """Loss, and its gradient with respect to the log-probs in the policy's shape."""
        batch = self._batch
        at = weigh(self._objective, logps_GKT, batch.groups, self.signal, batch.token_weights_GKT, self._reference_kl)
        return at.loss, self._batch.from_groups(at.weights_GKT)

    def _all_parts(self) -> list[MicroBatch]:
        if self._parts is None:
            self._parts = split(self._policy, self._batch.candidates, *self._limits, self._team)
        return self._parts

    def _backward(self, parts: list[MicroBatch], weights: Tensor) -> Tensor:
        """Adds up the gradients of all parts; the log-probs that their passes found, in the shape of the weights."""
        found = torch.zeros_like(weights)
        for part in parts:
            logps = part.score()
            self._add_gradient(part, weights, logps)
            found[part.groups, part.candidates] = logps.detach()
        return found

    @staticmethod
    def _add_gradient(part: MicroBatch, weights: Tensor, logps: Tensor) -> None:
        (weights[part.groups, part.candidates] * logps).sum().backward()  # type: ignore[no-untyped-call]


def bound_gradient(parameters: list[nn.Parameter], bound: float | None) -> float:
    """Scale the gradient down to a norm; the norm that it had. One that is not finite stays as it is."""
    for parameter in parameters:
        if parameter.grad is None:  # a batch without any preference: the optimizer still sees its zero gradient
            parameter.grad = torch.zeros_like(parameter)
    total = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
    norm = whole(total).item()
    if bound is not None and math.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(parameters, bound, total)
    return norm
