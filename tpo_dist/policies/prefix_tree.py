"""Candidates of one prompt share prefixes; a prefix tree computes each shared prefix once.

All sequences of a batch (prompt and candidate together) are merged into a forest with one tree for each distinct
prompt. Every distinct prefix is one node, so a prompt is computed once for all its candidates, duplicate candidates
cost nothing, and candidates that agree on their first tokens share the work. Attention sees a node's ancestors only,
which is exactly what it would see in the unmerged sequences: the result changes by float rounding and nothing else.

Shapes: G groups, K candidates, T tokens, P prompt tokens, U distinct prompts, N nodes, R paths through the forest,
Q queries and S keys of a path.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Paths:
    """Stretches of the forest that attention can treat as rows of a dense batch.

    The last Q keys of a row are its queries: query i reads every key up to the one at its own place.
    """

    queries_RQ: Tensor
    """Node of each query."""
    keys_RS: Tensor
    """Node of each key, in order of position."""
    nodes_M: Tensor
    """The nodes whose attention these rows compute, each once."""
    cells_M: Tensor
    """The place of each such node in `queries_RQ`, as one index."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class PrefixTree:
    """The forest of a batch, in the flat order (prompts first, then depth by depth) that the network computes in."""

    tokens_N: Tensor
    """Token of each node."""
    positions_N: Tensor
    """Its position in the sequence."""
    paths: tuple[Paths, ...]
    """The prompts, and the ways from a prompt to each leaf; together they cover every node."""
    outputs_GKT: Tensor
    """The node whose output predicts each token of each candidate; 0 on padding."""


def merge_prompts(prompts_GP: Tensor) -> tuple[Tensor, Tensor, Paths]:
    """The distinct prompts [U, P], which of them each group asks [G], and their nodes U * P as paths."""
    unique_UP, prompt_of_G = torch.unique(prompts_GP, dim=0, return_inverse=True)
    nodes = torch.arange(unique_UP.numel(), device=prompts_GP.device)
    rows = nodes.view(unique_UP.shape)
    return unique_UP, prompt_of_G, Paths(queries_RQ=rows, keys_RS=rows, nodes_M=nodes, cells_M=nodes)


def build_prefix_tree(prompts_GP: Tensor, tokens_GKT: Tensor, mask_GKT: Tensor) -> PrefixTree:
    """Merge a batch. Only prefixes that predict a sampled token become nodes; a candidate's last token does not."""
    device = prompts_GP.device
    prompt_len, (groups, width, length) = prompts_GP.shape[1], tokens_GKT.shape
    unique_UP, prompt_of_G, prompt_paths = merge_prompts(prompts_GP)
    prompt_nodes = unique_UP.numel()
    flat_tokens, flat_mask = tokens_GKT.reshape(-1, length), mask_GKT.reshape(-1, length)
    vocab = int(torch.where(mask_GKT, tokens_GKT, 0).max()) + 1 if tokens_GKT.numel() else 1  # padding holds anything
    # The node that predicts the next token of each candidate, starting at the last token of its prompt.
    current = (prompt_of_G * prompt_len + prompt_len - 1).repeat_interleave(width)
    outputs, parent_levels, token_levels = [current], [], []
    base = prompt_nodes
    for depth in range(1, length):
        live = flat_mask[:, depth]
        keys, inverse = torch.unique(current[live] * vocab + flat_tokens[live, depth - 1], return_inverse=True)
        parent_levels.append(keys // vocab)
        token_levels.append(keys % vocab)
        current = current.clone()
        current[live] = base + inverse
        base += len(keys)
        outputs.append(current)
    depths = [torch.full_like(level, prompt_len + i) for i, level in enumerate(token_levels)]
    positions = torch.arange(prompt_len, device=device).repeat(len(unique_UP))
    outputs_GKT = torch.stack(outputs, dim=-1) if length else flat_mask.long()
    paths = [prompt_paths]
    if base > prompt_nodes:
        paths.append(_leaf_paths(prompt_nodes, prompt_len, parent_levels))
    return PrefixTree(
        tokens_N=torch.cat([unique_UP.reshape(-1), *token_levels]),
        positions_N=torch.cat([positions, *depths]),
        paths=tuple(paths),
        outputs_GKT=torch.where(flat_mask, outputs_GKT, 0).reshape(groups, width, length),
    )


def _leaf_paths(prompt_nodes: int, prompt_len: int, parent_levels: list[Tensor]) -> Paths:
    """One row for each leaf: its prompt, then the way down to it."""
    device = parent_levels[0].device
    parent_N = torch.cat([torch.arange(prompt_nodes, device=device), *parent_levels])
    nodes = len(parent_N)
    is_leaf = torch.ones(nodes, dtype=torch.bool, device=device)
    is_leaf[parent_N] = False
    depth_N = torch.cat(
        [torch.full_like(level, i + 1) for i, level in enumerate([parent_N[:prompt_nodes], *parent_levels], start=-1)]
    )
    leaves_R = is_leaf.nonzero().squeeze(-1)
    rows, columns = len(leaves_R), int(depth_N.max())
    queries_RQ = torch.empty(rows, columns, dtype=torch.long, device=device)
    current_R, depth_R = leaves_R, depth_N[leaves_R]
    for column in reversed(range(columns)):
        # A row shorter than the longest repeats its leaf behind its end, where no other query looks.
        queries_RQ[:, column] = current_R
        current_R = torch.where(depth_R > column, parent_N[current_R], current_R)
    behind_end = torch.arange(columns, device=device) >= depth_R.unsqueeze(-1)
    last_prompt_R = parent_N[queries_RQ[:, 0]]
    keys_RP = last_prompt_R.unsqueeze(-1) + torch.arange(1 - prompt_len, 1, device=device)
    cells = torch.arange(rows * columns, device=device)
    first_N = torch.full((nodes,), rows * columns, device=device)
    valid = ~behind_end.reshape(-1)
    first_N.scatter_reduce_(0, queries_RQ.reshape(-1)[valid], cells[valid], "amin")
    return Paths(
        queries_RQ=queries_RQ,
        keys_RS=torch.cat([keys_RP, queries_RQ], dim=1),
        nodes_M=torch.arange(prompt_nodes, nodes, device=device),
        cells_M=first_N[prompt_nodes:],
    )
