"""The weights of snapshots that groups may still come from, where the learner computes their log-probs anew.

Shapes: G groups, K candidates, T tokens of a candidate.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tpo_dist.learner.batch import TrainingBatch
from tpo_dist.learner.micro_batches import with_current_logps
from tpo_dist.learner.team import Team
from tpo_dist.policies.contract import Policy, SamplingPolicy
from tpo_dist.records import ScoredGroups, pad

_SMALL_BYTES = 1e9  # copies in main memory that a machine with such a model can spare


def groups_compared(wanted: int | None, policy: Policy) -> int:
    """How many groups of a step are computed anew to be compared with the sampler's word, where nothing else tells."""
    if isinstance(policy, SamplingPolicy):
        return 0
    small = sum(parameter.nbytes for parameter in policy.published_parameters().values()) <= _SMALL_BYTES
    return int(small) if wanted is None else wanted


class FrozenSnapshots:
    """Copies of published weights in main memory; of several ranks, each keeps its own part."""

    def __init__(self, policy: Policy) -> None:
        """Keeps none yet."""
        self._policy = policy
        self._kept: dict[int, list[Tensor]] = {}

    def keep(self, version: int, oldest: int) -> None:
        """Copy the policy's weights of this moment; those of versions before the `oldest` are dropped."""
        self._kept = {known: weights for known, weights in self._kept.items() if known >= oldest}
        self._kept[version] = [torch.empty_like(own, device="cpu").copy_(own) for own in self._own()]

    def recomputed(
        self,
        batch: TrainingBatch,
        record: ScoredGroups,
        now: int,
        limits: tuple[int | None, int | None, Team],
        first: int | None = None,
    ) -> tuple[TrainingBatch, Tensor]:
        """The batch with log-probs by the policy in place of the sampler's, each token's by the weights that drew it;
        and for which tokens [G, K, T] those are known: of version `now`, the policy's own, or kept. `first`: of so many
        groups alone."""
        drawn = record.token_versions
        if drawn is None:
            drawn = np.repeat(record.snapshot_versions, record.lengths.sum(axis=1))
        versions_GKT = torch.from_numpy(pad(drawn, record.lengths)).to(batch.groups.live.device)
        versions_GKT = torch.where(batch.groups.live, versions_GKT, -1)
        if first is not None:
            versions_GKT[first:] = -1
        old_GKT, known_GKT = batch.groups.old_logps_GKT, torch.zeros_like(batch.groups.live)
        for version in sorted({*drawn.tolist()} & {now, *self._kept}):
            mine_GKT = versions_GKT == version
            if not bool(mine_GKT.any()):
                continue
            with self._weights_of(version, now):
                found = with_current_logps(self._policy, batch, mine_GKT.flatten(1).any(dim=1), *limits)
            old_GKT = torch.where(mine_GKT, found.groups.old_logps_GKT, old_GKT)
            known_GKT |= mine_GKT
        return replace(batch, groups=replace(batch.groups, old_logps_GKT=old_GKT)), known_GKT

    @contextmanager
    def _weights_of(self, version: int, now: int) -> Iterator[None]:
        """Inside, the policy has the weights of that version."""
        if version == now:
            yield
            return
        present = [own.clone() for own in self._own()]
        try:
            self._put(self._kept[version])
            yield
        finally:
            self._put(present)

    def _own(self) -> list[Tensor]:
        """The weights that snapshots carry, or this rank's part of each, in their own memory."""
        found = [parameter.detach() for parameter in self._policy.published_parameters().values()]
        return [each.to_local() if hasattr(each, "to_local") else each for each in found]

    @torch.no_grad()
    def _put(self, weights: list[Tensor]) -> None:
        for own, weight in zip(self._own(), weights, strict=True):
            own.copy_(weight)
