"""Random batches with everything that a batch may have: ragged groups, ragged candidates, groups without preference."""

import torch
from torch import Tensor

from tpo_dist.objective import OBJECTIVES, Groups, Objective, make_groups


def make_objective(name: str, **options: object) -> Objective:
    method = OBJECTIVES[name]
    return method.kind(**{**method.options, **options})


def random_batch(seed: int = 0, groups: int = 5, size: int = 6, length: int = 4) -> tuple[Tensor, Groups]:
    """Log-probs and the frozen rest in float64: the last group has 2 candidates, one other has equal scores."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    old = -3 * draw(groups, size, length)
    logps = old + 0.6 * (draw(groups, size, length) - 0.5)
    lengths = (1 + (draw(groups, size) * length).long()).clamp(max=length)
    present = torch.ones(groups, size, dtype=torch.bool)
    present[-1, 2:] = False
    mask = (torch.arange(length) < lengths.unsqueeze(-1)) & present.unsqueeze(-1)
    scores = draw(groups, size).round(decimals=2)
    scores[1] = 0.1
    reference = old + 0.4 * (draw(groups, size, length) - 0.5)
    greedy = draw(groups).round(decimals=2)
    return logps, make_groups(
        old, scores, mask, present_GK=present, reference_logps_GKT=reference, greedy_scores_G=greedy
    )


def pick(groups: Groups, g: Tensor | slice, k: Tensor | slice) -> Groups:
    """Some groups and candidates of a batch, in the order asked for."""
    assert groups.reference_logps_GKT is not None
    assert groups.greedy_scores_G is not None
    return make_groups(
        groups.old_logps_GKT[g][:, k],
        groups.scores_GK[g][:, k],
        groups.mask_GKT[g][:, k],
        present_GK=groups.present_GK[g][:, k],
        reference_logps_GKT=groups.reference_logps_GKT[g][:, k],
        greedy_scores_G=groups.greedy_scores_G[g],
    )


def ragged(values_GKT: Tensor, groups: Groups) -> list[list[list[float]]]:
    """As nested lists, without what is not there."""
    return [
        [
            values_GKT[g, k][groups.mask_GKT[g, k]].tolist()
            for k in range(values_GKT.shape[1])
            if groups.present_GK[g, k]
        ]
        for g in range(len(values_GKT))
    ]


def ragged_scores(groups: Groups) -> list[list[float]]:
    return [groups.scores_GK[g][groups.present_GK[g]].tolist() for g in range(len(groups.scores_GK))]
