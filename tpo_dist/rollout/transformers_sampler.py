"""Sampling with the model of transformers itself: the reference, and small models on small machines.

The loop is our own rather than `model.generate`: it computes a prompt once for all its candidates, drops those that
have ended, and draws every token with the uniform of its own draw, candidate and position.

Shapes: G groups, K candidates (the greedy one among them, where asked for), C = G K candidates, A of them alive,
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
from tpo_dist.policies.tree_sampling import draw_tokens
from tpo_dist.randomness import draw_uniforms
from tpo_dist.records import Prompts, Snapshot, StopReason
from tpo_dist.rollout.contract import Candidates
from tpo_dist.rollout.generation import (
    Completion,
    Generation,
    refuse_less_than_one,
    refuse_truncation,
    require,
    require_installed,
    to_candidates,
)
from tpo_dist.rollout.incoming import borrow, checked_digest, merged, probe


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
        self._end_tokens = torch.tensor(generation.end_tokens, device=self._device)
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
        groups: list[list[Completion]] = []
        for start in range(0, len(rows), at_a_time):
            part = slice(start, start + at_a_time)
            found = _Decoding(self._model, rows[part], uniforms[part], about, self._end_tokens, self._text).run()
            size = uniforms.shape[1]
            groups += [found[first : first + size] for first in range(0, len(found), size)]
        greedy = [group.pop() for group in groups] if about.greedy else None
        return to_candidates(groups, greedy, self._version)


class _Decoding:
    """Some groups on their way from prompts to completions."""

    def __init__(
        self,
        model: Any,
        rows: Sequence[list[int]],
        uniforms_GKT: NDArray[np.float64],
        about: Generation,
        end_tokens: Tensor,
        text: Any,
    ) -> None:
        self._model, self._about, self._end_tokens, self._text = model, about, end_tokens, text
        self._rows, self._size = rows, uniforms_GKT.shape[1]
        self._uniforms_CT = torch.from_numpy(uniforms_GKT.reshape(-1, uniforms_GKT.shape[2])).to(end_tokens.device)
        self._tokens: list[list[int]] = [[] for _ in self._uniforms_CT]
        self._logps: list[list[float]] = [[] for _ in self._uniforms_CT]
        self._stops = [StopReason.LENGTH] * len(self._uniforms_CT)

    @torch.inference_mode()
    def run(self) -> list[Completion]:
        """Every completion, group by group."""
        logits_AV, cache, mask_AS, positions_A = self._read_prompts()
        alive_A = torch.arange(len(self._tokens), device=logits_AV.device)
        for step in range(self._about.max_tokens):
            drawn_A, ended_A = self._draw(logits_AV, alive_A, step)
            if step + 1 == self._about.max_tokens or bool(ended_A.all()):
                break
            if bool(ended_A.any()):
                kept = (~ended_A).nonzero().squeeze(1)
                cache.batch_select_indices(kept)
                alive_A, drawn_A, positions_A = alive_A[kept], drawn_A[kept], positions_A[kept]
                mask_AS = None if mask_AS is None else mask_AS[kept]
            if mask_AS is not None:
                mask_AS = torch.cat([mask_AS, mask_AS.new_ones(len(mask_AS), 1)], dim=1)
            out = self._model(
                drawn_A[:, None], attention_mask=mask_AS, position_ids=positions_A[:, None], past_key_values=cache
            )
            logits_AV, positions_A = out.logits[:, -1], positions_A + 1
        done = zip(self._tokens, self._logps, self._stops, strict=True)
        return [Completion(tokens=tokens, logps=logps, stop=stop) for tokens, logps, stop in done]

    def _read_prompts(self) -> tuple[Tensor, Any, Tensor | None, Tensor]:
        """Logits after each candidate's prompt, keys and values, mask (None: no padding) and next position."""
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
        cache = out.past_key_values
        cache.batch_repeat_interleave(self._size)
        mask_CP = None if mask_GP is None else mask_GP.repeat_interleave(self._size, 0)
        logits_CV = out.logits[:, -1].repeat_interleave(self._size, 0)
        return logits_CV, cache, mask_CP, lengths_G.repeat_interleave(self._size)

    def _draw(self, logits_AV: Tensor, alive_A: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The next token of each candidate that is alive, and whether it ends there."""
        logps_AV = (logits_AV.float() / (self._about.temperature or 1.0)).log_softmax(-1)
        drawn_A = draw_tokens(logps_AV, self._uniforms_CT[alive_A, step])
        logps_A = logps_AV.gather(1, drawn_A[:, None]).squeeze(1)
        ended_A = torch.isin(drawn_A, self._end_tokens)
        for row, token, logp in zip(alive_A.tolist(), drawn_A.tolist(), logps_A.tolist(), strict=True):
            self._tokens[row].append(token)
            self._logps[row].append(logp)
        if self._about.stop:
            said = [self._says_stop(row) for row in alive_A.tolist()]
            ended_A |= torch.tensor(said, device=ended_A.device)
        for row in alive_A[ended_A].tolist():
            self._stops[row] = StopReason.STOP
        return drawn_A, ended_A

    def _says_stop(self, row: int) -> bool:
        """Whether the end of a completion has a text that stops it; a character has at most four tokens of bytes."""
        longest = 4 * max(map(len, self._about.stop)) + 4
        said = self._text.decode(self._tokens[row][-longest:], skip_special_tokens=False)
        return any(text in said for text in self._about.stop)
