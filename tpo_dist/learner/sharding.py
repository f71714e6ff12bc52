"""Weights divided between ranks: FSDP2, layer by layer."""

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from tpo_dist.policies.contract import Policy


def shard(policy: Policy, mesh: Any) -> None:
    """Divide every weight, trained or not, between the ranks of a one-dimensional mesh, on its devices.

    A layer's weights are whole while it computes, and so are those outside the layers, which have to be used in the
    policy's own `forward`. Gradients are summed over the ranks: objectives have counted everything once already.
    """
    if not any(True for _ in policy.parameters()):
        return
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for module in (*policy.shard_units(), policy):
        # With the root too: between two passes, its parameters are those that the optimizer has.
        fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sums
