"""Causal self-attention over the paths of a prefix tree, with its own backward pass.

The rows are short and many, a shape on which fused attention kernels for CPU spend most of their time on overhead;
plain batched products over gathered rows are several times faster. Gradients of keys that several paths share are
summed in a fixed order, so results do not depend on how threads are scheduled.

Shapes: N nodes, D = h d width, h heads, d head width, R rows, Q queries and S keys of a row, M nodes of a part.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tpo_dist.policies.prefix_tree import Paths


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class PathPlan:
    """One part of the forest, prepared for attention: where its queries, keys and results lie.

    Rows are counted per head: in the fused projection seen as [N * 3 h, d] (queries, keys, values of a node one after
    another), in the result seen as [N * h, d], and in what was computed, seen as [h * R * Q, d].
    """

    shape: tuple[int, int, int, int]
    """h, R, Q, S."""
    queries: Tensor
    """[R Q] node of each query."""
    keys: Tensor
    """[R S] node of each key."""
    sources: Tensor
    """[M h] rows of what was computed that are taken."""
    results: Tensor
    """[M h] rows of the result that they become."""
    query_gradients: Tensor
    """[M h] rows of the projection that their queries are."""
    bag_members: Tensor
    """[2 h R S] rows of the gradient of keys and values, sorted by the row of the projection they belong to."""
    bag_starts: Tensor
    """[N * 2 h] where each row's members begin."""


def plan_paths(paths: Paths, nodes: int, heads: int) -> PathPlan:
    """Prepare a part of a forest of `nodes` nodes; good for every layer and every pass."""
    (rows, queries), keys = paths.queries_RQ.shape, paths.keys_RS.shape[1]
    device = paths.keys_RS.device
    head = torch.arange(heads, device=device)
    flat_keys = paths.keys_RS.reshape(-1)
    order = torch.argsort(flat_keys, stable=True)
    counts = torch.bincount(flat_keys, minlength=nodes)
    bag_counts = counts.repeat_interleave(2 * heads)
    bag_starts = bag_counts.cumsum(0) - bag_counts
    bag_of_member = torch.repeat_interleave(torch.arange(len(bag_counts), device=device), bag_counts)
    place = torch.arange(len(bag_of_member), device=device) - bag_starts[bag_of_member]
    node_starts = counts.cumsum(0) - counts
    members = order[node_starts[bag_of_member // (2 * heads)] + place]
    return PathPlan(
        shape=(heads, rows, queries, keys),
        queries=paths.queries_RQ.reshape(-1),
        keys=flat_keys,
        sources=(paths.cells_M[:, None] + head * (rows * queries)).reshape(-1),
        results=(paths.nodes_M[:, None] * heads + head).reshape(-1),
        query_gradients=(paths.nodes_M[:, None] * (3 * heads) + head).reshape(-1),
        bag_members=members + (bag_of_member % (2 * heads)) * len(flat_keys),
        bag_starts=bag_starts,
    )


def path_attention(qkv: Tensor, plans: tuple[PathPlan, ...]) -> Tensor:
    """What each node reads [N, D] from fused queries, keys and values [N, 3 D]."""
    out: Tensor = _PathAttention.apply(qkv, plans)  # type: ignore[no-untyped-call]
    return out


def causal_bias(queries: int, keys: int, like: Tensor) -> Tensor:
    """0 where query i may read key j (the last `queries` keys are the queries' own), -inf elsewhere: [Q, S]."""
    bias = torch.full((queries, keys), -math.inf, dtype=like.dtype, device=like.device)
    return bias.triu(keys - queries + 1)


class _PathAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, plans: tuple[PathPlan, ...]) -> Tensor:
        heads, width = plans[0].shape[0], qkv.shape[1] // 3
        out = qkv.new_empty(len(qkv) * heads, width // heads)
        saved: list[Tensor] = []
        for plan in plans:
            _, rows, queries, keys = plan.shape
            q = qkv[:, :width].index_select(0, plan.queries).mul_((width // heads) ** -0.5)
            q = q.view(rows, queries, heads, -1)
            kv = qkv[:, width:].index_select(0, plan.keys).view(rows, keys, 2, heads, -1)
            bias = causal_bias(queries, keys, q)
            p = q.new_empty(heads, rows, queries, keys)
            read = q.new_empty(heads, rows, queries, width // heads)
            for head in range(heads):
                scores = torch.bmm(q[:, :, head], kv[:, :, 0, head].transpose(1, 2)).add_(bias)
                torch.softmax(scores, dim=-1, out=p[head])
                torch.bmm(p[head], kv[:, :, 1, head], out=read[head])
            read_rows = read.view(-1, width // heads)
            out.index_copy_(0, plan.results, read_rows.index_select(0, plan.sources))
            saved += [q, kv, p]
        ctx.save_for_backward(*saved)
        ctx.plans = plans
        return out.view(len(qkv), width)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None]:
        plans: tuple[PathPlan, ...] = ctx.plans
        heads, (nodes, width) = plans[0].shape[0], grad_out.shape
        grad_rows = grad_out.reshape(nodes * heads, -1)
        grad = grad_out.new_empty(nodes * 3 * heads, width // heads)
        kv_by_node = grad.view(nodes, 3 * heads, -1)[:, heads:]
        for index, plan in enumerate(plans):
            q, kv, p = ctx.saved_tensors[3 * index : 3 * index + 3]
            _, rows, queries, keys = plan.shape
            grad_read = q.new_zeros(heads, rows, queries, width // heads)
            given = grad_rows.index_select(0, plan.results)
            grad_read.view(-1, width // heads).index_copy_(0, plan.sources, given)
            grad_q = torch.empty_like(grad_read)
            grad_kv = q.new_empty(2, heads, rows, keys, width // heads)
            for head in range(heads):
                grad_p = torch.bmm(grad_read[head], kv[:, :, 1, head].transpose(1, 2))
                grad_s = torch._softmax_backward_data(grad_p, p[head], -1, p.dtype)
                torch.bmm(grad_s, kv[:, :, 0, head], out=grad_q[head])
                torch.bmm(grad_s.transpose(1, 2), q[:, :, head], out=grad_kv[0, head])
                torch.bmm(p[head].transpose(1, 2), grad_read[head], out=grad_kv[1, head])
            asked = grad_q.view(-1, width // heads).index_select(0, plan.sources)
            grad.index_copy_(0, plan.query_gradients, asked.mul_((width // heads) ** -0.5))
            members = grad_kv.view(-1, width // heads)
            summed = F.embedding_bag(plan.bag_members, members, plan.bag_starts, mode="sum").view_as(kv_by_node)
            if index == 0:
                kv_by_node.copy_(summed)
            else:
                kv_by_node.add_(summed)
        return grad.view(nodes, -1), None
