"""The compiled local correlation and the compiled fold count against their plain forms."""

from dataclasses import replace

import pytest
import torch
from tables import DIMS, SHAPES, smooth
from torch.testing import assert_close

from foldless import kernels
from foldless.kernels.correlation import can_correlate
from foldless.metrics import folded, folds_percent, jacobian, ndv_percent
from foldless.similarity import LNCC

pytestmark = pytest.mark.skipif(
    not kernels.native_status()[0], reason=f"no compiled kernel: {kernels.native_status()[1]}"
)

# Local variances are differences of nearly equal averages, and gradients divide by them.
SCORE = {torch.float64: 1e-10, torch.float32: 2e-5}
ROUNDING = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 1e-6, "atol": 1e-5}}
GRADIENT = {torch.float64: 1e-9, torch.float32: 5e-3}  # of the largest entry

WINDOWS = {
    "box": LNCC(window=5),
    "box squared": LNCC(window=5, squared=True),
    "large box": LNCC(window=41),
    "one voxel": LNCC(window=1),
    "Gaussian": LNCC(sigma=1.2),
    "Gaussian squared": LNCC(sigma=1.2, squared=True),
    "wide Gaussian": LNCC(sigma=6.0),
}
every_window = pytest.mark.parametrize("name", WINDOWS)
every_dim = pytest.mark.parametrize("dim", DIMS)
every_mask = pytest.mark.parametrize("mask", [None, "one", "each"])


def images(shape, dtype=torch.float64, batch=2, channels=2):
    a = torch.rand(batch, channels, *shape, dtype=dtype)
    return a, 0.5 * a + 0.5 * torch.rand_like(a)


def mask_of(kind, like):
    if kind is None:
        return None
    return (torch.rand(1 if kind == "one" else len(like), 1, *like.shape[2:]) > 0.3).to(like)


def with_gradients(function, a, b, wanted=(True, True)):
    leaves = [image.detach().clone().requires_grad_(some) for image, some in zip((a, b), wanted, strict=True)]
    score = function(*leaves)
    return score.detach(), torch.autograd.grad(3 * score, [leaf for leaf in leaves if leaf.requires_grad])


def assert_correlations_agree(similarity, a, b, mask, wanted=(True, True)):
    assert can_correlate(a, b, mask)
    got = with_gradients(lambda a, b: similarity(a, b, mask), a, b, wanted)
    expected = with_gradients(lambda a, b: similarity.plain(a, b, mask), a, b, wanted)
    assert_close(got[0], expected[0], rtol=0, atol=SCORE[a.dtype])
    for ours, referee in zip(got[1], expected[1], strict=True):
        largest = max(referee.abs().max().item(), 1 / referee.numel())  # windows of one voxel have none but rounding
        assert_close(ours, referee, rtol=0, atol=GRADIENT[a.dtype] * largest)


# Local correlation


@every_window
@every_dim
@every_mask
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compiled_correlation_equals_the_plain_one(name, dim, mask, dtype):
    a, b = images(SHAPES[dim], dtype)
    epsilon = 1e-2 if dtype == torch.float32 else 1e-5  # in float32, 1e-5 in a window of one voxel is all rounding
    assert_correlations_agree(replace(WINDOWS[name], epsilon=epsilon), a, b, mask_of(mask, a))


@every_mask
@pytest.mark.parametrize("shape", [(1,), (2,), (1, 5), (70, 3), (1, 1, 1), (2, 1, 40), (35, 34, 5), (3, 2, 65)])
def test_correlations_on_lattices_that_are_narrow_or_larger_than_a_tile(shape, mask):
    a, b = images(shape)
    for name in ("box", "Gaussian"):
        assert_correlations_agree(WINDOWS[name], a, b, mask_of(mask, a))


@every_dim
@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_only_wanted_gradients_of_a_correlation_are_computed(dim, wanted):
    assert_correlations_agree(LNCC(window=5), *images(SHAPES[dim]), None, wanted)


@every_dim
def test_images_may_have_any_layout(dim):
    a, b = images(SHAPES[dim])
    turned = a.transpose(1, -1).contiguous().transpose(1, -1)
    assert not turned.is_contiguous()
    assert_correlations_agree(LNCC(window=5), turned, b, mask_of("each", a)[:1].expand(2, -1, *[-1] * dim))


@every_dim
def test_threads_do_not_change_a_correlation(dim):
    shape = {1: (300,), 2: (90, 50), 3: (40, 41, 42)}[dim]
    a, b = images(shape, batch=1, channels=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = with_gradients(LNCC(window=5), a, b)
        torch.set_num_threads(4)
        together = with_gradients(LNCC(window=5), a, b)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone[0], together[0])
    assert all(torch.equal(*pair) for pair in zip(alone[1], together[1], strict=True))


def test_what_the_kernel_does_not_know_is_left_to_torch():
    a, b = images((6, 5))
    assert not can_correlate(a.half(), b.half(), None)
    assert not can_correlate(a, b[:1], None)
    assert not can_correlate(a[:0], b[:0], None)
    mask = mask_of("one", a).requires_grad_()
    assert not can_correlate(a, b, mask)
    assert torch.autograd.grad(LNCC(window=5)(a, b, mask), mask)[0].abs().max() > 0
    with torch.no_grad():
        assert not LNCC(window=5)(a.requires_grad_(), b).requires_grad


# Folds


@every_dim
@pytest.mark.parametrize("rule", ["forward", "any_of_eight", "ten"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 0.2, 1.5])
def test_the_compiled_fold_count_equals_the_plain_one(dim, rule, dtype, scale):
    """Random determinants are not so near to zero that rounding would decide about them."""
    shape = {1: (67,), 2: (9, 40), 3: (6, 9, 37)}[dim]
    field = (scale * torch.randn(2, dim, *shape, dtype=torch.float64)).to(dtype)
    assert torch.equal(folded(field, rule), jacobian._folded(field, rule))
    if rule == "ten":
        _, negative = jacobian._judge(field, rule)
        assert negative.dtype == dtype
        assert_close(negative, jacobian._negative(field), **ROUNDING[dtype])


@every_dim
def test_fields_may_have_any_layout(dim):
    field = smooth(SHAPES[dim], 2.0).transpose(1, -1).contiguous().transpose(1, -1)
    assert_close(ndv_percent(field), ndv_percent(field.contiguous()), rtol=0, atol=0)
    assert_close(folds_percent(field, "ten"), folds_percent(field.contiguous(), "ten"), rtol=0, atol=0)


@every_dim
def test_the_smallest_lattices_and_empty_batches_are_judged(dim):
    field = torch.randn(1, dim, *[3] * dim, dtype=torch.float64)
    assert torch.equal(folded(field, "ten"), jacobian._folded(field, "ten"))
    assert folded(field[:0], "ten").shape == (0, *[1] * dim)
