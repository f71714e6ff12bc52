"""Causal self-attention over the paths of a prefix tree, with its own backward pass.

The rows are short and many, a shape on which fused attention kernels for CPU spend most of their time on overhead;
plain batched products are several times faster. Gradients of keys shared by several paths are summed.

Shapes: N nodes, D width, h heads, d head width, R rows, Q queries and S keys of a row.
"""

import math
from typing import Any

import torch
from torch import Tensor

from tpo_dist.policies.prefix_tree import Paths


def path_attention(qkv_ND3: Tensor, paths: tuple[Paths, ...], heads: int) -> Tensor:
    """What each node reads [N, D] from fused queries, keys and values [N, 3 D]."""
    out: Tensor = _PathAttention.apply(qkv_ND3, paths, heads)  # type: ignore[no-untyped-call]
    return out


def causal_bias(queries: int, keys: int, like: Tensor) -> Tensor:
    """0 where query i may read key j (the last `queries` keys are the queries' own), -inf elsewhere: [Q, S]."""
    bias = torch.full((queries, keys), -math.inf, dtype=like.dtype, device=like.device)
    return bias.triu(keys - queries + 1)


def _rows(flat_NC: Tensor, nodes: Tensor) -> Tensor:
    """Rows of the flat tensor, shaped like the index."""
    return flat_NC.index_select(0, nodes.reshape(-1)).view(*nodes.shape, flat_NC.shape[1])


class _PathAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, paths: tuple[Paths, ...], heads: int) -> Tensor:
        width = qkv.shape[1] // 3
        head_width = width // heads
        out = qkv.new_empty(len(qkv), width)
        saved: list[Tensor] = []
        for part in paths:
            q, kv = _rows(qkv[:, :width], part.queries_RQ), _rows(qkv[:, width:], part.keys_RS)
            q *= head_width**-0.5
            bias = causal_bias(q.shape[1], kv.shape[1], q)
            read = torch.empty_like(q)
            saved += [q, kv]
            for head in range(heads):
                own = slice(head * head_width, (head + 1) * head_width)
                values = slice(width + own.start, width + own.stop)
                p = torch.softmax(torch.bmm(q[..., own], kv[..., own].transpose(1, 2)).add_(bias), dim=-1)
                read[..., own] = torch.bmm(p, kv[..., values])
                saved.append(p)
            out.index_copy_(0, part.nodes_M, read.view(-1, width).index_select(0, part.cells_M))
        ctx.save_for_backward(*saved)
        ctx.paths, ctx.heads, ctx.nodes = paths, heads, len(qkv)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None]:
        heads, width = ctx.heads, grad_ND.shape[1]
        head_width = width // heads
        grad = grad_ND.new_zeros(ctx.nodes, 3 * width)
        saved = list(ctx.saved_tensors)
        for part in ctx.paths:
            q, kv, *ps = saved[: 2 + heads]
            del saved[: 2 + heads]
            read = q.new_zeros(q.shape)
            read.view(-1, width).index_copy_(0, part.cells_M, grad_ND.index_select(0, part.nodes_M))
            grad_q, grad_kv = torch.empty_like(q), torch.empty_like(kv)
            for head, p in enumerate(ps):
                own = slice(head * head_width, (head + 1) * head_width)
                values = slice(width + own.start, width + own.stop)
                grad_kv[..., values] = torch.bmm(p.transpose(1, 2), read[..., own])
                grad_p = torch.bmm(read[..., own], kv[..., values].transpose(1, 2))
                grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
                grad_q[..., own] = torch.bmm(grad_s, kv[..., own]).mul_(head_width**-0.5)
                grad_kv[..., own] = torch.bmm(grad_s.transpose(1, 2), q[..., own])
            grad[:, :width].index_add_(0, part.queries_RQ.reshape(-1), grad_q.view(-1, width))
            grad[:, width:].index_add_(0, part.keys_RS.reshape(-1), grad_kv.view(-1, 2 * width))
        return grad, None, None
