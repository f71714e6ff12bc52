"""From the record that travels to the tensors that the policy and the objective see."""

import numpy as np
import torch
from torch import Tensor

from tpo_dist.objective import Groups
from tpo_dist.policies.contract import CandidateBatch
from tpo_dist.records import ScoredGroups, pad


def to_tensors(record: ScoredGroups, device: torch.device) -> tuple[CandidateBatch, Groups]:
    """Padded tensors of a record, copied to the device: the record's own arrays are read-only and shared."""
    prompts = pad(record.prompt_tokens, record.prompt_lengths)
    if not (record.prompt_lengths == prompts.shape[1]).all():
        raise ValueError(
            f"prompts of {int(record.prompt_lengths.min())} to {prompts.shape[1]} tokens in one batch; "
            "this policy takes prompts of one length"
        )
    tokens = pad(record.tokens, record.lengths)
    mask = np.arange(tokens.shape[-1]) < record.lengths[..., None]
    rewards = None if record.token_rewards is None else pad(record.token_rewards, record.lengths)

    def tensor(array: "np.typing.NDArray[np.generic]", dtype: torch.dtype) -> Tensor:
        return torch.tensor(array, dtype=dtype, device=device)

    batch = CandidateBatch(
        prompts_GP=tensor(prompts, torch.int64),
        tokens_GKT=tensor(tokens, torch.int64),
        mask_GKT=tensor(mask, torch.bool),
    )
    groups = Groups(
        old_logps_GKT=tensor(pad(record.behavior_logprobs, record.lengths), torch.float32),
        scores_GK=tensor(record.scores, torch.float32),
        mask_GKT=batch.mask_GKT,
        present_GK=torch.ones(record.scores.shape, dtype=torch.bool, device=device),
        token_rewards_GKT=None if rewards is None else tensor(rewards, torch.float32),
    )
    return batch, groups
