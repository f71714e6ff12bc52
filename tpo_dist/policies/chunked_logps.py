"""Log-probs of given tokens from hidden states, without ever holding the logits of all of them.

Logits of a chunk of tokens are made, used and overwritten; the backward pass makes them once more. Beside its inputs
and their gradients, the function needs the memory of one chunk.

Liger's fused linear cross-entropy does not stand in for it: until July 2026 its gradients were wrong for a loss of each
token (`reduction="none"`: linkedin/Liger-Kernel, issue 968 and pull request 1298), which is what an objective needs.
Since then (seen in 0.8.5) it makes all logits twice as well, knows no temperature, and rounds their gradients to the
precision of the weights before it scales them; what it may still save, nobody has held against this on a GPU.

Shapes: N tokens, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

_CHUNK_BYTES = 64 * 1024**2
"""Logits of one chunk where no chunk is given."""


def chunked_logps(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> Tensor:
    """log softmax((hidden @ weight.T + bias) / temperature) at the targets [N], in nats.

    Computed in float32, or in float64 where the inputs are; differentiable with respect to hidden, weight and bias.
    `chunk`: tokens whose logits exist at a time; None: as many as fit into 64 MB.
    Raises ValueError where the shapes do not agree.
    """
    if hidden_ND.ndim != 2 or weight_VD.ndim != 2 or hidden_ND.shape[1] != weight_VD.shape[1]:
        raise ValueError(f"hidden_ND has shape {list(hidden_ND.shape)} and weight_VD {list(weight_VD.shape)}")
    if targets_N.shape != hidden_ND.shape[:1]:
        raise ValueError(f"targets_N has shape {list(targets_N.shape)}; expected {list(hidden_ND.shape[:1])}")
    if chunk is None:
        chunk = max(1, _CHUNK_BYTES // (4 * len(weight_VD)))
    logps: Tensor = _ChunkedLogps.apply(hidden_ND, weight_VD, bias_V, targets_N, temperature, chunk)  # type: ignore[no-untyped-call]
    return logps


class _ChunkedLogps(torch.autograd.Function):
    """Keeps its inputs and one number for each token: log Z."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        temperature: float,
        chunk: int,
    ) -> Tensor:
        dtype = torch.promote_types(hidden_ND.dtype, torch.float32)
        logps_N, log_z_N = (hidden_ND.new_empty(len(hidden_ND), dtype=dtype) for _ in range(2))
        for part in _chunks(len(hidden_ND), chunk):
            logits_CV = _logits(hidden_ND[part], weight_VD, bias_V, temperature)
            log_z_N[part] = logits_CV.logsumexp(dim=-1)
            logps_N[part] = logits_CV.gather(1, targets_N[part].unsqueeze(-1)).squeeze(-1) - log_z_N[part]
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N, log_z_N)
        ctx.temperature, ctx.chunk = temperature, chunk
        return logps_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, targets_N, log_z_N = ctx.saved_tensors
        (g_N,) = gradients
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        dhidden_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        dweight_VD = torch.zeros_like(weight_VD, dtype=log_z_N.dtype) if wants_weight else None
        dbias_V = torch.zeros_like(bias_V, dtype=log_z_N.dtype) if wants_bias else None
        for part in _chunks(len(hidden_ND), ctx.chunk):
            # d logp / d logits = onehot - softmax, and the logits were divided by the temperature.
            scale_C1 = (g_N[part] / ctx.temperature).unsqueeze(-1)
            slope_CV = _logits(hidden_ND[part], weight_VD, bias_V, ctx.temperature)
            slope_CV.sub_(log_z_N[part].unsqueeze(-1)).exp_().mul_(-scale_C1)
            slope_CV.scatter_add_(1, targets_N[part].unsqueeze(-1), scale_C1)
            if dhidden_ND is not None:
                dhidden_ND[part] = slope_CV.to(weight_VD.dtype) @ weight_VD
            if dweight_VD is not None:
                _add_product(dweight_VD, slope_CV, hidden_ND[part])
            if dbias_V is not None:
                dbias_V += slope_CV.sum(dim=0)
        dweight = None if dweight_VD is None else dweight_VD.to(weight_VD.dtype)
        return dhidden_ND, dweight, None if dbias_V is None else dbias_V.to(bias_V.dtype), None, None, None


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _logits(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, temperature: float) -> Tensor:
    """Logits [C, V] over the temperature, in float32 at least; a fresh tensor that may be overwritten."""
    logits_CV = hidden_CD @ weight_VD.T if bias_V is None else torch.addmm(bias_V, hidden_CD, weight_VD.T)
    logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    return logits_CV if temperature == 1.0 else logits_CV.div_(temperature)


def _add_product(total_VD: Tensor, slope_CV: Tensor, hidden_CD: Tensor) -> None:
    """total += slope.T @ hidden; low-precision inputs multiply as such and are summed up in float32."""
    if hidden_CD.dtype == total_VD.dtype:
        total_VD.addmm_(slope_CV.T, hidden_CD)
    else:
        total_VD += slope_CV.to(hidden_CD.dtype).T @ hidden_CD
