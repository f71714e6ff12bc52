"""One ReLU network per seed, all of one shape, advancing together: products of one seed are never mixed with another's.

A seed's results must not depend on the seeds beside it. Matrix products round by the alignment of their operands, so
every width is padded with zeros to whole cache lines: then each seed's matrices start on one, wherever they stand in
the stack. Padded units have no weights, no values and no gradients. Adam is spelled out, because fused updates round
the last elements of a tensor differently from the others.

Shapes: S seeds, B inputs of each, D inputs' width, C outputs.
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_LINE = 16  # float32 numbers in a cache line of 64 bytes


class StackedMLP:
    """Weights [S, in, out] and biases [S, 1, out]; LeCun normal truncated at two deviations, zero biases (flax's)."""

    def __init__(self, sizes: Sequence[int], seeds: Sequence[int]) -> None:
        """`sizes`: widths from input to output. A seed's initial weights are a pure function of it and the sizes."""
        self._outputs = sizes[-1]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            std = fan_in**-0.5 / 0.87962566103423978  # the deviation of a unit normal cut at +-2
            stack = torch.stack([_truncated(fan_in, fan_out, std, generator) for generator in generators])
            self.weights.append(F.pad(stack, (0, -fan_out % _LINE, 0, -fan_in % _LINE)))
            self.biases.append(torch.zeros(len(seeds), 1, self.weights[-1].shape[2]))

    @property
    def parameters(self) -> list[Tensor]:
        """Weights, then biases."""
        return [*self.weights, *self.biases]

    def forward(self, x_SBD: Tensor) -> list[Tensor]:
        """The input of every layer, then the logits [S, B, C]."""
        values = [F.pad(x_SBD, (0, -x_SBD.shape[2] % _LINE))]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            out = torch.baddbmm(bias, values[-1], weight)
            values.append(out.relu_() if len(values) < len(self.weights) else out[..., : self._outputs].contiguous())
        return values

    def logits_of(self, seed_index: int, x_BD: Tensor) -> Tensor:
        """Logits [B, C] of one seed's network."""
        x_BD = F.pad(x_BD, (0, -x_BD.shape[1] % _LINE))
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x_BD = torch.addmm(bias[seed_index, 0], x_BD, weight[seed_index])
            if layer + 1 < len(self.weights):
                x_BD = x_BD.relu_()
        return x_BD[:, : self._outputs].contiguous()

    def backward(self, values: list[Tensor], pull_SBC: Tensor) -> list[Tensor]:
        """Gradients in the order of `parameters`, from dloss/dlogits."""
        pull_SBC = F.pad(pull_SBC, (0, -self._outputs % _LINE))
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for layer in reversed(range(len(self.weights))):
            weights.insert(0, torch.bmm(values[layer].transpose(1, 2), pull_SBC))
            biases.insert(0, pull_SBC.sum(dim=1, keepdim=True))
            if layer:
                pull_SBC = torch.bmm(pull_SBC, self.weights[layer].transpose(1, 2)) * (values[layer] > 0)
        return [*weights, *biases]


class Adam:
    """Kingma & Ba 2015 (arXiv 1412.6980), in place; plain products, sums and roots, so every element rounds alike."""

    def __init__(self, parameters: Sequence[Tensor], lr: float) -> None:
        self._parameters, self._lr, self._steps = list(parameters), lr, 0
        self._first = [torch.zeros_like(parameter) for parameter in parameters]
        self._second = [torch.zeros_like(parameter) for parameter in parameters]

    def step(self, gradients: Sequence[Tensor], beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        """One update."""
        self._steps += 1
        rate = self._lr / (1 - beta1**self._steps)
        root = (1 - beta2**self._steps) ** 0.5
        for parameter, gradient, first, second in zip(
            self._parameters, gradients, self._first, self._second, strict=True
        ):
            first.mul_(beta1).add_(gradient * (1 - beta1))
            second.mul_(beta2).add_(gradient.square().mul_(1 - beta2))
            parameter.sub_(first.mul(rate).div_(second.sqrt().div_(root).add_(eps)))


def gradient_norm(seed_index: int, gradients: Sequence[Tensor]) -> float:
    """Norm of all gradients of one seed; by itself, since torch sums one row otherwise than many."""
    return math.sqrt(math.fsum(gradient[seed_index].double().square().sum().item() for gradient in gradients))


def _truncated(fan_in: int, fan_out: int, std: float, generator: torch.Generator) -> Tensor:
    return torch.nn.init.trunc_normal_(torch.empty(fan_in, fan_out), 0.0, std, -2 * std, 2 * std, generator=generator)
