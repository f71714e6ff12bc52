"""Cutting a batch into parts that fit into memory: by candidates, or by the tokens that a part computes.

Log-probs of candidates do not depend on which others they are scored with, so a batch may be cut anywhere between them.
Where a learner has ranks, each gets a run of candidates with about as many tokens as every other, and cuts that.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tpo_dist.learner.batch import TrainingBatch
from tpo_dist.learner.team import ALONE, Team
from tpo_dist.policies.contract import CandidateBatch, Policy


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """A part of a batch, prepared for repeated scoring."""

    groups: slice
    candidates: slice
    score: Callable[[], Tensor]


def split(
    policy: Policy, batch: CandidateBatch, candidates: int | None, tokens: int | None = None, team: Team = ALONE
) -> list[MicroBatch]:
    """Cut a batch into parts, groups kept whole where they fit; None and None: one part.

    `candidates`: at most so many in a part. `tokens`: at most so many, each group's prompt counted once in each part
    that has candidates of it; parts are about equal, and only a single candidate may be longer.

    In a team, they are the parts of this rank's share, in which the candidates of other ranks are empty. All ranks have
    as many, since weights that they share are put together in every pass: some may do nothing.
    """
    if team.size == 1:
        return _scored(policy, batch, _cuts(batch, candidates, tokens))
    shares = [_share(batch, rank, team.size) for rank in range(team.size)]
    cuts = [list(_alive(share, _cuts(share, candidates, tokens))) for share in shares]
    parts = _scored(policy, shares[team.rank], cuts[team.rank])
    missing = max(map(len, cuts)) - len(parts)
    return parts + [_idle(policy, batch)] * missing


def _scored(policy: Policy, batch: CandidateBatch, cuts: Iterable[tuple[slice, slice]]) -> list[MicroBatch]:
    return [MicroBatch(groups, inner, policy.scorer(batch.select(groups, inner))) for groups, inner in cuts]


def _cuts(batch: CandidateBatch, candidates: int | None, tokens: int | None) -> Iterator[tuple[slice, slice]]:
    return _by_candidates(batch, candidates) if tokens is None else _by_tokens(batch, tokens)


def _share(batch: CandidateBatch, rank: int, ranks: int) -> CandidateBatch:
    """The batch with a run of its candidates, those of other ranks empty; a prompt counts in parts for each."""
    lengths_GK = batch.mask_GKT.sum(dim=-1)
    costs_GK = lengths_GK * lengths_GK.shape[1] + batch.prompt_lengths.unsqueeze(1)
    ends = costs_GK.flatten().cumsum(0)
    owner_GK = ((2 * ends - costs_GK.flatten()) * ranks // (2 * ends[-1])).view_as(lengths_GK)
    return replace(batch, mask_GKT=batch.mask_GKT & (owner_GK == rank).unsqueeze(-1))


def _alive(batch: CandidateBatch, cuts: Iterable[tuple[slice, slice]]) -> Iterator[tuple[slice, slice]]:
    """Those with a token in them, without the groups around that have none."""
    alive_G, alive_GK = batch.mask_GKT.flatten(1).any(dim=1).tolist(), batch.mask_GKT.any(dim=-1)
    for groups, inner in cuts:
        alive = [group for group in range(*groups.indices(len(alive_G))) if alive_G[group]]
        if alive and bool(alive_GK[groups][:, inner].any()):
            yield slice(alive[0], alive[-1] + 1), inner


def _idle(policy: Policy, batch: CandidateBatch) -> MicroBatch:
    """A pass over a single token that counts for nothing."""
    first = batch.select(slice(0, 1), slice(0, 1))
    mask = first.mask_GKT.clone()
    mask[..., 1:] = False
    score = policy.scorer(replace(first, mask_GKT=mask))
    return MicroBatch(slice(0, 0), slice(0, 1), lambda: score()[:0])


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
def current_logps(parts: Sequence[MicroBatch], batch: TrainingBatch, team: Team = ALONE) -> Tensor:
    """Log-probs [G, K, T] of a whole batch from its parts, under the weights of this moment, without a graph."""
    return gathered(((part, part.score()) for part in parts), batch, team)


@torch.no_grad()
def gathered(found: Iterable[tuple[MicroBatch, Tensor]], batch: TrainingBatch, team: Team = ALONE) -> Tensor:
    """Log-probs [G, K, T] of a whole batch from those of parts, on all ranks."""
    old = batch.groups.old_logps_GKT
    logps = torch.zeros(batch.candidates.tokens_GKT.shape, dtype=old.dtype, device=old.device)
    for part, values in found:
        logps[part.groups, part.candidates] = values
    return batch.to_groups(team.total(logps))


def with_current_logps(
    policy: Policy,
    batch: TrainingBatch,
    chosen_G: Tensor,
    candidates: int | None,
    tokens: int | None = None,
    team: Team = ALONE,
) -> TrainingBatch:
    """The batch with the policy's log-probs of this moment as the old ones of some groups, chosen_G True."""
    rows = chosen_G.nonzero().squeeze(1)
    part = replace(batch, candidates=batch.candidates.select(rows))
    old_GKT = batch.groups.old_logps_GKT.clone()
    old_GKT[rows] = current_logps(split(policy, part.candidates, candidates, tokens, team), part, team)
    return replace(batch, groups=replace(batch.groups, old_logps_GKT=old_GKT))


def with_reference(
    batch: TrainingBatch, reference: Policy, candidates: int | None, tokens: int | None = None, team: Team = ALONE
) -> TrainingBatch:
    """The batch with the log-probs of a fixed reference policy; the limits are those of `split`."""
    logps_GKT = current_logps(split(reference, batch.candidates, candidates, tokens, team), batch, team)
    return replace(batch, groups=replace(batch.groups, reference_logps_GKT=logps_GKT))
