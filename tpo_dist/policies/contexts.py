"""What policies over numbered contexts share: a prompt is one token, a candidate is one token.

Shapes: G groups, K candidates, T = 1 token, V arms.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tpo_dist.policies.contract import CandidateBatch, SamplingPolicy
from tpo_dist.policies.tree_sampling import draw_tokens


class ContextPolicy(SamplingPolicy):
    """A categorical distribution over arms for each context."""

    @abstractmethod
    def logits(self, contexts_G: Tensor) -> Tensor:
        """Logits [G, V] of the arms."""

    @torch.no_grad()
    def sample(self, prompts_GP: Tensor, uniforms_GKT: Tensor, *, follow_first: bool = False) -> tuple[Tensor, Tensor]:
        """K arms for each context; with one token there is nothing to follow."""
        groups, candidates = uniforms_GKT.shape[:2]
        _check_one_token(prompts_GP, uniforms_GKT)
        logps_GV = F.log_softmax(self.logits(prompts_GP[:, 0]), dim=-1)
        rows = logps_GV.repeat_interleave(candidates, dim=0)
        tokens = draw_tokens(rows, uniforms_GKT.reshape(-1)).view(groups, candidates, 1)
        return tokens, logps_GV.gather(1, tokens[..., 0]).unsqueeze(-1)

    def scorer(self, batch: CandidateBatch) -> Callable[[], Tensor]:
        """Each context is computed once for all its candidates."""
        batch.refuse_ragged_prompts()
        _check_one_token(batch.prompts_GP, batch.tokens_GKT)
        contexts_G = batch.prompts_GP[:, 0]
        arms_GK = torch.where(batch.mask_GKT, batch.tokens_GKT, 0)[..., 0]

        def score() -> Tensor:
            logps_GV = F.log_softmax(self.logits(contexts_G), dim=-1)
            return torch.where(batch.mask_GKT, logps_GV.gather(1, arms_GK).unsqueeze(-1), 0.0)

        return score


def _check_one_token(prompts_GP: Tensor, candidates_GKT: Tensor) -> None:
    if prompts_GP.shape[1] != 1 or candidates_GKT.shape[2] != 1:
        raise ValueError(
            f"prompts of {prompts_GP.shape[1]} and candidates of {candidates_GKT.shape[2]} tokens; "
            "this policy takes one token of each"
        )
