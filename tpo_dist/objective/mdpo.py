"""Mirror descent policy optimization, on-policy form (Tomar et al. 2020, arXiv 2005.09814)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tpo_dist.errors import UsageError
from tpo_dist.objective.advantages import advantages
from tpo_dist.objective.groups import Groups
from tpo_dist.objective.ratios import divergence_under_base, log_ratios
from tpo_dist.objective.surrogate import aggregate


@dataclass(frozen=True, slots=True, kw_only=True)
class MDPO:
    """loss = mean_tokens(-A_t rho_t + KL_t(pi | pi_old) / step_size), rho_t = exp(log pi_t - log old_t).

    KL_t = rho log rho - rho + 1 is its non-negative estimator under pi_old. A is standardised in the group; mean over
    all tokens of the batch. Ten epochs: the mirror step is an inner optimisation.
    """

    step_size: float = 1.0
    """t_k of the paper, which anneals it from 1; larger leaves the snapshot farther behind."""

    epochs: ClassVar[int] = 10
    min_group_size: ClassVar[int] = 2
    needs_greedy: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.step_size > 0:
            raise UsageError(f"step_size = {self.step_size}", "the KL is divided by it", "give a number above 0")

    def signal(self, groups: Groups) -> Tensor:
        """Advantages A [G, K, T]."""
        return advantages("group_standardised", groups, 0.0)

    def loss(self, logps_GKT: Tensor, groups: Groups, signal: Tensor) -> Tensor:
        """The linearised gain and the KL to the snapshot, mean over all tokens."""
        log_ratio_GKT = log_ratios(logps_GKT, groups.old_logps_GKT, groups.live)
        kl_GKT = divergence_under_base(log_ratio_GKT)
        return aggregate(kl_GKT / self.step_size - signal * log_ratio_GKT.exp(), groups, "token_mean")

    def diagnostics(self, groups: Groups, signal: Tensor) -> dict[str, float]:
        """Nothing: there is no target."""
        return {}
