"""AdamW for weights in low precision.

Near 1, neighbouring numbers of bfloat16 are 0.8 % apart: steps of a usual learning rate would round to nothing. So they
are taken in float32 copies, and the weights follow, rounded.
"""

from typing import Any

import torch
from torch import Tensor, nn


class MasterAdamW(torch.optim.Optimizer):
    """AdamW on a float32 copy of each parameter, which is part of the optimizer's state."""

    def __init__(self, parameters: list[nn.Parameter], **options: Any) -> None:
        """`options`: those of `torch.optim.AdamW`."""
        super().__init__(parameters, {"lr": options["lr"]})
        self._masters = [parameter.detach().float().requires_grad_(True) for parameter in parameters]
        self._adamw = torch.optim.AdamW(self._masters, **options)
        for parameter, master in zip(parameters, self._masters, strict=True):
            self._adamw.state[master] = moments(master)
            self.state[parameter] = {"master": master.detach(), **self._adamw.state[master]}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; every parameter must have a gradient."""
        assert closure is None
        (group,) = self.param_groups
        self._adamw.param_groups[0]["lr"] = group["lr"]
        for parameter, master in zip(group["params"], self._masters, strict=True):
            master.grad = parameter.grad.float()
        self._adamw.step()
        for parameter, master in zip(group["params"], self._masters, strict=True):
            parameter.copy_(master)
            master.grad = None


def moments(parameter: Tensor) -> dict[str, Tensor]:
    """What AdamW keeps of a parameter, before its first step: there at once, as a checkpoint is compared with it."""
    zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
    return {"step": torch.tensor(0.0), **zeros}
