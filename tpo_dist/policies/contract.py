"""What a policy is to the rest of the house: a torch module that samples candidates and scores their tokens.

Shapes: G groups (one prompt each), K candidates, T tokens of a candidate, P tokens of a prompt.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class CandidateBatch:
    """Candidates whose tokens are to be scored, as padded tensors."""

    prompts_GP: Tensor
    """int64; padded behind the end where `prompt_lengths_G` says so."""
    tokens_GKT: Tensor
    """int64; anything where the mask is False."""
    mask_GKT: Tensor
    """True where a token was sampled."""
    prefixes_GT: Tensor | None = None
    """Where given, every candidate token is one alternative at its position of this sequence, not the continuation of
    the candidate's own tokens: token-level groups share their trajectory instead of copying it."""
    prompt_lengths_G: Tensor | None = None
    """int64, tokens of each prompt; None: all prompts are as long as the array is wide."""

    @property
    def prompt_lengths(self) -> Tensor:
        """Tokens of each prompt [G], also where all are equal."""
        if self.prompt_lengths_G is not None:
            return self.prompt_lengths_G
        count, width = self.prompts_GP.shape
        return torch.full((count,), width, device=self.prompts_GP.device)

    @property
    def prompt_mask(self) -> Tensor:
        """True where a prompt has a token [G, P]."""
        steps = torch.arange(self.prompts_GP.shape[1], device=self.prompts_GP.device)
        return steps < self.prompt_lengths.unsqueeze(1)

    def refuse_ragged_prompts(self) -> None:
        """Raise ValueError where prompts differ in length; policies call it that cannot take such."""
        if self.prompt_lengths_G is not None:
            raise ValueError(
                f"prompts of {int(self.prompt_lengths_G.min())} to {int(self.prompt_lengths_G.max())} tokens in one "
                "batch; this policy takes prompts of one length"
            )

    def __len__(self) -> int:
        return len(self.prompts_GP)

    def check(self, vocab_size: int) -> None:
        """Raise ValueError unless sampled tokens stand at the front of each row and are of the vocabulary.

        Scorers call it: a prefix tree would read other nodes for such tokens, and say nothing.
        """
        mask, sampled = self.mask_GKT, torch.where(self.mask_GKT, self.tokens_GKT, 0)
        rows = [self.prompts_GP, sampled]
        if self.prefixes_GT is not None:
            rows.append(torch.where(mask.any(dim=1), self.prefixes_GT, 0))
        tokens = torch.cat([row.reshape(-1) for row in rows])
        holes = (mask[..., 1:] & ~mask[..., :-1]).any()
        strange = ((tokens < 0) | (tokens >= vocab_size)).any()
        if not bool(holes | strange):  # one answer for both: on a GPU, asking costs more than computing
            return
        if bool(holes):
            raise ValueError("mask_GKT has a hole: the tokens of a candidate stand one after another from its start")
        low, high = int(tokens.min()), int(tokens.max())
        raise ValueError(f"token ids run from {low} to {high}; those of this policy from 0 to {vocab_size - 1}")

    def select(self, groups: Tensor | slice, candidates: slice = slice(None)) -> "CandidateBatch":
        """These groups, with these of their candidates."""
        return CandidateBatch(
            prompts_GP=self.prompts_GP[groups],
            tokens_GKT=self.tokens_GKT[groups][:, candidates],
            mask_GKT=self.mask_GKT[groups][:, candidates],
            prefixes_GT=None if self.prefixes_GT is None else self.prefixes_GT[groups],
            prompt_lengths_G=None if self.prompt_lengths_G is None else self.prompt_lengths_G[groups],
        )


@dataclass(frozen=True, slots=True)
class MatrixView:
    """How an optimizer for matrices sees a parameter: the last two axes of `shape` are (fan_in, fan_out)."""

    shape: tuple[int, ...]
    """The parameter is reshaped to this."""
    transposed: bool = False
    """True where the reshaped axes are (fan_out, fan_in), as torch stores linear layers."""


GREEDY = -1.0
"""In place of a uniform: take the likeliest token."""


class Policy(nn.Module, ABC):
    """A distribution over candidates whose log-probs can be differentiated."""

    @abstractmethod
    def scorer(self, batch: CandidateBatch) -> Callable[[], Tensor]:
        """Prepare a batch once; each call then gives the log-probs [G, K, T] (nats) of its tokens under the weights
        of that moment, differentiably; 0 on padding."""

    def published_parameters(self) -> dict[str, nn.Parameter]:
        """What training changes, by the name under which snapshots and checkpoints carry it."""
        return dict(self.named_parameters())

    def shard_units(self) -> list[nn.Module]:
        """The modules whose weights are whole at a time where ranks share them; none: all of them at once."""
        return []

    def frozen(self) -> "Policy":
        """This policy as it is now, for good: what a KL term holds on to."""
        return copy.deepcopy(self).requires_grad_(False)

    def probe(self) -> tuple[Tensor, Tensor] | None:
        """A few tokens [P] and the log-probs [P - 1] of all but the first, logits undivided, for samplers to compare
        theirs with after they have loaded weights; None where the sampler is the policy itself."""
        return None

    def matrix_views(self) -> dict[str, MatrixView]:
        """The parameters that a matrix optimizer (Muon) takes, by published name; every other one goes to Adam."""
        return {}


class SamplingPolicy(Policy):
    """One that also draws candidates. The others are language models: engines sample from their weights, and make their
    log-probs different by rounding."""

    @abstractmethod
    def sample(self, prompts_GP: Tensor, uniforms_GKT: Tensor, *, follow_first: bool = False) -> tuple[Tensor, Tensor]:
        """Draw K candidates of T tokens for each prompt.

        Every token is the inverse-CDF image of its own uniform in [0, 1), so the draw is a pure function of
        (weights, prompts, uniforms); GREEDY in its place takes the likeliest token. With `follow_first`, all K tokens
        at a position continue the first candidate (token-level groups).
        Returns tokens [G, K, T] (int64) and their log-probs [G, K, T] (nats).
        """
