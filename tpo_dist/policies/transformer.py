"""The small decoder-only transformer of the paper's sequence experiments (arXiv 2604.06159, section 3.4).

Pre-norm blocks, learned positions, LayerNorm with epsilon 1e-6, tanh-GELU, untied output layer, biases everywhere:
the architecture that the author's code runs, down to its initialisation.

Shapes: G groups, K candidates, T tokens, P prompt tokens, N nodes of the prefix tree, D width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tpo_dist.errors import UsageError
from tpo_dist.policies.contract import CandidateBatch, MatrixView, SamplingPolicy
from tpo_dist.policies.path_attention import path_attention, plan_paths
from tpo_dist.policies.prefix_tree import build_prefix_tree
from tpo_dist.policies.tree_sampling import sample_over_tree

Attend = Callable[[Tensor], Tensor]
"""From the fused queries, keys and values of flat nodes [N, 3 D] to what each node reads [N, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerOptions:
    """Size of the transformer; the defaults are the paper's code (its text says 4 heads, the code runs 2)."""

    width: int = 64
    """Numbers that stand for a token between the layers."""
    layers: int = 2
    """Blocks of attention and feed-forward."""
    heads: int = 2
    """Attention heads; they divide the width."""
    ffn_factor: int = 4
    """Width of the feed-forward part, over the width."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "ffn_factor"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)}", "a transformer needs at least 1", "give 1 or more")
        if self.width % self.heads:
            reason = f"heads take equal parts of width = {self.width}"
            raise UsageError(f"heads = {self.heads}", reason, "give a divisor of the width")

    def build(self, vocab_size: int, context_length: int, seed: int) -> "Transformer":
        """The policy with freshly drawn weights, a pure function of its sizes and the seed."""
        return Transformer(self, vocab_size, context_length, seed)

    def count(self, vocab_size: int, context_length: int) -> int:
        """How many parameters it has, found without building it."""
        attention, feed_forward = 4 * self.width**2, 2 * self.ffn_factor * self.width**2
        biases_and_norms = (9 + self.ffn_factor) * self.width
        ends = (2 * vocab_size + context_length + 2) * self.width + vocab_size
        return self.layers * (attention + feed_forward + biases_and_norms) + ends


class Block(nn.Module):
    """One pre-norm layer over flat nodes: attention, then feed-forward, each added to its input."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        width = options.width
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width, options.ffn_factor * width)
        self.down = nn.Linear(options.ffn_factor * width, width)

    def forward(self, x_ND: Tensor, attend: Attend) -> Tensor:
        x_ND = x_ND + self.out(attend(self.qkv(self.attention_norm(x_ND))))
        hidden = F.gelu(self.up(self.ffn_norm(x_ND)), approximate="tanh")
        out: Tensor = x_ND + self.down(hidden)
        return out


class Transformer(SamplingPolicy):
    """Samples and scores candidates over their prefix tree: what candidates share is computed once."""

    def __init__(self, options: TransformerOptions, vocab_size: int, context_length: int, seed: int) -> None:
        super().__init__()
        self.context_length = context_length
        self.heads = options.heads
        self.embedding = nn.Embedding(vocab_size, options.width)
        self.positions = nn.Parameter(torch.empty(context_length, options.width))
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.layers))
        self.final_norm = nn.LayerNorm(options.width, eps=1e-6)
        self.head = nn.Linear(options.width, vocab_size)
        self._initialise(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """The reference's: LeCun normal truncated at two deviations, embedding N(0, 1/D), positions N(0, 0.02^2)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                std = module.in_features**-0.5 / 0.87962566103423978  # the deviation of a unit normal cut at +-2
                nn.init.trunc_normal_(module.weight, 0.0, std, -2 * std, 2 * std, generator=generator)
                module.bias.zero_()
        self.embedding.weight.normal_(0.0, self.embedding.embedding_dim**-0.5, generator=generator)
        self.positions.normal_(0.0, 0.02, generator=generator)

    def matrix_views(self) -> dict[str, MatrixView]:
        """What the reference stores with two axes: feed-forward and output weights, embedding, positions, and the
        biases of queries, keys and values as (heads, head width). Attention weights have three axes there."""
        views = {
            "embedding.weight": MatrixView(tuple(self.embedding.weight.shape)),
            "positions": MatrixView(tuple(self.positions.shape)),
            "head.weight": MatrixView(tuple(self.head.weight.shape), transposed=True),
        }
        for name, block in self.blocks.named_children():
            assert isinstance(block, Block)
            for part in ("up", "down"):
                weight = getattr(block, part).weight
                views[f"blocks.{name}.{part}.weight"] = MatrixView(tuple(weight.shape), transposed=True)
            views[f"blocks.{name}.qkv.bias"] = MatrixView((3, self.heads, block.qkv.in_features // self.heads))
        return views

    def scorer(self, batch: CandidateBatch) -> Callable[[], Tensor]:
        """Merges the batch into its prefix tree once; each call is one pass over the tree.

        Raises ValueError for a batch that this policy cannot score: too long, unknown tokens, a mask with holes.
        """
        batch.refuse_ragged_prompts()
        self._check_length(batch.prompts_GP.shape[1] + batch.tokens_GKT.shape[2])
        batch.check(self.head.out_features)
        if batch.prefixes_GT is None:
            tree = build_prefix_tree(batch.prompts_GP, batch.tokens_GKT, batch.mask_GKT)
        else:  # one path for each prompt, whatever K
            tree = build_prefix_tree(batch.prompts_GP, batch.prefixes_GT.unsqueeze(1), batch.mask_GKT.any(1, True))
        plans = tuple(plan_paths(part, len(tree.tokens_N), self.heads) for part in tree.paths)
        index = (tree.outputs_GKT * self.head.out_features + batch.tokens_GKT).reshape(-1)
        index = torch.where(batch.mask_GKT.reshape(-1), index, 0)

        def score() -> Tensor:
            x_ND = self.embed(tree.tokens_N, tree.positions_N)
            for block in self.blocks:
                x_ND = block(x_ND, lambda qkv: path_attention(qkv, plans))
            picked = self.predict(x_ND).reshape(-1).index_select(0, index).view_as(batch.tokens_GKT)
            return torch.where(batch.mask_GKT, picked, 0.0)

        return score

    def embed(self, tokens_N: Tensor, positions_N: Tensor) -> Tensor:
        """Input of the first block for each node [N, D]."""
        out: Tensor = self.embedding(tokens_N) + self.positions.index_select(0, positions_N)
        return out

    def predict(self, x_ND: Tensor) -> Tensor:
        """Log-probs [N, V] of the token that follows each node."""
        return F.log_softmax(self.head(self.final_norm(x_ND)), dim=-1)

    @torch.no_grad()
    def sample(self, prompts_GP: Tensor, uniforms_GKT: Tensor, *, follow_first: bool = False) -> tuple[Tensor, Tensor]:
        """Draw with a key-value cache over the growing prefix tree."""
        self._check_length(prompts_GP.shape[1] + uniforms_GKT.shape[2])
        return sample_over_tree(self, prompts_GP, uniforms_GKT, follow_first)

    def _check_length(self, length: int) -> None:
        if length > self.context_length:
            raise ValueError(
                f"prompt and candidate take {length} tokens; this policy has {self.context_length} positions"
            )
