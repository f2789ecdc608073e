"""Normalisation of channels whose mean is many times their spread: as good as torch's in the same precision."""

import pytest
import torch
import torch.nn.functional as F

from foldless.kernels.norm import normalise
from foldless.kernels.thin import normalised_thin

CHANNELS = 16
MEANS = (1.0, 3.9, 10.0, 100.0, 1e3, 1e4)
"""In spreads."""

BEST = {torch.float32: 2e-6, torch.bfloat16: 2**-8}
"""What rounding leaves of any such sum, of the largest entry, whatever the mean."""


def with_gradients(function, tensors, like):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    result = function(*leaves)
    return result.detach(), *torch.autograd.grad(result, leaves, like.to(result.dtype))


def errors(got, exact):
    """Of the result and of every gradient, relative to the largest entry."""
    pairs = zip(got, exact, strict=True)
    return [((a.double() - b).abs().max() / b.abs().max().clamp_min(1e-3)).item() for a, b in pairs]


def channels(mean, shape, dtype):
    x = (torch.randn(2, CHANNELS, *shape, dtype=torch.float64) + mean).to(dtype)
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def batch(x, weight, bias):
    return F.batch_norm(x, None, None, weight, bias, training=True)


def instance(x, weight, bias):
    return F.group_norm(x, CHANNELS, weight.to(x.dtype), bias.to(x.dtype))


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("shape", [(3, 5), (70, 90), (2, 4, 3), (24, 20, 22)])
@pytest.mark.parametrize("dtype", BEST)
@pytest.mark.parametrize("reference", [batch, instance])
def test_a_large_mean_costs_no_accuracy(reference, dtype, shape, mean):
    inputs = channels(mean, shape, dtype), torch.rand(CHANNELS) + 0.5, torch.randn(CHANNELS)
    like = torch.randn(inputs[0].shape).to(dtype)
    exact = with_gradients(reference, [tensor.double() for tensor in inputs], like)
    ours = with_gradients(lambda *tensors: normalise(*tensors, 1e-5, reference is instance)[0], inputs, like)
    assert max(errors(ours, exact)) <= BEST[dtype]


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("shape", [(3, 5), (70, 90), (2, 4, 3), (24, 20, 22)])
@pytest.mark.parametrize("dtype", BEST)
def test_nor_does_it_before_the_last_layer(dtype, shape, mean):
    dim = len(shape)
    x, scale, shift = channels(mean, shape, dtype), torch.rand(CHANNELS) + 0.5, torch.randn(CHANNELS)
    x[:, ::3] -= mean  # beside channels about 0
    inputs = x, scale, shift, torch.randn(dim, CHANNELS, *[3] * dim), torch.randn(dim)
    like = torch.randn(2, dim, *shape)

    def reference(x, scale, shift, weight, bias):
        return getattr(F, f"conv{dim}d")(batch(x, scale, shift), weight, bias, padding=1)

    exact = with_gradients(reference, [tensor.double() for tensor in inputs], like)
    ours = with_gradients(lambda x, a, b, weight, bias: normalised_thin(x, a, b, 1e-5, weight, bias)[0], inputs, like)
    assert max(errors(ours, exact)) <= 1.5 * BEST[dtype]


def test_the_first_voxels_of_a_channel_may_be_unlike_all_others():
    """A background of zeros before values about 1000: what is summed is how far values are from one of them."""
    x = channels(1e3, (20, 20, 20), torch.float32)
    x[:, :, 0] = 0
    variance, mean = torch.var_mean(x.double(), [0, 2, 3, 4], correction=0)
    ours = normalise(x, torch.ones(CHANNELS), torch.zeros(CHANNELS), 1e-5, by_sample=False)[1:]
    assert max(errors(ours, (mean[None], variance[None]))) <= BEST[torch.float32]
