"""A policy's weights as numpy arrays and back.

numpy has no bfloat16: such a parameter travels as int16 of the same bits, and its own dtype tells at the other end.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tpo_dist.policies.contract import Policy
from tpo_dist.records import Array


def to_array(tensor: Tensor) -> Array:
    """A tensor as an array, on a CPU its own memory; bfloat16 as int16. One that ranks share is put together, which
    all of them have to ask for."""
    tensor = whole(tensor.detach()).cpu()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that ranks share; any other is whole already."""
    gather = getattr(tensor, "full_tensor", None)
    everything: Tensor = tensor if gather is None else gather()
    return everything


@torch.no_grad()
def fill(tensor: Tensor, values: Tensor) -> None:
    """Copy all values into a tensor, of one that ranks share each its own part."""
    if hasattr(tensor, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        shared: Any = tensor
        values = distribute_tensor(values.to(tensor.device), shared.device_mesh, shared.placements, src_data_rank=None)
    tensor.copy_(values)


def to_tensor(array: Array, dtype: torch.dtype) -> Tensor:
    """A tensor of that dtype with an array's values; the inverse of `to_array`. Copies.

    Raises ValueError where int16 and bfloat16 do not stand for each other.
    """
    tensor = torch.tensor(np.asarray(array))
    if (dtype == torch.bfloat16) != (tensor.dtype == torch.int16):
        raise ValueError(f"an array of {array.dtype} for a parameter of {dtype}; bfloat16 travels as int16")
    return tensor.view(dtype) if dtype == torch.bfloat16 else tensor.to(dtype)


def view_weights(policy: Policy) -> dict[str, Array]:
    """Every published parameter by name as it is now: on a CPU its own memory, not to be written to."""
    return {name: to_array(parameter) for name, parameter in policy.published_parameters().items()}


def export_weights(policy: Policy) -> dict[str, Array]:
    """A copy of every published parameter, by name."""
    return {name: array.copy() for name, array in view_weights(policy).items()}


@torch.no_grad()
def import_weights(policy: Policy, arrays: Mapping[str, Array]) -> None:
    """Copy arrays into the published parameters of the same names.

    Raises ValueError, naming the first difference, where names, shapes or precision are not the policy's own.
    """
    parameters = policy.published_parameters()
    if parameters.keys() != arrays.keys():
        name = min(parameters.keys() ^ arrays.keys())
        side = "lack" if name in parameters else "have the unknown"
        raise ValueError(f"the weights {side} parameter {name!r}")
    for name, parameter in parameters.items():
        if parameter.shape != arrays[name].shape:
            raise ValueError(
                f"parameter {name!r} has shape {list(arrays[name].shape)}; this policy has {list(parameter.shape)}"
            )
    for name, parameter in parameters.items():
        try:
            fill(parameter, to_tensor(arrays[name], parameter.dtype))
        except ValueError as error:
            raise ValueError(f"parameter {name!r}: {error}") from None
