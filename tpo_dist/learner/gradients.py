"""Exact gradients of objectives whose candidates are coupled, in as many micro-batches as memory asks for.

An objective sees log-probs only. So its gradient with respect to them, W = dL/dlogp, can be computed first, from
log-probs obtained without a graph, and the parameters' gradient is then that of sum(W * logp), a sum over tokens that
splits anywhere: between groups, or inside one. No approximation is involved, and memory is that of one micro-batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_dist.learner.batch import TrainingBatch
from tpo_dist.objective import Objective, weigh
from tpo_dist.policies.contract import CandidateBatch, Policy


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """A part of a batch, prepared for repeated scoring."""

    groups: slice
    candidates: slice
    score: Callable[[], Tensor]


def split(policy: Policy, batch: CandidateBatch, candidates: int | None) -> list[MicroBatch]:
    """Cut a batch into parts of at most `candidates` candidates (None: one part), groups kept whole where they fit."""
    count, size = batch.tokens_GKT.shape[:2]
    limit = count * size if candidates is None else candidates
    group_step, candidate_step = max(1, limit // size), min(size, limit)
    return [
        MicroBatch(part, inner, policy.scorer(batch.select(part, inner)))
        for part in (slice(i, i + group_step) for i in range(0, count, group_step))
        for inner in (slice(j, j + candidate_step) for j in range(0, size, candidate_step))
    ]


class EpochGradients:
    """Gradients of one objective on one batch, epoch after epoch, accumulated into the policy's parameters."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        batch: TrainingBatch,
        micro_batch_candidates: int | None,
    ) -> None:
        self._policy, self._objective = policy, objective
        self._batch, self._limit = batch, micro_batch_candidates
        self.signal = objective.signal(batch.groups)
        self._parts: list[MicroBatch] | None = None

    def on_policy_epoch(self) -> float:
        """The first epoch while the policy is still the snapshot; returns the loss.

        The snapshot's log-probs are the current ones, so W needs no pass of its own; groups whose W is exactly zero
        (nothing to prefer, nothing to undo) are left out of the pass altogether.
        """
        loss, weights = self._weigh(self._batch.groups.old_logps_GKT)
        active = (weights != 0).flatten(1).any(dim=1)
        if bool(active.all()):
            self._backward(self._all_parts(), weights)
        elif bool(active.any()):
            kept = self._batch.candidates.select(active.nonzero().squeeze(-1))
            self._backward(split(self._policy, kept, self._limit), weights[active])
        return loss

    def epoch(self) -> float:
        """Any epoch, under whatever weights the policy has now; returns the loss."""
        parts = self._all_parts()
        if len(parts) == 1:
            logps = parts[0].score()
            loss, weights = self._weigh(self._batch.to_groups(logps.detach()))
            (weights * logps).sum().backward()  # type: ignore[no-untyped-call]
            return loss
        loss, weights = self._weigh(self._batch.to_groups(self._current_logps(parts)))
        self._backward(parts, weights)
        return loss

    @torch.no_grad()
    def _current_logps(self, parts: list[MicroBatch]) -> Tensor:
        """Log-probs under the weights of this moment, in the policy's shape."""
        old = self._batch.groups.old_logps_GKT
        logps = torch.zeros(self._batch.candidates.tokens_GKT.shape, dtype=old.dtype, device=old.device)
        for part in parts:
            logps[part.groups, part.candidates] = part.score()
        return logps

    def _weigh(self, logps_GKT: Tensor) -> tuple[float, Tensor]:
        """Loss, and its gradient with respect to the log-probs in the policy's shape."""
        at = weigh(self._objective, logps_GKT, self._batch.groups, self.signal)
        return at.loss, self._batch.from_groups(at.weights_GKT)

    def _all_parts(self) -> list[MicroBatch]:
        if self._parts is None:
            self._parts = split(self._policy, self._batch.candidates, self._limit)
        return self._parts

    def _backward(self, parts: list[MicroBatch], weights: Tensor) -> None:
        for part in parts:
            surrogate = (weights[part.groups, part.candidates] * part.score()).sum()
            surrogate.backward()  # type: ignore[no-untyped-call]
