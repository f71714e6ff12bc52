"""One row of real tokens for a batch of groups: each prompt once, its candidates behind it, no padding.

A candidate's positions go on where its prompt ends, and it sees its prompt and itself. Its last token stands nowhere in
the row, as nothing follows from it.

Shapes: G groups, K candidates, T tokens of a candidate, P tokens of a prompt, N tokens of the row, M tokens to be
predicted, Q queries and S keys of one part of the attention, C candidates of a part.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_dist.policies.contract import CandidateBatch

_SHORTER = 0.75
"""Sequences shorter than this share of a part's longest begin the next part: padding inside attention stays small."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Part:
    """Sequences of similar length whose attention is computed together."""

    queries_CQ: Tensor
    """Where in the row each query stands; -1 on padding behind the end of a sequence."""
    keys_CS: Tensor
    """Where its keys stand: first the prompt, then the candidate; -1 on padding."""
    mask_C1QS: Tensor | None
    """Which keys each query sees; None: those up to its own position."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Packing:
    """A packed batch, prepared once for any number of passes."""

    tokens_N: Tensor
    positions_N: Tensor
    """Place of each token in its own sequence, prompt included."""
    outputs_M: Tensor
    """The token of the row after which each predicted token comes."""
    targets_M: Tensor
    """The predicted tokens, in the order of the batch's mask."""
    parts: tuple[Part, ...]
    """Every token of the row is a query of exactly one part."""
    order_N: Tensor
    """Where each token of the row stands among the queries of all parts, one part after another, padding included."""
    groups_N: Tensor
    """Number of the group of each token, for masks over the whole row."""
    candidates_N: Tensor
    """Number of the candidate of each token; -1 in prompts."""
    longest: int
    """Tokens of the longest sequence, prompt included."""

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether the token at `query` sees the one at `key`, any shape of places in the row."""
        own = (self.candidates_N[key] == -1) | (self.candidates_N[key] == self.candidates_N[query])
        return (key <= query) & own & (self.groups_N[key] == self.groups_N[query])


def pack(batch: CandidateBatch) -> Packing:
    """The row of a batch, on the device of the batch. Raises ValueError for a prompt without tokens."""
    mask_GKT, device = batch.mask_GKT, batch.prompts_GP.device
    groups, size, length = mask_GKT.shape
    prompt_G, mask_GP = batch.prompt_lengths, batch.prompt_mask
    if bool((prompt_G == 0).any()):
        raise ValueError("a prompt has no tokens, and the first token of a candidate follows from its prompt")
    nodes_GK = (mask_GKT.sum(dim=-1) - 1).clamp(min=0)
    total_G = prompt_G + nodes_GK.sum(dim=1)
    start_G = total_G.cumsum(0) - total_G
    start_GK = (start_G + prompt_G).unsqueeze(1) + nodes_GK.cumsum(1) - nodes_GK
    steps_P, steps_T = torch.arange(mask_GP.shape[1], device=device), torch.arange(length, device=device)
    place_GP = start_G.unsqueeze(1) + steps_P
    place_GKT = start_GK.unsqueeze(2) + steps_T
    inner_GKT = steps_T < nodes_GK.unsqueeze(2)
    row = torch.cat([place_GP[mask_GP], place_GKT[inner_GKT]])

    def in_row(of_prompts: Tensor, of_candidates: Tensor) -> Tensor:
        values_N = torch.empty(len(row), dtype=torch.int64, device=device)
        values_N[row] = torch.cat(
            [of_prompts.expand(mask_GP.shape)[mask_GP], of_candidates.expand_as(tokens)[inner_GKT]]
        )
        return values_N

    tokens = batch.tokens_GKT
    group_G = torch.arange(groups, device=device)
    last_GK1 = (start_G + prompt_G - 1).view(-1, 1, 1).expand(-1, size, 1)
    parts = (
        *_prompt_parts(place_GP, prompt_G),
        *_candidate_parts(place_GP, prompt_G, place_GKT.flatten(0, 1), nodes_GK.flatten()),
    )
    places = torch.cat([part.queries_CQ.flatten() for part in parts])
    real = (places >= 0).nonzero().squeeze(1)
    return Packing(
        tokens_N=in_row(batch.prompts_GP, tokens),
        positions_N=in_row(steps_P, prompt_G.view(-1, 1, 1) + steps_T),
        outputs_M=torch.cat([last_GK1, place_GKT[..., :-1]], dim=2)[mask_GKT],
        targets_M=tokens[mask_GKT],
        parts=parts,
        order_N=real[places[real].argsort()],
        groups_N=in_row(group_G.unsqueeze(1), group_G.view(-1, 1, 1)),
        candidates_N=in_row(torch.tensor(-1, device=device), torch.arange(size, device=device).view(-1, 1)),
        longest=int((prompt_G.unsqueeze(1) + mask_GKT.sum(dim=-1)).max()),
    )


def _prompt_parts(place_GP: Tensor, prompt_G: Tensor) -> list[Part]:
    parts = []
    for rows, longest in _alike(prompt_G):
        places_CQ = _front(place_GP, rows, prompt_G, longest)
        parts.append(Part(queries_CQ=places_CQ, keys_CS=places_CQ, mask_C1QS=None))
    return parts


def _candidate_parts(place_GP: Tensor, prompt_G: Tensor, place_RT: Tensor, nodes_R: Tensor) -> list[Part]:
    """Parts of the candidates, R = G K rows; those of fewer than two tokens have no queries."""
    parts, size = [], len(nodes_R) // len(prompt_G)
    for rows, longest in _alike(nodes_R):
        groups = rows // size
        prompts_CP = _front(place_GP, groups, prompt_G, int(prompt_G[groups].max()))
        queries_CQ = _front(place_RT, rows, nodes_R, longest)
        causal_QQ = torch.ones(longest, longest, dtype=torch.bool, device=rows.device).tril()
        shape = (len(rows), longest, -1)
        mask_CQS = torch.cat([(prompts_CP >= 0).unsqueeze(1).expand(shape), causal_QQ.expand(shape)], dim=2)
        keys_CS = torch.cat([prompts_CP, queries_CQ], dim=1)
        parts.append(Part(queries_CQ=queries_CQ, keys_CS=keys_CS, mask_C1QS=mask_CQS.unsqueeze(1)))
    return parts


def _front(place_RT: Tensor, rows: Tensor, lengths_R: Tensor, longest: int) -> Tensor:
    """The first places of these rows, -1 behind the end of each."""
    real = torch.arange(longest, device=rows.device) < lengths_R[rows].unsqueeze(1)
    return torch.where(real, place_RT[rows, :longest], -1)


def _alike(lengths_R: Tensor) -> list[tuple[Tensor, int]]:
    """Rows of similar length together, the longest first, each with its longest; rows of length 0 are left out."""
    order = lengths_R.argsort(descending=True, stable=True)
    lengths = [length for length in lengths_R[order].tolist() if length > 0]
    parts, begin = [], 0
    for index in range(1, len(lengths) + 1):
        if index == len(lengths) or lengths[index] < _SHORTER * lengths[begin]:
            parts.append((order[begin:index], lengths[begin]))
            begin = index
    return parts
