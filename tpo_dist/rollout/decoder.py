"""One token more for each candidate of a language model of transformers, again and again.

`PlainSteps` calls the model itself. `LeanSteps` does the same arithmetic on the model's own weights without all that is
around it: keys and values stay in place instead of being copied for each token, layers that read the same input are one
product, and what does not change from token to token is made once. On small models that is most of the time.

Shapes: A candidates, h query heads, H heads of keys, g = h / H, d width of a head, S places in the cache, P of them for
the longest prompt, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_KNOWN = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_STEADY = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings that do not depend on how long a sequence has become."""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.25}
"""By how much probabilities may differ from the model's own, added up over the vocabulary: rounding does less."""
_SPARE = 32
"""Places that are added to a cache when it is full."""


class Steps(Protocol):
    """Candidates on their way."""

    def keep(self, rows_A: Tensor) -> None:
        """Go on with these rows alone."""
        ...

    def step(self, tokens_A: Tensor) -> Tensor:
        """Logits [A, V] after one more token of each row."""
        ...


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Read:
    """Prompts that the model has read, each of them with `copies` candidates behind it."""

    cache: Any
    """Of transformers: keys and values, a row for each prompt."""
    copies: int
    mask_AP: Tensor | None
    """1 on tokens, 0 on padding before them; None where there is no padding."""
    positions_A: Tensor
    """Of each candidate's first token."""


class PlainSteps:
    """Calls the model."""

    def __init__(self, model: Any, read: Read) -> None:
        self._model, self._cache = model, read.cache
        self._cache.batch_repeat_interleave(read.copies)
        self._mask_AS, self._positions_A = read.mask_AP, read.positions_A

    def keep(self, rows_A: Tensor) -> None:
        """Go on with these rows alone."""
        self._cache.batch_select_indices(rows_A)
        self._positions_A = self._positions_A[rows_A]
        self._mask_AS = None if self._mask_AS is None else self._mask_AS[rows_A]

    def step(self, tokens_A: Tensor) -> Tensor:
        """Logits [A, V] after one more token of each row."""
        if self._mask_AS is not None:
            self._mask_AS = torch.cat([self._mask_AS, self._mask_AS.new_ones(len(tokens_A), 1)], dim=1)
        out = self._model(
            tokens_A[:, None],
            attention_mask=self._mask_AS,
            position_ids=self._positions_A[:, None],
            past_key_values=self._cache,
        )
        self._positions_A = self._positions_A + 1
        logits_AV: Tensor = out.logits[:, -1]
        return logits_AV


class LeanSteps:
    """Calls nothing but torch."""

    def __init__(self, model: "LeanModel", read: Read, tokens: int) -> None:
        """`tokens`: at most so many steps."""
        self._model, self._positions_A = model, read.positions_A
        self._used = read.cache.layers[0].keys.shape[2]
        self._caches = []
        for layer in read.cache.layers:  # its memory goes as ours comes
            cache = torch.stack([layer.keys, layer.values]).repeat_interleave(read.copies, 1)
            self._caches.append(_roomier(cache))
            layer.keys = layer.values = None
        self._cos_Sd, self._sin_Sd = model.rotary(self._used + tokens)
        self._bias_A11S: Tensor | None = None
        if read.mask_AP is not None:
            padding_AP = read.mask_AP == 0
            bias_AS = cache.new_zeros(len(padding_AP), self._used + tokens)
            bias_AS[:, : self._used].masked_fill_(padding_AP, -torch.inf)
            self._bias_A11S = bias_AS[:, None, None]

    def keep(self, rows_A: Tensor) -> None:
        """Go on with these rows alone."""
        for index, cache in enumerate(self._caches):
            self._caches[index] = cache.index_select(1, rows_A)
        self._positions_A = self._positions_A[rows_A]
        self._bias_A11S = None if self._bias_A11S is None else self._bias_A11S[rows_A]

    def step(self, tokens_A: Tensor) -> Tensor:
        """Logits [A, V] after one more token of each row."""
        cos_A1d, sin_A1d = (table[self._positions_A].unsqueeze(1) for table in (self._cos_Sd, self._sin_Sd))
        x_AD = F.embedding(tokens_A, self._model.embedding)
        for index, layer in enumerate(self._model.layers):
            if self._caches[index].shape[3] == self._used:
                self._caches[index] = _roomier(self._caches[index])
            x_AD = layer.attend(x_AD, cos_A1d, sin_A1d, self._caches[index], self._used, self._bias_A11S)
            x_AD = layer.think(x_AD)
        self._used += 1
        self._positions_A = self._positions_A + 1
        return self._model.predict(x_AD)


def _roomier(cache_2AHSd: Tensor) -> Tensor:
    used = cache_2AHSd.shape[3]
    size = list(cache_2AHSd.shape)
    size[3] += max(_SPARE, used // 2)
    roomy = cache_2AHSd.new_empty(size)
    roomy[:, :, :, :used] = cache_2AHSd
    return roomy


@dataclass(frozen=True, slots=True, eq=False)
class _Norm:
    """Root mean square norm, as these models have it."""

    module: Any
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        weight = self.module.weight
        scaled: Tensor = weight * F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype)
        return scaled


class _Fused:
    """Linear layers of one input as one. Their weights become parts of a common one, so that new values that are
    copied into them reach it."""

    def __init__(self, *layers: nn.Linear) -> None:
        self._weight = torch.cat([layer.weight.data for layer in layers])
        self.sizes = [len(layer.weight) for layer in layers]
        for layer, part in zip(layers, torch.split(self._weight, self.sizes), strict=True):
            layer.weight.data = part
        biased = [layer for layer in layers if layer.bias is not None]
        self._bias = torch.cat([layer.bias.data for layer in biased]) if len(biased) == len(layers) else None
        if self._bias is not None:
            for layer, part in zip(layers, torch.split(self._bias, self.sizes), strict=True):
                layer.bias.data = part
        elif biased:
            raise UnknownParts("some of them have a bias, and some have none")

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)


class _Layer:
    """Attention and feed-forward of one layer for one token a row."""

    def __init__(self, layer: Any, eps: float) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._before, self._between = _Norm(layer.input_layernorm, eps), _Norm(layer.post_attention_layernorm, eps)
        self._qkv = _Fused(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out, self._d, self._scale = attention.o_proj, attention.head_dim, attention.scaling
        self._h, self._H = (size // self._d for size in self._qkv.sizes[:2])
        norms = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else ()
        self._norms = [_Norm(norm, eps) for norm in norms]
        self._gate_up, self._down, self._act = _Fused(mlp.gate_proj, mlp.up_proj), mlp.down_proj, mlp.act_fn

    def attend(
        self, x_AD: Tensor, cos_A1d: Tensor, sin_A1d: Tensor, cache_2AHSd: Tensor, place: int, bias_A11S: Tensor | None
    ) -> Tensor:
        """The input and the attention's output; keys and values of the token are put at their place."""
        rows, heads = len(x_AD), self._h + self._H
        qkv = self._qkv(self._before(x_AD)).view(rows, heads + self._H, self._d)
        qk = qkv[:, :heads]
        if self._norms:
            parts = torch.split(qk, [self._h, self._H], dim=1)
            qk = torch.cat([norm(part) for norm, part in zip(self._norms, parts, strict=True)], dim=1)
        qk = torch.addcmul(qk * cos_A1d, qk.roll(self._d // 2, -1), sin_A1d)
        cache_2AHSd[0, :, :, place] = qk[:, self._h :]
        cache_2AHSd[1, :, :, place] = qkv[:, heads:]
        out_AHgd = F.scaled_dot_product_attention(
            qk[:, : self._h].reshape(rows, self._H, -1, self._d),
            cache_2AHSd[0, :, :, : place + 1],
            cache_2AHSd[1, :, :, : place + 1],
            attn_mask=None if bias_A11S is None else bias_A11S[..., : place + 1],
            scale=self._scale,
        )
        return x_AD + F.linear(out_AHgd.reshape(rows, -1), self._out.weight, self._out.bias)

    def think(self, x_AD: Tensor) -> Tensor:
        """The input and the feed-forward part's output."""
        gate, up = self._gate_up(self._between(x_AD)).chunk(2, dim=-1)
        return x_AD + F.linear(self._act(gate) * up, self._down.weight, self._down.bias)


class UnknownParts(Exception):
    """The model does something that lean steps do not; they leave it to plain ones."""


class LeanModel:
    """A model of transformers, taken apart. It shares all weights with the model, which works as before."""

    def __init__(self, model: Any) -> None:
        """Raises UnknownParts where the model has other parts than the known ones."""
        config = model.config
        if type(model).__name__ not in _KNOWN:
            raise UnknownParts(f"{type(model).__name__} is not known")
        if getattr(config, "sliding_window", None) is not None:
            raise UnknownParts("layers that see only part of the text")
        inner = model.model
        self._rotary = inner.rotary_emb
        if self._rotary.rope_type not in _STEADY:
            raise UnknownParts(f"rotary embeddings of type {self._rotary.rope_type!r}")
        self._embedding, self._head = inner.embed_tokens, model.lm_head
        self._norm = _Norm(inner.norm, config.rms_norm_eps)
        self.layers = [_Layer(layer, config.rms_norm_eps) for layer in inner.layers]

    @property
    def embedding(self) -> Tensor:
        """The vectors [V, D] of all tokens."""
        weight: Tensor = self._embedding.weight
        return weight

    def rotary(self, places: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [places, d]; the sines' first half is negative, for values whose halves changed places."""
        positions = torch.arange(places, device=self.embedding.device)[None]
        cos, sin = self._rotary(self.embedding, positions)
        half = sin.shape[-1] // 2
        return cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)

    def predict(self, x_AD: Tensor) -> Tensor:
        """Logits [A, V]."""
        return F.linear(self._norm(x_AD), self._head.weight, self._head.bias)


@torch.inference_mode()
def take_apart(model: Any) -> LeanModel | None:
    """The model for lean steps; None where it is not known, or does something that they do not."""
    try:
        lean = LeanModel(model)
    except (UnknownParts, AttributeError):
        return None
    size, device = min(1000, model.config.vocab_size), lean.embedding.device
    tokens = torch.randint(0, size, (2, 8), generator=torch.Generator().manual_seed(0)).to(device)
    mask = torch.ones(2, 4, dtype=torch.int64, device=device)
    mask[1, 0] = 0
    positions = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 2]], device=device)
    found = []
    for lean_too in (True, False):
        cache = model(tokens[:, :4], attention_mask=mask, position_ids=positions, use_cache=True).past_key_values
        read = Read(
            cache=cache,
            copies=2,
            mask_AP=mask.repeat_interleave(2, 0),
            positions_A=torch.tensor([4, 4, 3, 3], device=device),
        )
        steps = LeanSteps(lean, read, 4) if lean_too else PlainSteps(model, read)
        found.append(torch.stack([steps.step(column.repeat_interleave(2)) for column in tokens[:, 4:].T]))
    gap = found[0].float().softmax(-1) - found[1].float().softmax(-1)
    return lean if bool(gap.abs().sum(-1).max() <= _TOLERANCE.get(model.dtype, 0.0)) else None
