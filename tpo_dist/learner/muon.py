"""Muon for matrices and Nesterov Adam for the rest, as the author's experiments run them.

Muon: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon). Momentum is a bias-corrected average with
Nesterov's look-ahead, orthogonalised by five Newton-Schulz steps in float32; there is no weight decay. This is not
`torch.optim.Muon`, which iterates in bfloat16, decays weights by default and does not correct its momentum.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from tpo_dist.policies.contract import MatrixView

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: five Newton-Schulz steps on a batch [B, rows, columns].

    Rows must not outnumber columns. Computed in the dtype of the input.
    """
    a, b, c = _NEWTON_SCHULZ
    x: Tensor = matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-8)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class MuonAdam(torch.optim.Optimizer):
    """Two groups of parameters: `matrices` go to Muon through their `MatrixView`, the others to Nesterov Adam.

    Muon's update is scaled by sqrt(max(1, fan_out / fan_in)).
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
        matrix_views: dict[str, MatrixView],
        *,
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        damping: float | None = None,
    ) -> None:
        """`damping`: see `_damped`; None, as the author runs it, for steps of full size whatever the gradient."""
        self._damping = damping
        named = list(named_parameters)
        matrices = [(parameter, matrix_views[name]) for name, parameter in named if name in matrix_views]
        others = [parameter for name, parameter in named if name not in matrix_views]
        self._views = [view for _, view in matrices]
        groups: list[dict[str, Any]] = [{"params": [parameter for parameter, _ in matrices], "kind": "muon"}]
        groups.append({"params": others, "kind": "adam"})
        groups = [group for group in groups if group["params"]]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps})
        for group in self.param_groups:
            names = ("momentum",) if group["kind"] == "muon" else ("exp_avg", "exp_avg_sq")
            for parameter in group["params"]:
                state = {name: torch.zeros_like(parameter) for name in names}
                self.state[parameter] = {**state, "step": torch.tensor(0.0)}
        if damping is not None:
            self.state[self._first]["norm_square"] = torch.tensor(0.0)

    @property
    def _first(self) -> torch.nn.Parameter:
        parameter: torch.nn.Parameter = self.param_groups[0]["params"][0]
        return parameter

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; every parameter must have a gradient."""
        assert closure is None
        scale = 1.0 if self._damping is None else self._damped(self._damping)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["step"] += 1
            steps = int(self.state[group["params"][0]]["step"].item())
            if group["kind"] == "muon":
                self._muon(group, steps, scale * group["lr"])
            else:
                self._adam(group, steps, scale * group["lr"])

    def _damped(self, decay: float) -> float:
        """min(1, |g| / rms of |g| over about 1 / (1 - decay) steps): what is left of the learning rate.

        An orthogonalised step has one size whatever the gradient's. Where the objective is met and the gradient all but
        gone, what remains of it is noise, and full steps along noise undo what was learned.
        """
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        square = self.state[self._first]["norm_square"]
        square.lerp_(torch.tensor(norm**2), 1.0 - decay)
        steps = int(self.state[self._first]["step"].item()) + 1
        usual = (square.item() / (1.0 - decay**steps)) ** 0.5
        return min(1.0, norm / usual) if usual > 0 else 0.0

    def _muon(self, group: dict[str, Any], steps: int, lr: float) -> None:
        beta, parameters = group["momentum"], group["params"]
        gradients = [parameter.grad for parameter in parameters]
        averages = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1.0 - beta)
        ahead = torch._foreach_mul(averages, beta / (1.0 - beta ** (steps + 1)))
        torch._foreach_add_(ahead, gradients, alpha=(1.0 - beta) / (1.0 - beta**steps))
        for parameter, update in zip(parameters, self._orthogonal_updates(ahead), strict=True):
            parameter.add_(update, alpha=-lr)

    def _orthogonal_updates(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """Scaled orthogonal updates in the parameters' own shapes; matrices of one shape share a batch."""
        batches: dict[tuple[int, int], list[int]] = {}
        wide: list[Tensor] = []
        for index, (direction, view) in enumerate(zip(directions, self._views, strict=True)):
            matrix = direction.reshape(-1, *view.shape[-2:])
            wide.append(matrix.transpose(1, 2) if matrix.shape[1] > matrix.shape[2] else matrix)
            batches.setdefault((wide[-1].shape[1], wide[-1].shape[2]), []).append(index)
        updates: list[Tensor] = [torch.empty(0)] * len(directions)
        for members in batches.values():
            sizes = [len(wide[index]) for index in members]
            solved = torch.split(orthogonalise(torch.cat([wide[index] for index in members])), sizes)
            for index, matrix in zip(members, solved, strict=True):
                view, shape = self._views[index], directions[index].shape
                rows, columns = view.shape[-2:]
                fan_in, fan_out = (columns, rows) if view.transposed else (rows, columns)
                oriented = matrix.transpose(1, 2) if rows > columns else matrix
                updates[index] = oriented.reshape(shape) * max(1.0, fan_out / fan_in) ** 0.5
        return updates

    def _adam(self, group: dict[str, Any], steps: int, lr: float) -> None:
        (beta1, beta2), parameters = group["betas"], group["params"]
        gradients = [parameter.grad for parameter in parameters]
        first = [self.state[parameter]["exp_avg"] for parameter in parameters]
        second = [self.state[parameter]["exp_avg_sq"] for parameter in parameters]
        torch._foreach_lerp_(first, gradients, 1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, value=1.0 - beta2)
        ahead = torch._foreach_mul(first, beta1 / (1.0 - beta1 ** (steps + 1)))
        torch._foreach_add_(ahead, gradients, alpha=(1.0 - beta1) / (1.0 - beta1**steps))
        scale = torch._foreach_div(second, 1.0 - beta2**steps)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_addcdiv_(parameters, ahead, scale, value=-lr)
