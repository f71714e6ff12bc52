"""A few groups of each step, as the objective saw them and as the step left them, for people to look at.

Shapes: G groups of a batch, K candidates, T tokens of a candidate.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpo_dist.learner.batch import TrainingBatch
from tpo_dist.learner.micro_batches import current_logps, split
from tpo_dist.learner.team import Team
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
    target_K: NDArray[np.float32] | None = None
    """q, where the method builds a target."""
    advantages_K: NDArray[np.float32] | None = None
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
    limits: tuple[int | None, int | None, Team],
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
    after_GKT = current_logps(split(policy, part.candidates, *limits), part, limits[2])
    positions, whole, inner = _positions(rows, decisions, int(record.snapshot_versions[0]))
    seen = _seen(objective, _select(batch.groups, whole), signal[whole], after_GKT[inner])
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
            stops_K=found.stop_reasons[i],
            **{name: values[i] for name, values in seen.items()},
        )
        for i, row in enumerate(rows)
    )


def _seen(objective: Objective, groups: Groups, signal: Tensor, after_GKT: Tensor) -> dict[str, Any]:
    """What the objective makes of some groups, by field of their samples, one entry for each group."""
    old_GKT, live_GKT, builds_target = groups.old_logps_GKT, groups.live, isinstance(objective, TPO)
    if signal.ndim == 3:
        signal = token_sum(signal, live_GKT) / live_GKT.sum(dim=-1).clamp(min=1)
    tensors = {
        "scores_K": groups.scores_GK,
        "logps_old_K": token_sum(old_GKT, live_GKT),
        "logps_after_K": token_sum(after_GKT, live_GKT),
        "p_old_K": group_probabilities(objective, old_GKT, groups),
        "p_after_K": group_probabilities(objective, after_GKT, groups),
        "target_K" if builds_target else "advantages_K": signal,
    }
    seen: dict[str, Any] = {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}
    return {**seen, "zero_variance": zero_variance(groups.scores_GK, groups.present_GK).tolist()}


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
