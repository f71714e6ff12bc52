"""Causal language models of transformers as policies, with or without LoRA (arXiv 2106.09685).

Nothing here imports transformers or peft before a model is loaded: `pretrained.py` does.

Shapes: G groups, K candidates, T tokens of a candidate, N tokens of a packed row, M tokens to be predicted, D width.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tpo_dist.errors import UsageError
from tpo_dist.policies.chunked_logps import chunked_logps
from tpo_dist.policies.contract import CandidateBatch, MatrixView, Policy
from tpo_dist.policies.packed_attention import block_mask
from tpo_dist.policies.packing import Packing, pack
from tpo_dist.policies.pretrained import (
    add_lora,
    check_logps,
    load_model,
    refuse_architecture,
    refuse_missing_weights,
    require,
)

_PROBE, _PROBED = 16, 1000
"""Tokens of the probe, and out of how many they are drawn."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalLMOptions:
    """Which model, in which precision, and what of it is trained."""

    path: str
    """Folder of a Hugging Face model, or its name on the hub; code that comes with a model is never run."""
    revision: str | None = None
    """Version on the hub; null: the newest."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights; adapters and optimizer state are float32 in any case."""
    lora_rank: int | None = None
    """Rank of the adapters, which alone are trained then; null: all weights are."""
    lora_alpha: float | None = None
    """Adapters count alpha / rank; null: alpha is the rank."""
    lora_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Names of the linear layers with adapters, such as q_proj; all-linear: all but the output layer."""
    gradient_checkpointing: bool = False
    """Compute layers once more in the backward pass instead of keeping what they computed."""
    attention: Literal["sdpa", "flex"] = "sdpa"
    """sdpa: torch's fused attention, any device; flex: FlexAttention, compiled for CUDA."""

    def __post_init__(self) -> None:
        if not self.path:
            raise UsageError("path = ''", "no model is named", "give a folder, or a name on the hub")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise UsageError(
                f"lora_rank = {self.lora_rank}", "an adapter has at least rank 1", "give 1 or more, or null"
            )
        if self.lora_rank is None and (self.lora_alpha is not None or self.lora_modules != "all-linear"):
            name = "lora_alpha" if self.lora_alpha is not None else "lora_modules"
            raise UsageError(
                name, "there are no adapters while lora_rank is null", "give lora_rank=32, or leave it out"
            )
        if self.lora_alpha is not None and self.lora_alpha <= 0:
            raise UsageError(f"lora_alpha = {self.lora_alpha}", "adapters would count nothing", "give more than 0")
        if not self.lora_modules:
            raise UsageError("lora_modules = []", "there would be no adapters", "name layers, or give all-linear")
        here = Path(os.path.expanduser(self.path))
        if here.is_dir():  # processes in other folders find it too
            object.__setattr__(self, "path", str(here.resolve()))

    @property
    def lora_scale(self) -> float:
        """What the product of an adapter's two matrices is multiplied by before it is added to the weight."""
        if self.lora_rank is None or self.lora_alpha is None:
            return 1.0
        return self.lora_alpha / self.lora_rank

    def check(self) -> None:
        """Raise UsageError where the model's weights are not there, it is no language model, or adapters do not fit it.
        No weights are loaded."""
        if self.lora_rank is not None:
            require("peft")
        refuse_missing_weights(self.path)
        refuse_architecture(self.path, self.revision, self.lora_modules, self.lora_rank)

    def load(self, temperature: float, seed: int) -> "CausalLM":
        """The policy with the model's weights; logits are divided by the temperature. `seed`: of new adapters.

        Raises UsageError where the model cannot be loaded, has other parts than named, or is none that this learner
        can score.
        """
        model = load_model(self.path, self.revision, _DTYPES[self.dtype])
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy = CausalLM(model, temperature, flex=self.attention == "flex")
        check_logps(policy, model, self.path)
        if self.lora_rank is not None:
            policy.model = add_lora(model, self.lora_rank, self.lora_scale, self.lora_modules, seed)
        return policy


class CausalLM(Policy):
    """Scores candidates with the prompt of a group computed once; its log-probs never need all logits at once."""

    def __init__(self, model: nn.Module, temperature: float, *, flex: bool = False) -> None:
        """`model`: a causal language model set up by `pretrained.load_model`."""
        super().__init__()
        self.model = model
        self.temperature, self._flex = temperature, flex

    @property
    def _bare(self) -> Any:
        """The model itself; adapters are inside its layers."""
        model: Any = self.model
        return model.get_base_model() if self.has_adapters else model

    @property
    def has_adapters(self) -> bool:
        """True where adapters are trained, and not the model's own weights."""
        return hasattr(self.model, "get_base_model")

    @property
    def vocab_size(self) -> int:
        """Rows of the output layer; a tokenizer may know fewer tokens."""
        return len(self._bare.get_output_embeddings().weight)

    @property
    def context_length(self) -> int:
        """The longest sequence that the model was made for."""
        return int(self._bare.config.max_position_embeddings)

    def published_parameters(self) -> dict[str, nn.Parameter]:
        """Under the names of Hugging Face checkpoints, tied weights once; or adapters, as peft saves them."""
        named = {name.replace(".default.", "."): p for name, p in self.model.named_parameters() if p.requires_grad}
        return named if self.has_adapters else dict(self.model.named_parameters())

    def matrix_views(self) -> dict[str, MatrixView]:
        """The linear layers' weights, or the adapters; embedding, output layer and norms go to Adam."""
        ends = (self._bare.get_input_embeddings().weight, self._bare.get_output_embeddings().weight)
        return {
            name: MatrixView(tuple(parameter.shape), transposed=True)
            for name, parameter in self.published_parameters().items()
            if parameter.ndim == 2 and not any(parameter is end for end in ends)
        }

    def shard_units(self) -> list[nn.Module]:
        """The transformer's blocks, adapters inside them."""
        names = self._bare._no_split_modules or ()
        return [module for module in self._bare.modules() if type(module).__name__ in names]

    def frozen(self) -> Policy:
        """With adapters, the model without them, which needs no copy; else a copy."""
        return _WithoutAdapters(self) if self.has_adapters else super().frozen()

    def scorer(self, batch: CandidateBatch) -> Callable[[], Tensor]:
        """Packs the batch into one row of tokens; each call is one pass over it.

        Raises ValueError for a batch that this model cannot score: too long, unknown tokens, an empty prompt, single
        tokens as candidates.
        """
        if batch.prefixes_GT is not None:
            raise ValueError("a causal language model scores whole completions, not alternatives for single tokens")
        batch.check(self.vocab_size)
        packing = pack(batch)
        if packing.longest > self.context_length:
            raise ValueError(f"a sequence has {packing.longest} tokens; the model has {self.context_length} positions")
        mask_GKT, blocks = batch.mask_GKT, block_mask(packing) if self._flex else None

        def score() -> Tensor:
            logps_M: Tensor = self(packing, blocks, self.temperature)
            return logps_M.new_zeros(mask_GKT.shape).masked_scatter(mask_GKT, logps_M)

        return score

    @torch.no_grad()
    def probe(self) -> tuple[Tensor, Tensor]:
        """The same tokens for all weights of a model, and any that it may have."""
        size = min(_PROBED, self.vocab_size)
        tokens_P = torch.randint(0, size, (_PROBE,), generator=torch.Generator().manual_seed(0))
        row = tokens_P.to(self._bare.device).view(1, 1, -1)
        batch = CandidateBatch(
            prompts_GP=row[0, :, :1], tokens_GKT=row[..., 1:], mask_GKT=torch.ones_like(row[..., 1:], dtype=torch.bool)
        )
        packing = pack(batch)
        blocks = block_mask(packing) if self._flex else None
        logps_M: Tensor = self(packing, blocks, 1.0)
        return tokens_P, logps_M.cpu()

    def forward(self, packing: Packing, blocks: Any, temperature: float) -> Tensor:
        """Log-probs [M] of the predicted tokens, in float32 at least. All weights are used here and nowhere else: where
        ranks share them, they are whole meanwhile."""
        out = self._bare.base_model(
            input_ids=packing.tokens_N.unsqueeze(0),
            position_ids=packing.positions_N.unsqueeze(0),
            use_cache=False,
            packing=packing,
            block_mask=blocks,
        )
        hidden_MD = out.last_hidden_state[0].index_select(0, packing.outputs_M)
        head = self._bare.get_output_embeddings()
        return chunked_logps(hidden_MD, head.weight, head.bias, packing.targets_M, temperature)

    def without_adapters(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model is what it was before adapters were added."""
        assert self.has_adapters
        context: contextlib.AbstractContextManager[None] = self.model.disable_adapter()  # type: ignore[operator]
        return context

    def save_pretrained(self, folder: str) -> None:
        """Write an ordinary model folder, adapters merged into the weights: for good, so this is the last use."""
        model: Any = self.model
        if self.has_adapters:
            model = model.merge_and_unload()
        model.save_pretrained(folder)


class _WithoutAdapters(Policy):
    """The model that the adapters of another policy are added to. Its parameters are that policy's."""

    def __init__(self, policy: CausalLM) -> None:
        super().__init__()
        self._policy = [policy]  # in a list: no submodule of this one

    def scorer(self, batch: CandidateBatch) -> Callable[[], Tensor]:
        """As the policy's own, without a graph."""
        (policy,) = self._policy
        score = policy.scorer(batch)

        def without() -> Tensor:
            with torch.no_grad(), policy.without_adapters():
                return score()

        return without
