"""Drawing K candidates for each prompt over the prefix tree that they grow.

Candidates that have drawn the same tokens so far share one node: its output is computed once, and each of them draws
its next token from it with a uniform of its own. That is the same as computing every candidate by itself. Candidates
that all continue the first one (token-level groups) stay on its node for good.

Shapes: G groups, K candidates, T tokens, C = G K candidates, F nodes of the frontier, S keys of a frontier node,
D width, V vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tpo_dist.policies.contract import GREEDY
from tpo_dist.policies.path_attention import path_attention, plan_paths
from tpo_dist.policies.prefix_tree import merge_prompts

if TYPE_CHECKING:
    from tpo_dist.policies.transformer import Transformer


def draw_tokens(logps_CV: Tensor, uniforms_C: Tensor) -> Tensor:
    """The first token whose cumulated probability exceeds the uniform, or the likeliest for GREEDY: [C]."""
    cumulated = logps_CV.double().exp().cumsum(dim=-1)
    drawn = (cumulated <= uniforms_C.unsqueeze(-1) * cumulated[:, -1:]).sum(dim=-1)
    drawn = drawn.clamp(max=logps_CV.shape[-1] - 1)
    return torch.where(uniforms_C == GREEDY, logps_CV.argmax(dim=-1), drawn)


class _KeyValueCache:
    """Keys and values of every node so far, for each layer, in flat rows that paths point into."""

    def __init__(self, layers: int, like: Tensor, width: int, capacity: int) -> None:
        self.stores = [like.new_empty(capacity, 2 * width) for _ in range(layers)]
        self.used = 0

    def append(self, layer: int, kv: Tensor) -> None:
        self.stores[layer][self.used : self.used + len(kv)] = kv


def sample_over_tree(
    policy: "Transformer", prompts_GP: Tensor, uniforms_GKT: Tensor, follow_first: bool
) -> tuple[Tensor, Tensor]:
    """Tokens [G, K, T] (int64) and their log-probs [G, K, T] (nats)."""
    (prompt_len, (groups, width, length)) = prompts_GP.shape[1], uniforms_GKT.shape
    device = prompts_GP.device
    unique_UP, prompt_of_G, prompt_paths = merge_prompts(prompts_GP)
    uniforms_CT = uniforms_GKT.reshape(-1, length)
    cache = _KeyValueCache(
        len(policy.blocks), policy.positions, policy.positions.shape[1], unique_UP.numel() + uniforms_CT.numel()
    )
    prompt_nodes = torch.arange(unique_UP.numel(), device=device)
    prompt_plan = plan_paths(prompt_paths, len(prompt_nodes), policy.heads)
    x_ND = policy.embed(unique_UP.reshape(-1), prompt_nodes % prompt_len)
    for layer, block in enumerate(policy.blocks):

        def read_prompts(qkv: Tensor, layer: int = layer) -> Tensor:
            cache.append(layer, qkv[:, qkv.shape[1] // 3 :])
            return path_attention(qkv, (prompt_plan,))

        x_ND = block(x_ND, read_prompts)
    cache.used = len(prompt_nodes)
    keys_FS = prompt_paths.keys_RS
    node_of_C = prompt_of_G.repeat_interleave(width)
    logps_FV = policy.predict(x_ND.view(len(unique_UP), prompt_len, -1)[:, -1])
    tokens, logps = [], []
    for step in range(length):
        logps_CV = logps_FV.index_select(0, node_of_C)
        drawn = draw_tokens(logps_CV, uniforms_CT[:, step])
        tokens.append(drawn)
        logps.append(logps_CV.gather(1, drawn.unsqueeze(-1)).squeeze(-1))
        if step + 1 < length:
            vocab = logps_FV.shape[-1]
            followed = drawn.view(groups, width)[:, 0].repeat_interleave(width) if follow_first else drawn
            merged, node_of_C = torch.unique(node_of_C * vocab + followed, return_inverse=True)
            own = cache.used + torch.arange(len(merged), device=device)
            keys_FS = torch.cat([keys_FS[merged // vocab], own.unsqueeze(-1)], dim=1)
            logps_FV = _advance(policy, cache, merged % vocab, prompt_len + step, keys_FS)
    shape = (groups, width, length)
    return torch.stack(tokens, dim=-1).view(shape), torch.stack(logps, dim=-1).view(shape)


def _advance(policy: "Transformer", cache: _KeyValueCache, tokens_F: Tensor, position: int, keys_FS: Tensor) -> Tensor:
    """Log-probs [F, V] that follow each new node; its keys and values join the cache."""
    x_FD = policy.embed(tokens_F, torch.full_like(tokens_F, position))
    for layer, block in enumerate(policy.blocks):

        def read_paths(qkv: Tensor, layer: int = layer) -> Tensor:
            width = qkv.shape[1] // 3
            cache.append(layer, qkv[:, width:])
            return _read_one(qkv[:, :width], cache.stores[layer], keys_FS, policy.heads)

        x_FD = block(x_FD, read_paths)
    cache.used += len(tokens_F)
    return policy.predict(x_FD)


def _read_one(q_FD: Tensor, store: Tensor, keys_FS: Tensor, heads: int) -> Tensor:
    """Attention of one query per row over its whole path [F, D]."""
    frontier, width = q_FD.shape
    kv = store.index_select(0, keys_FS.reshape(-1)).view(frontier, keys_FS.shape[1], 2, heads, -1)
    q = q_FD.view(frontier, heads, -1) * (width // heads) ** -0.5
    p = torch.softmax(torch.einsum("fhd,fshd->fhs", q, kv[:, :, 0]), dim=-1)
    return torch.einsum("fhs,fshd->fhd", p, kv[:, :, 1]).reshape(frontier, width)
