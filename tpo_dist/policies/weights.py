"""A policy's weights as numpy arrays and back."""

from collections.abc import Mapping

import numpy as np
import torch

from tpo_dist.policies.contract import Policy
from tpo_dist.records import Array


def view_weights(policy: Policy) -> dict[str, Array]:
    """Every parameter by name as it is now: on a CPU the parameter's own memory, not to be written to."""
    return {name: parameter.detach().cpu().numpy() for name, parameter in policy.named_parameters()}


def export_weights(policy: Policy) -> dict[str, Array]:
    """A copy of every parameter, by name."""
    return {name: array.copy() for name, array in view_weights(policy).items()}


@torch.no_grad()
def import_weights(policy: Policy, arrays: Mapping[str, Array]) -> None:
    """Copy arrays into the parameters of the same names.

    Raises ValueError, naming the first difference, where the names or shapes are not the policy's own.
    """
    parameters = dict(policy.named_parameters())
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
        parameter.copy_(torch.tensor(np.asarray(arrays[name])))
