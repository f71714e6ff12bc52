"""Against the plain formula in float64, whatever the chunk."""

import pytest
import torch

from tpo_dist.policies.chunked_logps import chunked_logps


def inputs(dtype=torch.float64, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (11, 23))
    shift = torch.randn(23, generator=generator, dtype=torch.float64) if bias else None
    targets = torch.randint(0, 23, (11,), generator=generator)
    targets[3] = targets[4]
    leaves = [x if x is None else x.to(dtype).requires_grad_(True) for x in (hidden, 3 * weight, shift)]
    return leaves, targets, torch.randn(11, generator=generator, dtype=torch.float64)


def naive(leaves, targets, temperature):
    hidden, weight, bias = leaves
    logits = torch.einsum("nd,vd->nv", hidden.double(), weight.double())
    logits = (logits if bias is None else logits + bias.double()) / temperature
    return torch.stack([row[t] - row.exp().sum().log() for row, t in zip(logits, targets, strict=True)])


def gradients(logps, leaves, weights):
    given = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    return torch.autograd.grad((logps * weights).sum(), given)


@pytest.mark.parametrize("chunk", [1, 3, 11, 100, None])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_formula(chunk, temperature, bias):
    leaves, targets, weights = inputs(bias=bias)
    ours = chunked_logps(*leaves, targets, temperature, chunk)
    theirs = naive(leaves, targets, temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients(ours, leaves, weights), gradients(theirs, leaves, weights), strict=True):
        assert b.abs().max() > 1e-2
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_a_frozen_output_layer_gets_no_gradient():
    leaves, targets, weights = inputs()
    frozen = [leaves[0], leaves[1].detach(), leaves[2].detach()]
    (ours,) = gradients(chunked_logps(*frozen, targets, 1.0, 4), frozen, weights)
    torch.testing.assert_close(ours, gradients(naive(leaves, targets, 1.0), leaves, weights)[0])


def test_low_precision_sums_up_in_float32():
    leaves, targets, weights = inputs(torch.bfloat16)
    ours = chunked_logps(*leaves, targets, 1.0, 4)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), naive(leaves, targets, 1.0), rtol=0.02, atol=0.05)
    for a, leaf in zip(gradients(ours, leaves, weights), leaves, strict=True):
        assert a.dtype == leaf.dtype == torch.bfloat16


def test_far_logits_do_not_overflow():
    leaves, targets, _ = inputs(torch.float32, bias=False)
    far = chunked_logps(1e4 * leaves[0], leaves[1], None, targets, 1.0, 4)
    assert bool(far.isfinite().all())


def test_never_keeps_the_logits():
    """What the backward pass keeps is smaller than all logits."""
    leaves, targets, _ = inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        chunked_logps(*leaves, targets, 1.0, 2)
    assert max(kept) < 11 * 23


def test_shapes_that_do_not_fit_are_refused():
    leaves, targets, _ = inputs()
    with pytest.raises(ValueError, match=r"hidden_ND has shape \[11, 5\] and weight_VD \[23, 6\]"):
        chunked_logps(leaves[0][:, :5], leaves[1], None, targets)
    with pytest.raises(ValueError, match=r"targets_N has shape \[10\]; expected \[11\]"):
        chunked_logps(leaves[0], leaves[1], None, targets[:-1])
