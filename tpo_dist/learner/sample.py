"""A few groups of each step, as the objective saw them and as the step left them, for people to look at.

Shapes: G groups of a batch, K candidates, T tokens of a candidate.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpo_dist.learner.batch import TrainingBatch
from tpo_dist.learner.micro_batches import current_logps, split
from tpo_dist.objective import Groups, Objective, group_probabilities, zero_variance
from tpo_dist.objective.groups import token_sum
from tpo_dist.objective.tpo import TPO
from tpo_dist.policies.contract import Policy
from tpo_dist.records import ScoredGroups, pad


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class GroupSample:
    """One group, before and after the step that trained it."""

    draw: int
    version: int
    """Of the snapshot that sampled it."""
    staleness: int
    """In publications."""
    source: str | None
    """Which task of a mixture asked, where prompts are in words."""
    position: int | None
    """Of the tokens compared, where the candidates are single tokens: they continue the prompt and candidate 0."""
    prompt: NDArray[np.int32]
    tokens_KT: NDArray[np.int32]
    """Padded; at a position, those of the whole candidates."""
    lengths_K: NDArray[np.int32]
    scores_K: NDArray[np.float32]
    """As the objective compared them."""
    stops_K: NDArray[np.int8]
    """`StopReason` of each."""
    logps_old_K: NDArray[np.float32]
    """Summed log-probs (nats) under the policy that the objective measures from."""
    logps_after_K: NDArray[np.float32]
    """The same after the step."""
    p_old_K: NDArray[np.float32]
    """The policy over the group (`group_probabilities`), before the step and after it."""
    p_after_K: NDArray[np.float32]
    target_K: NDArray[np.float32] | None
    """q, where the method builds a target."""
    advantages_K: NDArray[np.float32] | None
    """What the method has in its place, mean over the tokens."""
    zero_variance: bool
    """Whether all scores are equal, so that nothing is preferred."""


@torch.no_grad()
def take_sample(
    count: int,
    policy: Policy,
    objective: Objective,
    record: ScoredGroups,
    batch: TrainingBatch,
    signal: Tensor,
    lag_G: NDArray[np.int64],
    limits: tuple[int | None, int | None],
) -> tuple[GroupSample, ...]:
    """`count` groups, evenly over the batch, under the weights of this moment: one pass over them alone.

    `signal`: the objective's, of the batch. `limits`: those of `split`.
    """
    rows = np.arange(min(count, len(record))) * len(record) // min(count, len(record))
    rows_n = torch.from_numpy(rows).to(batch.groups.scores_GK.device)
    decisions = batch.decisions_NT
    part = replace(
        batch,
        candidates=batch.candidates.select(rows_n),
        decisions_NT=None if decisions is None else decisions[rows_n],
    )
    after_GKT = current_logps(split(policy, part.candidates, *limits), part)
    positions, whole, inner = _positions(rows, decisions, int(record.snapshot_versions[0]))
    groups, own_signal, after_GKT = _select(batch.groups, whole), signal[whole], after_GKT[inner]
    p_old, p_after = (group_probabilities(objective, logps, groups) for logps in (groups.old_logps_GKT, after_GKT))
    builds_target = isinstance(objective, TPO)
    if own_signal.ndim == 3:
        own_signal = token_sum(own_signal, groups.live) / groups.live.sum(dim=-1).clamp(min=1)
    flat_G = zero_variance(groups.scores_GK, groups.present_GK)
    sums = [token_sum(logps, groups.live).float().cpu().numpy() for logps in (groups.old_logps_GKT, after_GKT)]
    found = record.select(rows)
    tokens_nKT, prompts = pad(found.tokens, found.lengths), pad(found.prompt_tokens, found.prompt_lengths)
    return tuple(
        GroupSample(
            draw=int(found.group_ids[i]),
            version=int(found.snapshot_versions[i]),
            staleness=int(lag_G[row]),
            source=None if found.sources is None else found.sources[i].decode(errors="replace"),
            position=positions[i],
            prompt=prompts[i, : found.prompt_lengths[i]],
            tokens_KT=tokens_nKT[i],
            lengths_K=found.lengths[i],
            scores_K=_array(groups.scores_GK[i]),
            stops_K=found.stop_reasons[i],
            logps_old_K=sums[0][i],
            logps_after_K=sums[1][i],
            p_old_K=_array(p_old[i]),
            p_after_K=_array(p_after[i]),
            target_K=_array(own_signal[i]) if builds_target else None,
            advantages_K=None if builds_target else _array(own_signal[i]),
            zero_variance=bool(flat_G[i]),
        )
        for i, row in enumerate(rows)
    )


def _positions(
    rows: NDArray[np.int64], decisions_NT: Tensor | None, turn: int
) -> tuple[list[int | None], list[int], list[int]]:
    """Which position of each row is shown, and the number of that group in the batch and among those of the rows.

    Where candidates are whole, a row is a group. Else positions take turns, from step to step and row to row.
    """
    if decisions_NT is None:
        return [None] * len(rows), rows.tolist(), list(range(len(rows)))
    decisions = decisions_NT.cpu().numpy()
    starts, own = np.cumsum(decisions.sum(axis=1)) - decisions.sum(axis=1), decisions[rows].sum(axis=1)
    places = [(turn + i) % max(int(count), 1) for i, count in enumerate(own)]
    inner = (np.cumsum(own) - own + places).tolist()
    return list(places), (starts[rows] + places).tolist(), inner


def _select(groups: Groups, index: list[int]) -> Groups:
    return Groups(
        old_logps_GKT=groups.old_logps_GKT[index],
        scores_GK=groups.scores_GK[index],
        mask_GKT=groups.mask_GKT[index],
        present_GK=groups.present_GK[index],
    )


def _array(values_K: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values_K.float().cpu().numpy()
    return array
