"""Every preset carries its own paper's defaults: one batch small enough for a sheet of paper, one value for each.

One group, scores 1 and 0: a winner of two tokens and a loser of one. The snapshot gave every token 0.5, the reference
0.25; the policy gives 0.625 and 0.75 to the winner's, 0.35 to the loser's. So the ratios are 1.25, 1.5 and 0.7, the
centred scores +-1/2, the standardised ones +-1. The greedy completion scored 0.25.
"""

import math
from math import exp, log

import pytest
import torch

from tests.objective.batches import make_objective
from tpo_dist.objective import OBJECTIVES, make_groups, weigh

WIN, LOSE = log(0.625) + log(0.75), log(0.35)  # summed log-probs


def sigmoid(x):
    return 1 / (1 + exp(-x))


def cross_entropy(weight_win, weight_lose):
    p_win = exp(WIN) / (exp(WIN) + exp(LOSE))
    return -(weight_win * log(p_win) + weight_lose * log(1 - p_win)) / (weight_win + weight_lose)


def reinforce_pp():
    """Returns 1 - 0.01 (log 2 + log 2), 1 - 0.01 log 2 and 0 - 0.01 log 2, whitened; clip 0.2."""
    returns = [1 - 0.02 * log(2), 1 - 0.01 * log(2), -0.01 * log(2)]
    mean = sum(returns) / 3
    std = math.sqrt(sum((r - mean) ** 2 for r in returns) / 3)
    first, second, third = ((r - mean) / std for r in returns)
    return -(1.2 * first + 1.2 * second + 0.8 * third) / 3


GRPO_KL = (1 / 1.875 + log(1.875) - 1) + (1 / 0.7 + log(0.7) - 1)
VALUES = {
    "tpo": cross_entropy(1 / 3 * exp(1), 2 / 3 * exp(-1)),
    "tpo_steady": -(exp(1) * WIN / 2 + exp(-1) * LOSE) / (exp(1) + exp(-1)) + log(exp(WIN / 2) + exp(LOSE)),
    "tpo_no_anchor": cross_entropy(exp(1), exp(-1)),
    "group_pg": -(WIN - LOSE),
    "grpo": -(1.2 - 0.8 - 0.04 * GRPO_KL),
    "grpo_no_kl": -(1.2 - 0.8),
    "grpo_masked": -(1.2 - 0.8 - 0.04 * GRPO_KL),
    "ppo": -(1.2 * 0.5 + 0.0 - 0.8 * 0.5) / 2,  # baselines 1/2 and 1: the winner's second token is alone
    "dg": -(sigmoid(-0.5 * log(0.625)) * 0.5 * log(0.625) - sigmoid(0.5 * log(0.35)) * 0.5 * log(0.35)) / 2,
    "reinforce": -(0.5 * log(0.625) - 0.5 * log(0.35)) / 2,
    "reinforce_pp": reinforce_pp(),
    # 1/2, 1/2, -1/2 have mean 1/6 and std sqrt(2)/3; then 0.001 times half the mean squared log-ratio to the reference
    "reinforce_pp_baseline": -(1.2 * math.sqrt(0.5) * 2 - 0.8 * math.sqrt(2)) / 3
    + 0.001 * (log(2.5) ** 2 + log(3) ** 2 + log(1.4) ** 2) / 6,
    "remax": -(0.75 * WIN - 0.25 * LOSE) / 2,
    "rloo": -(WIN - LOSE) / 2,
    "dr_grpo": -(1.2 * 0.5 * 2 - 0.8 * 0.5) / 2,
    "dapo": -(1.25 + 1.28 - 0.8) / 3,
    "gspo": -(1.0004 - 0.9997) / 2,
    "cispo": -(1.25 * log(0.625) + 1.5 * log(0.75) - 0.7 * log(0.35)) / 3,
    "rebel": (log(1.875) - log(0.7) - 1) ** 2,
    "pmpo": -0.5 * WIN + 0.5 * LOSE + 0.3 * (2.5 - log(2.5) - 1 + 3 - log(3) - 1 + 1.4 - log(1.4) - 1) / 2,
    "awr": -(exp(1) * WIN + exp(-1) * LOSE) / 2,
    "mdpo": sum(r * log(r) - r + 1 - a * r for r, a in ((1.25, 1), (1.5, 1), (0.7, -1))) / 3,
    "vmpo": -WIN + 5 * sum(r - log(r) - 1 for r in (1.25, 1.5, 0.7)) / 3,
    "maxrl": -(WIN - LOSE) / 2 * 0.5 / (0.5 + 1e-6),
}
EPOCHS = {"dg": 1, "reinforce": 1, "rebel": 4, "awr": 5, "mdpo": 10, "vmpo": 1, "pmpo": 1}
EPOCHS |= dict.fromkeys(
    ["tpo", "tpo_steady", "tpo_no_anchor", "group_pg", "grpo", "grpo_no_kl", "grpo_masked", "ppo"], 4
)
EPOCHS |= dict.fromkeys(["reinforce_pp", "reinforce_pp_baseline", "remax", "rloo", "dr_grpo", "dapo", "gspo"], 1)
EPOCHS |= dict.fromkeys(["cispo", "maxrl"], 1)


def sheet():
    def logs(*rows):
        return torch.tensor([rows], dtype=torch.float64).log()

    mask = torch.tensor([[[True, True], [True, False]]])
    old = logs((0.5, 0.5), (0.5, 1.0))
    groups = make_groups(
        old,
        torch.tensor([[1.0, 0.0]]),
        mask,
        reference_logps_GKT=logs((0.25, 0.25), (0.25, 1.0)),
        greedy_scores_G=torch.tensor([0.25]),
    )
    return logs((0.625, 0.75), (0.35, 1.0)), groups


def plain(name):
    """Token-level methods are the same mathematics on other groups."""
    return name.removesuffix("_token")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_by_hand(name):
    logps, groups = sheet()
    objective = make_objective(name)
    assert weigh(objective, logps, groups, objective.signal(groups)).loss == pytest.approx(
        VALUES[plain(name)], rel=1e-6
    )


def test_epochs():
    assert {plain(name): method.kind.epochs for name, method in OBJECTIVES.items()} == EPOCHS


def test_cispo_s_weight_ends_at_0_and_5():
    """Ratios 8 and 0.01: the first counts 5, the second what it is."""
    old = torch.tensor([[[0.1], [0.5]]], dtype=torch.float64).log()
    logps = torch.tensor([[[0.8], [0.005]]], dtype=torch.float64).log()
    objective = make_objective("cispo")
    groups = make_groups(old, torch.tensor([[1.0, 0.0]]))
    weights = weigh(objective, logps, groups, objective.signal(groups)).weights_GKT.flatten()
    assert weights.tolist() == pytest.approx([-5 / 2, 0.01 / 2], rel=1e-6)


def test_awr_s_weight_ends_at_20():
    """One winner of 16 has A = sqrt(15), and exp(sqrt(15)) is 48."""
    scores = torch.zeros(1, 16)
    scores[0, 3] = 1.0
    weights = make_objective("awr").signal(make_groups(torch.zeros(1, 16, 1, dtype=torch.float64), scores))
    assert weights[0, 3].item() == 20.0
    assert weights[0, 0].item() == pytest.approx(exp(-1 / math.sqrt(15)))


def test_maxrl_has_no_gradient_where_the_mean_is_not_above_0():
    """The second group's mean is 0, the third's below it: nothing to divide by."""
    groups = make_groups(
        torch.zeros(3, 2, 1, dtype=torch.float64), torch.tensor([[1.0, 0.0], [1.0, -1.0], [0.0, -1.0]])
    )
    advantages = make_objective("maxrl").signal(groups).squeeze(-1)
    assert advantages[0].tolist() == pytest.approx([1.0, -1.0], rel=1e-5)
    assert not advantages[1:].any()


def test_vmpo_s_dual_allows_a_tenth_of_a_nat():
    """Advantages 1, 1/2, -1/2 and -1: the upper two are kept, and their weights are 0.1 nats from equal."""
    old = torch.zeros(2, 2, 1, dtype=torch.float64)
    groups = make_groups(old, torch.tensor([[1.0, -1.0], [0.5, -0.5]]))
    objective = make_objective("vmpo")
    psi = objective.signal(groups)
    assert psi[:, 1].tolist() == [0.0, 0.0]
    first, second = psi[:, 0].tolist()
    assert first + second == pytest.approx(1.0)
    assert first * log(2 * first) + second * log(2 * second) == pytest.approx(0.1, rel=1e-9)
    eta = objective.diagnostics(groups, psi)["eta"]
    assert log(first / second) == pytest.approx(0.5 / eta)


def test_vmpo_without_preference_does_not_imitate():
    objective = make_objective("vmpo")
    groups = make_groups(torch.zeros(2, 3, 1), torch.ones(2, 3))
    assert not objective.signal(groups).any()
    assert objective.diagnostics(groups, objective.signal(groups)) == {}
