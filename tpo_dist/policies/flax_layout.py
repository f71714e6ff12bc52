"""Parameters in the layout of the author's JAX code, for starting from them and comparing with them."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpo_dist.policies.transformer import Block, Transformer

FloatArray = NDArray[np.float32]


def load_flax(policy: Transformer, arrays: Mapping[str, FloatArray]) -> None:
    """Copy reference parameters (`Dense_0/kernel`, `SelfAttention_1/query/bias`, …) into the policy.

    Raises ValueError where a name is missing or a shape differs.
    """
    theirs = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    with torch.no_grad():
        for name, part in _parts(policy).items():
            if name not in theirs:
                raise ValueError(f"the reference parameters lack {name!r}")
            value = theirs[name]
            if value.numel() != part.numel():
                raise ValueError(f"{name} has shape {list(value.shape)}; this policy wants {part.numel()} numbers")
            part.copy_(value.reshape(part.shape))


def to_flax(policy: Transformer) -> dict[str, FloatArray]:
    """The policy's parameters by reference name; attention tensors keep their heads merged into two axes."""
    return {name: part.detach().numpy().copy() for name, part in _parts(policy).items()}


def _parts(policy: Transformer) -> dict[str, Tensor]:
    """Views of the policy's parameters, by reference name, with axes in the reference's order."""
    parts = {"Embed_0/embedding": policy.embedding.weight, "pos_emb": policy.positions}
    blocks = [block for block in policy.blocks if isinstance(block, Block)]
    for i, block in enumerate(blocks):
        width = block.qkv.in_features
        for j, name in enumerate(("query", "key", "value")):
            rows = slice(j * width, (j + 1) * width)
            parts[f"SelfAttention_{i}/{name}/kernel"] = block.qkv.weight[rows].T
            parts[f"SelfAttention_{i}/{name}/bias"] = block.qkv.bias[rows]
        parts |= _dense(f"SelfAttention_{i}/out", block.out) | _dense(f"Dense_{2 * i}", block.up)
        parts |= _dense(f"Dense_{2 * i + 1}", block.down)
        parts |= _norm(f"LayerNorm_{2 * i}", block.attention_norm) | _norm(f"LayerNorm_{2 * i + 1}", block.ffn_norm)
    parts |= _norm(f"LayerNorm_{2 * len(blocks)}", policy.final_norm)
    return parts | _dense(f"Dense_{2 * len(blocks)}", policy.head)


def _dense(name: str, layer: torch.nn.Linear) -> dict[str, Tensor]:
    return {f"{name}/kernel": layer.weight.T, f"{name}/bias": layer.bias}


def _norm(name: str, layer: torch.nn.LayerNorm) -> dict[str, Tensor]:
    return {f"{name}/scale": layer.weight, f"{name}/bias": layer.bias}
