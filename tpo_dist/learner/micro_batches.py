"""Cutting a batch into parts that fit into memory: by candidates, or by the tokens that a part computes.

Log-probs of candidates do not depend on which others they are scored with, so a batch may be cut anywhere between them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tpo_dist.learner.batch import TrainingBatch
from tpo_dist.policies.contract import CandidateBatch, Policy


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """A part of a batch, prepared for repeated scoring."""

    groups: slice
    candidates: slice
    score: Callable[[], Tensor]


def split(policy: Policy, batch: CandidateBatch, candidates: int | None, tokens: int | None = None) -> list[MicroBatch]:
    """Cut a batch into parts, groups kept whole where they fit; None and None: one part.

    `candidates`: at most so many in a part. `tokens`: at most so many, each group's prompt counted once in each part
    that has candidates of it; parts are about equal, and only a single candidate may be longer.
    """
    cuts = _by_candidates(batch, candidates) if tokens is None else _by_tokens(batch, tokens)
    return [MicroBatch(groups, inner, policy.scorer(batch.select(groups, inner))) for groups, inner in cuts]


def _by_candidates(batch: CandidateBatch, limit: int | None) -> Iterator[tuple[slice, slice]]:
    count, size = batch.tokens_GKT.shape[:2]
    limit = count * size if limit is None else limit
    group_step, candidate_step = max(1, limit // size), min(size, limit)
    return itertools.product(_steps(count, group_step), list(_steps(size, candidate_step)))


def _steps(count: int, step: int) -> Iterator[slice]:
    return (slice(i, i + step) for i in range(0, count, step))


def _by_tokens(batch: CandidateBatch, limit: int) -> Iterator[tuple[slice, slice]]:
    prompts: list[int] = batch.prompt_lengths.tolist()
    lengths: list[list[int]] = batch.mask_GKT.sum(dim=-1).tolist()
    costs = [prompt + sum(each) for prompt, each in zip(prompts, lengths, strict=True)]
    for large, run in itertools.groupby(range(len(costs)), key=lambda group: costs[group] > limit):
        groups = list(run)
        if not large:
            for cut in _even(costs[groups[0] : groups[-1] + 1], limit):
                yield slice(groups[0] + cut.start, groups[0] + cut.stop), slice(None)
            continue
        for group in groups:
            for cut in _even(lengths[group], limit - prompts[group]):
                yield slice(group, group + 1), cut


def _even(costs: Sequence[int], limit: int) -> list[slice]:
    """Runs of items, as few as keep each within the limit, and then as equal as so many can be.

    An item above the limit is a run of its own.
    """
    fewest, low = len(_fill(costs, limit)), min(max(costs), limit)
    while low < limit:  # the smallest capacity that needs no more parts
        middle = (low + limit) // 2
        if len(_fill(costs, middle)) > fewest:
            low = middle + 1
        else:
            limit = middle
    return _fill(costs, limit)


def _fill(costs: Sequence[int], capacity: int) -> list[slice]:
    cuts, total = [0], 0
    for index, cost in enumerate(costs):
        if total + cost > capacity and index > cuts[-1]:
            cuts.append(index)
            total = 0
        total += cost
    return [slice(start, stop) for start, stop in itertools.pairwise([*cuts, len(costs)])]


@torch.no_grad()
def current_logps(parts: Sequence[MicroBatch], batch: TrainingBatch) -> Tensor:
    """Log-probs [G, K, T] of a whole batch from its parts, under the weights of this moment, without a graph."""
    old = batch.groups.old_logps_GKT
    logps = torch.zeros(batch.candidates.tokens_GKT.shape, dtype=old.dtype, device=old.device)
    for part in parts:
        logps[part.groups, part.candidates] = part.score()
    return batch.to_groups(logps)


def with_current_logps(
    policy: Policy, batch: TrainingBatch, chosen_G: Tensor, candidates: int | None, tokens: int | None = None
) -> TrainingBatch:
    """The batch with the policy's log-probs of this moment as the old ones of some groups, chosen_G True."""
    rows = chosen_G.nonzero().squeeze(1)
    part = replace(batch, candidates=batch.candidates.select(rows))
    old_GKT = batch.groups.old_logps_GKT.clone()
    old_GKT[rows] = current_logps(split(policy, part.candidates, candidates, tokens), part)
    return replace(batch, groups=replace(batch.groups, old_logps_GKT=old_GKT))


def with_reference(
    batch: TrainingBatch, reference: Policy, candidates: int | None, tokens: int | None = None
) -> TrainingBatch:
    """The batch with the log-probs of a fixed reference policy; the limits are those of `split`."""
    logps_GKT = current_logps(split(reference, batch.candidates, candidates, tokens), batch)
    return replace(batch, groups=replace(batch.groups, reference_logps_GKT=logps_GKT))
