"""From the record that travels to the tensors that the policy and the objective see."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tpo_dist.objective import Groups, make_groups
from tpo_dist.policies.contract import CandidateBatch
from tpo_dist.records import ScoredGroups, pad


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TrainingBatch:
    """One batch, as the policy sees it (N sequences of K candidates) and as the objective does (G groups).

    They are the same unless candidates are single tokens: then every position of a sequence is a group of its own.
    """

    candidates: CandidateBatch
    groups: Groups
    decisions_NT: Tensor | None = None
    """Where groups are positions: which positions exist."""
    token_weights_GKT: Tensor | None = None
    """Weights of an off-policy correction; None where every token counts fully."""

    def to_groups(self, values_NKT: Tensor) -> Tensor:
        """From the policy's shape to the objective's [G, K, T]."""
        if self.decisions_NT is None:
            return values_NKT
        return values_NKT.transpose(1, 2)[self.decisions_NT].unsqueeze(-1)

    def from_groups(self, values_GKT: Tensor) -> Tensor:
        """The inverse; 0 on padding."""
        if self.decisions_NT is None:
            return values_GKT
        size = self.candidates.tokens_GKT.shape[1]
        values_NTK = values_GKT.new_zeros(*self.decisions_NT.shape, size)
        values_NTK[self.decisions_NT] = values_GKT.squeeze(-1)
        return values_NTK.transpose(1, 2)


def to_tensors(record: ScoredGroups, device: torch.device) -> TrainingBatch:
    """Padded tensors of a record, copied to the device: the record's own arrays are read-only and shared."""
    prompts = pad(record.prompt_tokens, record.prompt_lengths)
    ragged = bool((record.prompt_lengths != prompts.shape[1]).any())
    tokens = pad(record.tokens, record.lengths)
    mask = np.arange(tokens.shape[-1]) < record.lengths[..., None]
    rewards = None if record.token_rewards is None else pad(record.token_rewards, record.lengths)

    def tensor(array: "np.typing.NDArray[np.generic]", dtype: torch.dtype) -> Tensor:
        return torch.tensor(array, dtype=dtype, device=device)

    candidates = CandidateBatch(
        prompts_GP=tensor(prompts, torch.int64),
        tokens_GKT=tensor(tokens, torch.int64),
        mask_GKT=tensor(mask, torch.bool),
        prefixes_GT=tensor(tokens[:, 0], torch.int64) if record.token_level else None,
        prompt_lengths_G=tensor(record.prompt_lengths, torch.int64) if ragged else None,
    )
    old_logps = tensor(pad(record.behavior_logprobs, record.lengths), torch.float32)
    if record.token_level:
        assert rewards is not None, "checked at the record's birth"
        return _by_position(candidates, old_logps, tensor(rewards, torch.float32))
    greedy = None if record.greedy_scores is None else tensor(record.greedy_scores, torch.float32)
    groups = Groups(
        old_logps_GKT=old_logps,
        scores_GK=tensor(record.scores, torch.float32),
        mask_GKT=candidates.mask_GKT,
        present_GK=torch.ones(record.scores.shape, dtype=torch.bool, device=device),
        token_rewards_GKT=None if rewards is None else tensor(rewards, torch.float32),
        greedy_scores_G=greedy,
    )
    return TrainingBatch(candidates=candidates, groups=groups)


def _by_position(candidates: CandidateBatch, old_logps_NKT: Tensor, scores_NKT: Tensor) -> TrainingBatch:
    """Every position a group of K candidates of one token."""
    decisions_NT = candidates.mask_GKT[:, 0]

    def by_position(values_NKT: Tensor) -> Tensor:
        return values_NKT.transpose(1, 2)[decisions_NT]

    groups = make_groups(by_position(old_logps_NKT).unsqueeze(-1), by_position(scores_NKT))
    return TrainingBatch(candidates=candidates, groups=groups, decisions_NT=decisions_NT)
