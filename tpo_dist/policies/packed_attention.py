"""Attention of a packed row: what a transformers model calls in place of its own, by the name `NAME`.

Plain: fused attention over the gathered keys of each part of the row (any device; K copies of a prompt's keys for the
time of one layer). Flex: FlexAttention over the whole row with a block mask, for CUDA. Nothing is ever quadratic in the
row but flex's mask of blocks.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tpo_dist.policies.packing import Packing

NAME = "tpo_packed"


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    block_mask: Any = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of queries [1, h, N, d] over a packed row [1, N, h, d], without dropout.

    Raises ValueError for a layer that does more than softmax attention over everything before.
    """
    if packing is None:
        raise ValueError("this model is set up for packed rows; model.set_attn_implementation('sdpa') undoes it")
    if others.get("softcap") is not None or others.get("s_aux") is not None:
        raise ValueError(f"{type(module).__name__} changes its attention scores in a way that packed rows do not know")
    if sliding_window is not None and packing.longest > sliding_window:
        raise ValueError(
            f"{type(module).__name__} sees the last {sliding_window} tokens only, and a sequence has {packing.longest}"
        )
    if block_mask is not None:
        return _flex(query.is_cuda)(
            query, key, value, block_mask=block_mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        ).transpose(1, 2), None
    q_Nhd, k_Nhd, v_Nhd = (x[0].transpose(0, 1) for x in (query, key, value))
    gqa = q_Nhd.shape[1] != k_Nhd.shape[1]
    results = []
    for part in packing.parts:
        out = F.scaled_dot_product_attention(
            _rows(q_Nhd, part.queries_CQ),
            _rows(k_Nhd, part.keys_CS),
            _rows(v_Nhd, part.keys_CS),
            attn_mask=part.mask_C1QS,
            is_causal=part.mask_C1QS is None,
            scale=scaling,
            enable_gqa=gqa,
        )
        results.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(results).index_select(0, packing.order_N).unsqueeze(0), None


def _rows(x_Nhd: Tensor, places_CS: Tensor) -> Tensor:
    """The values at these places, [C, h, S, d]; padding gets some real ones, which no mask lets through."""
    count, size = places_CS.shape
    rows = x_Nhd.index_select(0, places_CS.clamp(min=0).flatten())
    return rows.view(count, size, *x_Nhd.shape[1:]).transpose(1, 2)


@functools.cache
def _flex(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


def block_mask(packing: Packing) -> Any:
    """The mask of a row for FlexAttention."""
    from torch.nn.attention.flex_attention import create_block_mask

    length = len(packing.tokens_N)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return packing.sees(query, key)

    return create_block_mask(sees, None, None, length, length, device=str(packing.tokens_N.device))
