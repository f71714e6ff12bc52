"""Comparing gradients of two ways to compute the same log-probs."""

import torch


def assert_same_gradients(policy, ours, theirs, weights, rtol):
    """Of the weighted sum of the log-probs, with respect to every parameter; what they are, by parameter."""
    parameters = dict(policy.named_parameters())
    got = torch.autograd.grad((ours * weights).sum(), parameters.values(), materialize_grads=True)
    want = torch.autograd.grad((theirs * weights).sum(), parameters.values(), materialize_grads=True)
    for name, a, b in zip(parameters, got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
    return got
