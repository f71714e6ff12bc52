"""Cutting ragged batches by tokens: every candidate once, no part above the limit that could be under it, all even."""

import pytest
import torch

from tests.objective.batches import make_objective
from tests.tiny import tiny_model
from tpo_dist.learner.batch import TrainingBatch
from tpo_dist.learner.gradients import EpochGradients
from tpo_dist.learner.micro_batches import split
from tpo_dist.objective import make_groups
from tpo_dist.policies.contract import CandidateBatch


class CountingPolicy:
    """Notes the tokens of each part that it is asked to score."""

    def __init__(self):
        self.costs = []

    def scorer(self, batch):
        self.costs.append(int(batch.prompt_lengths.sum() + batch.mask_GKT.sum()))
        return lambda: torch.zeros(batch.mask_GKT.shape)


def ragged(groups=7, size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, 12, (groups,), generator=generator)
    lengths = torch.randint(0, 10, (groups, size), generator=generator)
    return CandidateBatch(
        prompts_GP=torch.zeros(groups, 12, dtype=torch.int64),
        tokens_GKT=torch.randint(0, 200, (groups, size, 10), generator=generator),
        mask_GKT=torch.arange(10) < lengths.unsqueeze(-1),
        prompt_lengths_G=prompts,
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [1, 13, 22, 30, 47, 80, 10**6])
def test_parts_are_within_the_limit_and_cover_every_candidate_once(limit, seed):
    batch, policy = ragged(seed=seed), CountingPolicy()
    seen = torch.zeros(batch.mask_GKT.shape[:2], dtype=torch.long)
    for part, cost in zip(split(policy, batch, None, limit), policy.costs, strict=True):
        seen[part.groups, part.candidates] += 1
        alone = len(seen[part.groups]) == 1 and seen[part.groups, part.candidates].numel() == 1
        assert cost <= limit or alone
    assert (seen == 1).all()


def test_whole_groups_stay_whole_and_parts_are_even():
    lengths = torch.full((6, 2), 10)
    batch = CandidateBatch(
        prompts_GP=torch.zeros(6, 5, dtype=torch.int64),
        tokens_GKT=torch.zeros(6, 2, 10, dtype=torch.int64),
        mask_GKT=torch.arange(10) < lengths.unsqueeze(-1),
    )
    policy = CountingPolicy()
    split(policy, batch, None, 120)  # 25 tokens each: four groups would fit, and then two are left
    assert policy.costs == [75, 75]


def test_a_group_above_the_limit_is_cut_into_even_parts_that_each_have_the_prompt():
    mask = torch.arange(10) < torch.tensor([[10, 10, 10, 10, 10]]).unsqueeze(-1)
    tokens = torch.zeros(1, 5, 10, dtype=torch.int64)
    policy = CountingPolicy()
    batch = CandidateBatch(prompts_GP=torch.zeros(1, 8, dtype=torch.int64), tokens_GKT=tokens, mask_GKT=mask)
    split(policy, batch, None, 50)
    assert policy.costs == [38, 28]


@pytest.mark.parametrize("limit", [1, 15, 40, 90])
@pytest.mark.parametrize("name", ["tpo", "grpo"])
def test_a_language_model_s_gradient_does_not_depend_on_how_it_is_cut(tmp_path, name, limit):
    from tpo_dist.policies.causal_lm import CausalLMOptions

    policy = CausalLMOptions(path=str(tiny_model(tmp_path / "tiny", spread=0.2))).load(1.0, 0)
    batch = ragged()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        old = policy.scorer(batch)()
        old += 0.1 * torch.randn(old.shape, generator=generator)
    scores = torch.rand(batch.mask_GKT.shape[:2], generator=generator).round(decimals=1)
    groups = make_groups(torch.where(batch.mask_GKT, old, 0.0), scores, batch.mask_GKT)
    found = []
    for tokens in (None, limit):
        policy.zero_grad(set_to_none=True)
        loss = EpochGradients(
            policy, make_objective(name), TrainingBatch(candidates=batch, groups=groups), None, tokens
        )
        found.append((loss.epoch(), {n: p.grad.clone() for n, p in policy.published_parameters().items()}))
    (whole_loss, whole), (parts_loss, parts) = found
    assert parts_loss == pytest.approx(whole_loss, rel=1e-5)
    scale = torch.cat([gradient.flatten() for gradient in whole.values()]).norm()
    assert scale > 1e-2
    for name_, gradient in whole.items():
        assert (parts[name_] - gradient).norm() <= 1e-5 * scale, name_
