"""A ReLU network over the features of a context (arXiv 2604.06159, section 3.3)."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tpo_dist.errors import UsageError
from tpo_dist.policies.contexts import ContextPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class MLPOptions:
    """Size of the network; the defaults are the paper's."""

    width: int = 50
    """Units of each hidden layer."""
    layers: int = 2
    """Hidden layers."""

    def __post_init__(self) -> None:
        for name in ("width", "layers"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)}", "a network needs at least 1", "give 1 or more")

    def build_for_contexts(
        self, arms: int, context_count: int, features: NDArray[np.float32] | None, seed: int
    ) -> "MLPPolicy":
        """The network. Raises UsageError where the task has no features."""
        if features is None:
            reason = "it reads features, and the contexts of this task have none"
            raise UsageError("policy.name = 'mlp'", reason, "give policy.name=tabular")
        return MLPPolicy(self, arms, features, seed)


class MLPPolicy(ContextPolicy):
    """The features are a buffer that no snapshot carries: every process loads them with its task."""

    features_ND: Tensor

    def __init__(self, options: MLPOptions, arms: int, features_ND: NDArray[np.float32], seed: int) -> None:
        super().__init__()
        self.register_buffer("features_ND", torch.tensor(features_ND), persistent=False)
        widths = (features_ND.shape[1], *[options.width] * options.layers, arms)
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in itertools.pairwise(widths))
        self._initialise(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """The reference's: LeCun normal truncated at two deviations, zero biases."""
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            std = layer.in_features**-0.5 / 0.87962566103423978  # the deviation of a unit normal cut at +-2
            nn.init.trunc_normal_(layer.weight, 0.0, std, -2 * std, 2 * std, generator=generator)
            layer.bias.zero_()

    def logits(self, contexts_G: Tensor) -> Tensor:
        """The network's outputs for these contexts' features."""
        x_GD = self.features_ND.index_select(0, contexts_G)
        for index, layer in enumerate(self.layers):
            x_GD = layer(x_GD if index == 0 else x_GD.relu())
        return x_GD
