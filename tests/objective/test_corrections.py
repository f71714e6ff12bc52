"""Off-policy corrections against their definitions, and their product with any objective's gradient."""

import math

import pytest
import torch

from tests.objective.batches import make_objective, random_batch
from tpo_dist.errors import UsageError
from tpo_dist.objective import CORRECTIONS, OBJECTIVES, effective_sample_size, evaluate, weigh


def policies(seed=0):
    """Log-probs at the start of the batch and at sampling, a mask with a hole, and rubbish on the padding."""
    generator = torch.Generator().manual_seed(seed)
    start = -3 * torch.rand(3, 4, 5, generator=generator, dtype=torch.float64)
    behavior = start + torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 4, 5, generator=generator) < 0.8
    return start.masked_fill(~mask, float("nan")), behavior.masked_fill(~mask, float("inf")), mask


def expected(name, ratios, **options):
    """The weights of one candidate's tokens, one after the other."""
    if name == "none":
        return [1.0] * len(ratios)
    if name == "tis":
        return [min(ratio, options.get("cap", 2.0)) for ratio in ratios]
    if name == "icepop":
        return [r if options.get("low", 0.5) <= r <= options.get("high", 5.0) else 0.0 for r in ratios]
    return [math.prod(min(options.get("c_bar", 1.0), ratio) for ratio in ratios[: t + 1]) for t in range(len(ratios))]


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in CORRECTIONS]
    + [("tis", {"cap": 1.1}), ("icepop", {"low": 0.9, "high": 1.3}), ("vtrace", {"c_bar": 0.9})],
)
def test_weights(name, options):
    start, behavior, mask = policies()
    weights = CORRECTIONS[name](**options).weights(start, behavior, mask)
    for g in range(3):
        for k in range(4):
            ratios = (start - behavior)[g, k][mask[g, k]].exp().tolist()
            assert weights[g, k][mask[g, k]].tolist() == pytest.approx(expected(name, ratios, **options), rel=1e-9)
    assert not weights[~mask].any()


@pytest.mark.parametrize("name", CORRECTIONS)
def test_on_policy_nothing_is_corrected(name):
    start, _, mask = policies()
    assert CORRECTIONS[name]().weights(start, start, mask)[mask].eq(1).all()


@pytest.mark.parametrize("name", CORRECTIONS)
def test_weights_are_frozen_and_finite(name):
    start = torch.tensor([[[-1e4, -1e-4, -3.0]]], requires_grad=True)
    weights = CORRECTIONS[name]().weights(start, torch.tensor([[[-1e-4, -1e4, -3.0]]]), torch.ones(1, 1, 3).bool())
    assert not weights.requires_grad
    assert weights.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_they_multiply_the_gradient_of_any_objective(name):
    logps, groups = random_batch(3)
    objective = make_objective(name)
    signal = objective.signal(groups)
    weights = CORRECTIONS["tis"]().weights(logps, groups.old_logps_GKT, groups.mask_GKT)
    plain = weigh(objective, logps, groups, signal)
    got = weigh(objective, logps, groups, signal, weights.masked_fill(~groups.mask_GKT, float("nan")))
    assert got.loss == plain.loss
    torch.testing.assert_close(got.weights_GKT, plain.weights_GKT * weights, rtol=0, atol=0)
    assert (got.weights_GKT != plain.weights_GKT).any()


def test_plain_tensors_can_be_corrected():
    logps, groups = random_batch(3)
    weights = torch.full_like(logps, 0.5)
    arguments = (make_objective("tpo"), logps, groups.old_logps_GKT, groups.scores_GK, groups.mask_GKT)
    halved = evaluate(*arguments, present_GK=groups.present_GK, token_weights_GKT=weights)
    whole = evaluate(*arguments, present_GK=groups.present_GK)
    torch.testing.assert_close(halved.weights_GKT, whole.weights_GKT / 2)


def test_wrong_shapes_are_errors():
    logps, groups = random_batch(3)
    with pytest.raises(ValueError, match="token_weights_GKT has shape"):
        weigh(make_objective("tpo"), logps, groups, make_objective("tpo").signal(groups), logps[:, :1])
    for correction in CORRECTIONS.values():
        with pytest.raises(ValueError, match=r"start, behavior and mask have shapes \[5, 6, 4\], \[5, 6, 1\]"):
            correction().weights(logps, logps[..., :1], groups.mask_GKT)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tis", {"cap": 0.0}),
        ("icepop", {"low": 1.5}),
        ("icepop", {"high": 0.9}),
        ("vtrace", {"c_bar": 0.0}),
        ("vtrace", {"c_bar": 1.5}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        CORRECTIONS[name](**options)


def test_effective_sample_size():
    assert effective_sample_size(torch.ones(2, 3)).item() == pytest.approx(6.0)
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0])).item() == pytest.approx(1.0)
    assert effective_sample_size(torch.tensor([3.0, 1.0])).item() == pytest.approx(16 / 10)
    assert effective_sample_size(torch.tensor([1e200, 1e200], dtype=torch.float64)).item() == pytest.approx(2.0)
    assert effective_sample_size(torch.zeros(3)).item() == 0.0
