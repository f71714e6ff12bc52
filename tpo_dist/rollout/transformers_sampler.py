"""Sampling with the model of transformers itself: the reference, and small models on small machines.

The loop is our own rather than `model.generate`: it computes a prompt once for all its candidates, drops those that
have ended, and draws every token with the uniform of its own draw, candidate and position.

Shapes: G groups, K candidates (the greedy one among them, where asked for), C = G K candidates, A rows still decoded,
P tokens of the longest prompt, T tokens of a candidate, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.policies.contract import GREEDY
from tpo_dist.policies.tokenizer import load_tokenizer
from tpo_dist.randomness import draw_uniforms
from tpo_dist.records import Prompts, Snapshot, StopReason
from tpo_dist.rollout.contract import Candidates
from tpo_dist.rollout.decoder import LeanModel, LeanSteps, PlainSteps, Read, Steps, take_apart
from tpo_dist.rollout.generation import (
    Generation,
    refuse_less_than_one,
    refuse_truncation,
    require,
    require_installed,
)
from tpo_dist.rollout.incoming import borrow, checked_digest, merged, probe

_ENDED = 0.125
"""Once this share of the rows has ended, they are left out."""


@dataclass(frozen=True, slots=True)
class TransformersSampling:
    """The model of transformers decodes: for small models on small machines, and as a reference."""

    max_sequences: int = 256
    """Candidates decoded at a time; each takes memory for its keys and values."""
    top_p: float = 1.0
    """Only 1: other values sample from a distribution that training does not know."""
    top_k: int = 0
    """Only 0, for the same reason."""
    min_p: float = 0.0
    """Only 0, for the same reason."""

    def __post_init__(self) -> None:
        refuse_truncation(self.top_p, self.top_k, self.min_p)
        refuse_less_than_one(max_sequences=self.max_sequences)

    def check(self, generation: Generation, group_size: int) -> None:
        """Raise UsageError where the candidates of one prompt, which are decoded together, are more than allowed."""
        candidates = group_size + generation.greedy
        if candidates > self.max_sequences:
            reason = f"the {candidates} candidates of a prompt are decoded together"
            fix = f"give {candidates} or more, or lower rollout.group_size"
            raise UsageError(f"sampler.max_sequences = {self.max_sequences}", reason, fix)

    def require_package(self, device: str) -> None:
        """Raise UsageError where transformers is not installed."""
        require_installed("transformers", "transformers", "llm")

    def build(self, generation: Generation) -> "TransformersSampler":
        """The sampler, with the model in memory. Raises UsageError where transformers is not installed."""
        transformers = require("transformers", "llm")
        transformers.utils.logging.disable_progress_bar()
        model = transformers.AutoModelForCausalLM.from_pretrained(
            generation.path,
            revision=generation.revision,
            dtype=getattr(torch, generation.dtype),
            attn_implementation="sdpa",
            trust_remote_code=False,
        )
        return TransformersSampler(model.to(generation.device), generation, self.max_sequences)


class TransformersSampler:
    """Draws whole blocks; the random numbers belong to the draws, not to this sampler."""

    def __init__(self, model: Any, generation: Generation, max_sequences: int) -> None:
        """`model`: of transformers, with the weights of its folder; it is changed. `max_sequences`: candidates decoded
        at a time, whole groups of them."""
        self._model: Any = model.eval().requires_grad_(False)
        self._generation, self._max_sequences = generation, max_sequences
        self._device = torch.device(generation.device)
        self._base: dict[str, Tensor] = {}  # adapted weights without their adapters
        self._lean = take_apart(self._model)
        self._text: Any = load_tokenizer(generation.path, generation.revision).tokenizer if generation.stop else None
        self._version: int | None = None
        self._digest = ""

    @property
    def version(self) -> int | None:
        """The version of the loaded snapshot; None before the first."""
        return self._version

    @property
    def digest(self) -> str:
        """The checksum of the arrays that were loaded."""
        return self._digest

    def load(self, snapshot: Snapshot) -> None:
        """Copy the weights in. Raises WrongWeights where they did not arrive as published, or do not compute so."""
        digest = checked_digest(snapshot)
        parameters = dict(self._model.named_parameters())
        if self._generation.adapters is None:
            if parameters.keys() != snapshot.arrays.keys():
                odd = min(parameters.keys() ^ snapshot.arrays.keys())
                raise ValueError(f"weight {odd!r} is in the model or in the snapshot, but not in both")
            for name, array in snapshot.arrays.items():
                parameters[name].copy_(borrow(array))
        else:

            def plain(name: str) -> Tensor:
                if name not in self._base:
                    self._base[name] = parameters[name].clone()
                return self._base[name]

            for name, weight in merged(snapshot.arrays, self._generation.adapters.scale, plain):
                parameters[name].copy_(weight)
        probe(snapshot, self._generation.dtype, self._probe_logps)
        self._version, self._digest = snapshot.version, digest

    @torch.inference_mode()
    def _probe_logps(self, tokens: list[int]) -> list[float]:
        row = torch.tensor([tokens], device=self._device)
        logps = self._model(row, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        found: list[float] = logps.gather(1, row[0, 1:, None]).squeeze(1).tolist()
        return found

    def sample(self, prompts: Prompts, group_size: int) -> Candidates:
        """K candidates for each prompt. Raises RuntimeError before the first snapshot, UsageError for long prompts."""
        if self._version is None:
            raise RuntimeError("the sampler has no weights yet; load a snapshot first")
        rows, about = self._generation.rows(prompts), self._generation
        shape = (len(rows), group_size, about.max_tokens)
        uniforms = draw_uniforms(about.seed, "sample", prompts.ids, group_size * about.max_tokens).reshape(shape)
        if about.temperature == 0:
            uniforms = np.full(shape, GREEDY)
        if about.greedy:  # one more candidate beside the others
            uniforms = np.concatenate([uniforms, np.full((shape[0], 1, shape[2]), GREEDY)], axis=1)
        at_a_time = max(1, self._max_sequences // uniforms.shape[1])
        parts = [slice(start, start + at_a_time) for start in range(0, len(rows), at_a_time)]
        found = [self._decode(rows[part], uniforms[part]) for part in parts]
        tokens, logps, lengths, stops = (np.concatenate(each) for each in zip(*found, strict=True))
        tokens *= np.arange(about.max_tokens) < lengths[..., None]
        logps *= np.arange(about.max_tokens) < lengths[..., None]
        longest = int(lengths[:, :group_size].max())
        return Candidates(
            tokens_GKT=tokens[:, :group_size, :longest],
            lengths_GK=lengths[:, :group_size],
            logps_GKT=logps[:, :group_size, :longest],
            stop_reasons_GK=stops[:, :group_size],
            greedy_GT=tokens[:, group_size, : lengths[:, group_size].max()] if about.greedy else None,
            greedy_lengths_G=lengths[:, group_size] if about.greedy else None,
        )

    def _decode(self, rows: Sequence[list[int]], uniforms_GKT: NDArray[np.float64]) -> list[NDArray[Any]]:
        """Tokens [G, K, T], their log-probs, lengths [G, K] and stop reasons of some groups."""
        decoding = _Decoding(self._model, self._lean, rows, uniforms_GKT, self._generation, self._text)
        decoding.run()
        return [
            tensor.numpy(force=True).reshape(*uniforms_GKT.shape[:2], *tensor.shape[1:]) for tensor in decoding.found
        ]


class _Decoding:
    """Some groups on their way from prompts to completions."""

    def __init__(
        self,
        model: Any,
        lean: LeanModel | None,
        rows: Sequence[list[int]],
        uniforms_GKT: NDArray[np.float64],
        about: Generation,
        text: Any,
    ) -> None:
        self._model, self._lean, self._about, self._text = model, lean, about, text
        device = torch.device(about.device)
        self._rows, self._copies = rows, uniforms_GKT.shape[1]
        self._uniforms_TC = torch.from_numpy(uniforms_GKT.reshape(-1, uniforms_GKT.shape[2])).to(device).T.contiguous()
        self._greedy_C = self._uniforms_TC[0] == GREEDY
        self._end_tokens = torch.tensor(about.end_tokens, device=device)
        shape = (len(self._greedy_C), about.max_tokens)
        self._tokens_CT = torch.zeros(shape, dtype=torch.int32, device=device)
        self._logps_CT = torch.zeros(shape, device=device)
        self._lengths_C = torch.full(shape[:1], about.max_tokens, dtype=torch.int32, device=device)
        self._stops_C = torch.full(shape[:1], int(StopReason.LENGTH), dtype=torch.int8, device=device)

    @property
    def found(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [C, T], log-probs, lengths [C] and stop reasons. Behind a candidate's end is what was drawn there."""
        return self._tokens_CT, self._logps_CT, self._lengths_C, self._stops_C

    @torch.inference_mode()
    def run(self) -> None:
        """Every candidate to its end. Those that have ended are drawn along until they are some, as each time that
        rows are left out copies the keys and values of the others."""
        logits_AV, steps = self._read_prompts()
        rows_A = torch.arange(len(self._lengths_C), device=logits_AV.device)
        live_A = torch.ones_like(rows_A, dtype=torch.bool)
        for step in range(self._about.max_tokens):
            drawn_A = self._draw(logits_AV, rows_A, step)
            ended_A = self._ended(drawn_A, rows_A, step) & live_A
            if bool(ended_A.any()):
                self._lengths_C[rows_A[ended_A]] = step + 1
                self._stops_C[rows_A[ended_A]] = int(StopReason.STOP)
                live_A &= ~ended_A
            live = int(live_A.sum())
            if step + 1 == self._about.max_tokens or live == 0:
                break
            if live <= (1 - _ENDED) * len(live_A):
                kept = live_A.nonzero().squeeze(1)
                steps.keep(kept)
                rows_A, drawn_A, live_A = rows_A[kept], drawn_A[kept], live_A[kept]
            logits_AV = steps.step(drawn_A)

    def _read_prompts(self) -> tuple[Tensor, Steps]:
        """Logits after each candidate's prompt, and the candidates behind it."""
        device, longest = self._end_tokens.device, max(map(len, self._rows))
        tokens_GP = torch.tensor([[0] * (longest - len(row)) + row for row in self._rows], device=device)
        lengths_G = torch.tensor([len(row) for row in self._rows], device=device)
        positions_GP = torch.arange(longest, device=device) - (longest - lengths_G[:, None])
        ragged = bool((lengths_G < longest).any())
        mask_GP = (positions_GP >= 0).long() if ragged else None
        out = self._model(
            tokens_GP,
            attention_mask=mask_GP,
            position_ids=positions_GP.clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        read = Read(
            cache=out.past_key_values,
            copies=self._copies,
            mask_AP=None if mask_GP is None else mask_GP.repeat_interleave(self._copies, 0),
            positions_A=lengths_G.repeat_interleave(self._copies),
        )
        lean, tokens = self._lean, self._about.max_tokens
        steps = PlainSteps(self._model, read) if lean is None else LeanSteps(lean, read, tokens)
        return out.logits[:, -1].repeat_interleave(self._copies, 0), steps

    def _draw(self, logits_AV: Tensor, rows_A: Tensor, step: int) -> Tensor:
        """The next token of each row: the first whose cumulated probability exceeds the uniform, or the likeliest."""
        probs_AV = (logits_AV.float() / (self._about.temperature or 1.0)).softmax(-1)
        cumulated_AV = probs_AV.cumsum(-1, dtype=torch.float64)
        levels_A1 = self._uniforms_TC[step, rows_A].unsqueeze(1) * cumulated_AV[:, -1:]
        drawn_A1 = torch.searchsorted(cumulated_AV, levels_A1, right=True).clamp_(max=probs_AV.shape[1] - 1)
        greedy_A = self._greedy_C[rows_A]
        if bool(greedy_A.any()):
            drawn_A1[greedy_A] = probs_AV[greedy_A].argmax(-1, keepdim=True)
        self._tokens_CT[rows_A, step] = drawn_A1[:, 0].int()
        self._logps_CT[rows_A, step] = probs_AV.gather(1, drawn_A1)[:, 0].log()
        return drawn_A1[:, 0]

    def _ended(self, drawn_A: Tensor, rows_A: Tensor, step: int) -> Tensor:
        """Which rows end with their newest token: by it, or by a text that it completes."""
        ended_A = torch.isin(drawn_A, self._end_tokens)
        if self._about.stop:
            longest = 4 * max(map(len, self._about.stop)) + 4  # a character has at most four tokens of bytes
            said_AT = self._tokens_CT[rows_A, max(0, step + 1 - longest) : step + 1].tolist()
            said = [self._text.decode(tokens, skip_special_tokens=False) for tokens in said_AT]
            stops = [any(stop in text for stop in self._about.stop) for text in said]
            ended_A |= torch.tensor(stops, device=ended_A.device)
        return ended_A
