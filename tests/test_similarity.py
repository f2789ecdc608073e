"""Similarities against closed forms, windows summed one by one, SciPy, MONAI and ICON's own package."""

import itertools
from math import exp, prod, sqrt

import monai.losses
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from tables import BLIND_TO_CONTRAST, BLIND_TO_SIGN, DIMS, SHAPES, SIMILARITIES, SIMILARITY_CASES, SLACK, smooth_image
from torch.testing import assert_close

from foldless.kernels.local_sums import box_sum, gaussian_average
from foldless.similarity import LNCC, MINDSSC, MSE, NCC, NMI

EXACT = 1e-10  # float64: variances come from differences of sums
OF_EPSILON = 0.01  # what an epsilon of 1e-5 takes from the correlation of images of variance 0.01 and more
AS_ICON = 1e-5  # float32

every_dim = pytest.mark.parametrize("dim", DIMS)
every_case = pytest.mark.parametrize(("dim", "name"), SIMILARITY_CASES)


def pair(dim, batch=2, channels=2, shape=None):
    shape = shape or SHAPES[dim]
    rough = torch.rand(2, batch, channels, *shape, dtype=torch.float64)
    return rough[0], 0.5 * rough[0] + 0.5 * rough[1]


# Laws


@every_case
def test_equal_images_score_zero(dim, name):
    image, _ = pair(dim)
    score = SIMILARITIES[name](image, image)
    assert score.shape == ()
    if name in ("MSE", "MIND-SSC"):
        assert score == 0
    elif name == "NMI":
        assert 0 < score < 0.7  # a voxel counts in several bins
    else:
        assert 0 <= score < OF_EPSILON


@every_case
def test_unlike_images_score_more(dim, name):
    a, b = pair(dim)
    similarity = SIMILARITIES[name]
    assert similarity(a, b) > similarity(a, a) + 1e-3
    assert similarity(a, 1 - b if name not in BLIND_TO_SIGN else torch.rand_like(b)) > similarity(a, b)


@every_case
def test_similarity_is_symmetric(dim, name):
    a, b = pair(dim)
    assert_close(SIMILARITIES[name](a, b), SIMILARITIES[name](b, a), rtol=0, atol=SLACK)


@every_case
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_images_have_finite_scores_and_gradients(dim, name, value, dtype):
    constant = torch.full((1, 1, *SHAPES[dim]), value, dtype=dtype, requires_grad=True)
    other = smooth_image(SHAPES[dim]).to(dtype)
    for target in (other, constant.detach(), torch.zeros_like(other)):
        score = SIMILARITIES[name](constant, target)
        (gradient,) = torch.autograd.grad(score, constant)
        assert torch.isfinite(score)
        assert torch.isfinite(gradient).all()


@every_case
def test_gradients_are_the_derivatives(dim, name):
    a, b = pair(dim, 1, 1, shape={1: (7,), 2: (4, 5), 3: (2, 3, 2)}[dim])
    mask = torch.rand(1, 1, *a.shape[2:], dtype=torch.float64)
    similarity = SIMILARITIES[name]
    assert torch.autograd.gradcheck(similarity, (a.requires_grad_(), b.requires_grad_()), eps=1e-6, atol=1e-5)
    assert torch.autograd.gradcheck(lambda a, b: similarity(a, b, mask), (a, b), eps=1e-6, atol=1e-5)


@every_case
def test_the_score_of_a_batch_is_the_mean_of_its_samples(dim, name):
    a, b = pair(dim, batch=3)
    alone = torch.stack([SIMILARITIES[name](a[i : i + 1], b[i : i + 1]) for i in range(3)])
    assert_close(SIMILARITIES[name](a, b), alone.mean(), rtol=0, atol=SLACK)


@every_case
def test_brightness_and_contrast(dim, name):
    """Correlations and patches see neither, up to epsilon; squared differences and histograms on a range see both."""
    a, b = pair(dim)
    similarity = SIMILARITIES[name]
    change = (similarity(3 * a, b) - similarity(a, b)).abs()
    assert change < OF_EPSILON if name in BLIND_TO_CONTRAST else change > 0.01


@every_case
def test_what_a_mask_leaves_out_does_not_matter(dim, name):
    a, b = pair(dim)
    mask = torch.zeros(2, 1, *SHAPES[dim], dtype=torch.float64)
    mask[(..., *[slice(1, -2)] * dim)] = 1
    elsewhere = torch.where(mask > 0, a, 5 * torch.randn_like(a)), torch.where(mask > 0, b, 5 * torch.randn_like(b))
    similarity = SIMILARITIES[name]
    assert_close(similarity(*elsewhere, mask), similarity(a, b, mask), rtol=0, atol=EXACT)
    assert (similarity(a, b, mask) - similarity(a, b)).abs() > 1e-4


@every_case
def test_a_mask_of_ones_is_no_mask(dim, name):
    """For local windows where they see no border: there a mask restricts them, and without one they see zeros."""
    a, b = (torch.nn.functional.pad(image, [8] * 2 * dim) for image in pair(dim))
    ones = torch.ones(1, 1, *a.shape[2:], dtype=torch.float64)
    assert_close(SIMILARITIES[name](a, b, ones), SIMILARITIES[name](a, b), rtol=0, atol=EXACT)


@every_case
def test_an_empty_mask_is_finite(dim, name):
    a, b = pair(dim)
    assert torch.isfinite(SIMILARITIES[name](a.requires_grad_(), b, torch.zeros(2, 1, *SHAPES[dim]).double()))


@every_case
def test_autocast_leaves_scores_alone(dim, name):
    a, b = (image.float() for image in pair(dim))
    expected = SIMILARITIES[name](a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = SIMILARITIES[name](a, b)
    assert_close(got, expected, rtol=0, atol=1e-5)  # float32: local variances are differences of nearly equal sums


# Closed forms


@every_dim
def test_mse_is_the_mean_squared_difference(dim):
    a, b = pair(dim)
    assert_close(MSE()(a, b).item(), ((a - b) ** 2).numpy().mean(), rtol=0, atol=SLACK)
    weight = torch.rand(2, 1, *SHAPES[dim], dtype=torch.float64)
    expected = np.average(((a - b) ** 2).numpy(), weights=np.broadcast_to(weight.numpy(), a.shape))
    assert_close(MSE()(a, b, weight).item(), expected, rtol=0, atol=SLACK)


@every_dim
def test_ncc_is_numpys_correlation(dim):
    a, b = pair(dim)
    each = [np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)]
    assert_close(NCC(epsilon=0.0)(a, b).item(), 1 - np.mean(each), rtol=0, atol=SLACK)
    mask = (torch.rand(1, 1, *SHAPES[dim]) > 0.4).double()
    inside = mask.flatten().bool()
    each = [
        np.corrcoef(x.flatten()[inside], y.flatten()[inside])[0, 1]
        for x, y in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)
    ]
    assert_close(NCC(epsilon=0.0)(a, b, mask).item(), 1 - np.mean(each), rtol=0, atol=SLACK)


def windows(array, window):
    """Every window of one image, zeros outside, flattened: (voxels, window^dim)."""
    padded = np.pad(array, window // 2)
    views = np.lib.stride_tricks.sliding_window_view(padded, (window,) * array.ndim)
    return views.reshape(array.size, -1)


@every_dim
@pytest.mark.parametrize("window", [3, 5, 9])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-3])
def test_lncc_is_the_correlation_in_every_window(dim, window, squared, epsilon):
    a, b = pair(dim, 1, 1)
    scores = []
    wa, wb = windows(a[0, 0].numpy(), window), windows(b[0, 0].numpy(), window)
    for x, y in zip(wa, wb, strict=True):
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        if squared:
            scores.append((covariance * x.size) ** 2 / (x.var() * x.size * y.var() * y.size + epsilon))
        else:
            scores.append(covariance / sqrt((x.var() + epsilon) * (y.var() + epsilon)))
    got = LNCC(window=window, squared=squared, epsilon=epsilon)(a, b)
    assert_close(got.item(), 1 - np.mean(scores), rtol=0, atol=1e-7 if epsilon < 1e-9 else EXACT)


@every_dim
def test_a_mask_restricts_the_windows_and_the_average(dim):
    a, b = pair(dim, 1, 1)
    mask = (torch.rand(1, 1, *SHAPES[dim]) > 0.3).double()
    inside = windows(mask[0, 0].numpy(), 5).astype(bool)
    wa, wb = windows(a[0, 0].numpy(), 5), windows(b[0, 0].numpy(), 5)
    scores = []
    for x, y, some, counts in zip(wa, wb, inside, mask.flatten().bool(), strict=True):
        if counts:
            x, y = x[some], y[some]
            covariance = ((x - x.mean()) * (y - y.mean())).mean()
            scores.append(covariance / sqrt((x.var() + 1e-3) * (y.var() + 1e-3)))
    assert_close(LNCC(window=5, epsilon=1e-3)(a, b, mask).item(), 1 - np.mean(scores), rtol=0, atol=EXACT)


@pytest.mark.parametrize("window", [0, 4, -3])
def test_a_window_has_a_centre(window):
    with pytest.raises(ValueError, match=r"its side is odd|window is 1 or more"):
        LNCC(window=window)


# Outsiders


@every_dim
@pytest.mark.parametrize("window", [3, 9])
def test_monai_computes_the_same_squared_lncc(dim, window):
    """1 + MONAI's loss; MONAI clamps each variance where ours adds to their product, so both are switched off."""
    a, b = pair(dim, shape={1: (31,), 2: (15, 17), 3: (11, 12, 13)}[dim])
    theirs = monai.losses.LocalNormalizedCrossCorrelationLoss(
        spatial_dims=dim, kernel_size=window, kernel_type="rectangular", smooth_nr=0, smooth_dr=1e-30
    )
    channels = torch.stack([1 + theirs(a[:, c : c + 1], b[:, c : c + 1]) for c in range(2)])
    assert_close(LNCC(window=window, squared=True, epsilon=0.0)(a, b), channels.mean(), rtol=0, atol=EXACT)


@every_dim
def test_icon_computes_nearly_the_same_gaussian_lncc(dim):
    """Theirs cuts the Gaussian at two standard deviations, ours at three: the same on our window, close on theirs."""
    icon = pytest.importorskip("icon_registration.losses", reason="the optional icon_registration")
    sigma = 2  # theirs counts in whole voxels
    a, b = (image.float() for image in pair(dim, shape={1: (41,), 2: (23, 21), 3: (15, 14, 16)}[dim]))
    theirs = icon.LNCC(sigma)
    expected = theirs(a, b)
    assert_close(LNCC(sigma=float(sigma))(a, b), expected, rtol=0, atol=0.05)
    wide = type("Wide", (icon.LNCC,), {"blur": lambda self, x: icon.gaussian_blur(x, 2 * 3 * sigma + 1, sigma)})
    assert_close(LNCC(sigma=float(sigma))(a, b), wide(sigma)(a, b), rtol=0, atol=AS_ICON)
    squared = type("WideSquared", (icon.SquaredLNCC,), {"blur": wide.blur})
    got = LNCC(sigma=float(sigma), squared=True, epsilon=1e-9)(a, b)
    assert_close(got, squared(sigma)(a, b), rtol=0, atol=0.01)  # epsilon is on each variance there


# Mutual information


def joint_of(a, b, bins, width, weight=None):
    """Histogram of two images, voxel by voxel."""
    centres = np.arange(bins) / (bins - 1)
    joint = np.zeros((bins, bins))
    for x, y, w in zip(a.flatten(), b.flatten(), np.ones(a.size) if weight is None else weight.flatten(), strict=True):
        windows = [np.exp(-(((value - centres) * (bins - 1) / width) ** 2) / 2) for value in (x, y)]
        joint += w * np.outer(*[window / window.sum() for window in windows])
    return joint / joint.sum()


def normalised(joint):
    """Studholme's (H(A) + H(B)) / H(A, B), by SciPy's entropies."""
    entropies = scipy.stats.entropy(joint.sum(0)) + scipy.stats.entropy(joint.sum(1))
    return entropies / scipy.stats.entropy(joint.flatten())


@every_dim
@pytest.mark.parametrize(("bins", "width"), [(8, 0.5), (32, 1.0)])
@pytest.mark.parametrize("masked", [False, True])
def test_nmi_is_scipys_entropies_of_a_counted_histogram(dim, bins, width, masked):
    a, b = pair(dim)
    mask = torch.rand(2, 1, *SHAPES[dim], dtype=torch.float64)
    each = [
        normalised(joint_of(x.numpy(), y.numpy(), bins, width, w[0].numpy() if masked else None))
        for images, others, w in zip(a, b, mask, strict=True)
        for x, y in zip(images, others, strict=True)
    ]
    got = NMI(bins=bins, width=width)(a, b, mask if masked else None)
    assert_close(got.item(), 2 - np.mean(each), rtol=0, atol=1e-9)  # 1e-12 within each logarithm


@every_dim
def test_monais_mutual_information_is_in_it(dim):
    """NMI = 1 + MI / H(A, B), both of MONAI's windows."""
    a, b = pair(dim, 1, 1)
    theirs = monai.losses.GlobalMutualInformationLoss(num_bins=16, smooth_nr=1e-15, smooth_dr=1e-15)
    in_a, _, in_b, _ = theirs.parzen_windowing(a, b)
    joint = (in_a[0].T @ in_b[0] / len(in_a[0])).numpy()
    expected = 1 - theirs(a, b).item() / scipy.stats.entropy(joint.flatten())
    assert_close(NMI(bins=16)(a, b).item(), 2 - expected, rtol=0, atol=1e-6)  # their window's width is float32


def test_nmi_knows_images_whose_intensities_mean_other_things():
    image = smooth_image((40, 41))
    other = (4 * image).sin().square()
    assert NMI()(image, other) < NMI()(image, other.roll(5, dims=2)) - 0.1
    assert NMI()(image, torch.rand_like(image)) > 0.9


def test_nmi_takes_a_range():
    image, other = smooth_image((20, 21)), smooth_image((20, 21))
    far = NMI(low=-1000.0, high=1000.0)
    assert_close(far(2000 * image - 1000, 2000 * other - 1000), NMI()(image, other), rtol=0, atol=EXACT)
    assert_close(NMI()(image + 5, other), NMI()(torch.ones_like(image), other), rtol=0, atol=SLACK)


@pytest.mark.parametrize("wrong", [{"bins": 1}, {"low": 1.0}, {"width": 0.0}])
def test_a_histogram_takes_bins_a_range_and_a_window(wrong):
    with pytest.raises(ValueError, match=r"a histogram takes|bins is 2|width is a finite number above 0"):
        NMI(**wrong)


# Self-similarity


def mind_ssc(image, radius, dilation):
    """MIND-SSC of one image, one voxel, one pair and one patch at a time; borders repeat, as Heinrich's code has it."""
    dim, shape = image.ndim, image.shape
    unit = np.eye(dim, dtype=int) * dilation
    steps = [sign * unit[axis] for axis in range(dim) for sign in (-1, 1)]
    pairs = [(s, t) for i, s in enumerate(steps) for t in steps[i + 1 :] if s @ t == 0]

    def at(place, step):
        return image[tuple(np.clip(np.add(place, step), 0, np.subtract(shape, 1)))]

    unlikeness = np.zeros((len(pairs), *shape))
    for place in np.ndindex(*shape):
        for p, (s, t) in enumerate(pairs):
            patch = itertools.product(range(-radius, radius + 1), repeat=dim)
            centres = [np.clip(np.add(place, offset), 0, np.subtract(shape, 1)) for offset in patch]
            unlikeness[(p, *place)] = np.mean([(at(c, s) - at(c, t)) ** 2 for c in centres])
    unlikeness -= unlikeness.min(0)
    spread = unlikeness.mean(0)
    return np.exp(-unlikeness / np.clip(spread, 1e-3 * spread.mean(), 1e3 * spread.mean()))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("radius", "dilation"), [(1, 1), (2, 2)])
def test_mind_ssc_is_what_its_loops_say(dim, radius, dilation):
    a, _ = pair(dim, 1, 1, shape={2: (5, 6), 3: (2, 3, 4)}[dim])
    got = MINDSSC(radius=radius, dilation=dilation).descriptor(a)[0, 0]
    expected = mind_ssc(a[0, 0].numpy(), radius, dilation)
    assert len(got) == {2: 4, 3: 12}[dim]
    sums = [np.sort(x.reshape(len(x), -1), 0) for x in (got.numpy(), expected)]  # the order of the pairs is free
    assert_close(*sums, rtol=0, atol=EXACT)


@pytest.mark.parametrize(("radius", "dilation"), [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_icon_computes_the_same_mind_ssc(radius, dilation, masked):
    """The twelve pairs of Heinrich's code; a mask of ones is none."""
    icon = pytest.importorskip("icon_registration.losses", reason="the optional icon_registration")
    a, b = (image.float() for image in pair(3, 1, 1, shape=(14, 15, 13)))
    expected = icon.MINDSSC(radius, dilation)(a, b)
    mask = torch.ones(1, 1, 14, 15, 13) if masked else None
    assert_close(MINDSSC(radius=radius, dilation=dilation)(a, b, mask), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_mask_restricts_the_patches(dim):
    """Inside, and where nothing else is near, the descriptor is that of the image cropped to the mask's window."""
    a, _ = pair(dim, 1, 1, shape={2: (16, 17), 3: (12, 13, 12)}[dim])
    mask = torch.zeros_like(a)
    mask[(..., *[slice(2, -2)] * dim)] = 1
    one, other = (MINDSSC(radius=1, dilation=1).descriptor(x, mask) for x in (a, torch.where(mask > 0, a, 9.0)))
    inside = (..., *[slice(2, -2)] * dim)
    assert_close(one[inside], other[inside], rtol=0, atol=EXACT)
    free = MINDSSC(radius=1, dilation=1).descriptor(a)
    deep = (..., *[slice(4, -4)] * dim)
    ratio = one[deep].log() / free[deep].log()  # the clamp of the spread, which sees the whole image, is not at work
    assert_close(ratio[ratio.isfinite()], torch.ones_like(ratio[ratio.isfinite()]), rtol=0, atol=1e-6)


def test_mind_ssc_knows_images_of_another_modality():
    regions = (3 * smooth_image((40, 41))).long()
    image, other = (torch.tensor(means, dtype=torch.float64)[regions] for means in ((0.1, 0.5, 0.8), (0.9, 0.3, 0.5)))
    score = MINDSSC()
    assert score(image, other) < 0.3 * score(image, other.roll(5, dims=2))


def test_one_dimension_has_no_right_angles():
    with pytest.raises(ValueError, match="at right angles"):
        MINDSSC()(torch.rand(1, 1, 9), torch.rand(1, 1, 9))


# Windows


@every_dim
@pytest.mark.parametrize("window", [1, 3, 5, 7, 9, 11])
@pytest.mark.parametrize("small", [False, True])
def test_box_sums_are_sums_over_boxes(dim, window, small):
    shape = {1: (3,), 2: (1, 4), 3: (2, 1, 3)}[dim] if small else SHAPES[dim]
    image = torch.randn(2, 3, *shape, dtype=torch.float64)
    convolution = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[dim]
    ones = torch.ones(1, 1, *[window] * dim, dtype=torch.float64)
    expected = convolution(image.flatten(0, 1)[:, None], ones, padding=window // 2).reshape(image.shape)
    assert_close(box_sum(image, window), expected, rtol=0, atol=prod([window] * dim) * SLACK)


@every_dim
@pytest.mark.parametrize("window", [1, 3, 5])
def test_box_sums_have_their_gradient(dim, window):
    image = torch.randn(1, 2, *{1: (6,), 2: (3, 4), 3: (2, 3, 2)}[dim], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: box_sum(x, window), (image,))
    assert torch.autograd.gradgradcheck(lambda x: box_sum(x, window).square(), (image,))


def test_box_sums_do_not_cancel():
    """A running sum by differences would leave the large value's rounding behind it."""
    image = torch.full((1, 1, 50), 1.0)
    image[..., 10] = 1e9
    assert (box_sum(image, 5)[..., 20:40] == 5).all()


@every_dim
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_gaussian_averages_are_scipys(dim, sigma):
    image = torch.randn(2, 1, *SHAPES[dim], dtype=torch.float64)
    expected = image.numpy()
    for axis in range(2, 2 + dim):
        expected = scipy.ndimage.gaussian_filter1d(expected, sigma, axis=axis, mode="constant", truncate=3)
    assert_close(gaussian_average(image, sigma).numpy(), expected, rtol=0, atol=SLACK)


@every_dim
def test_gaussian_averages_weigh_by_distance(dim):
    """The response to one voxel, from the definition alone."""
    shape, sigma = {1: (15,), 2: (15, 13), 3: (11, 13, 15)}[dim], 1.5
    image = torch.zeros(1, 1, *shape, dtype=torch.float64)
    centre = tuple(n // 2 for n in shape)
    image[(0, 0, *centre)] = 1
    got = gaussian_average(image, sigma)[0, 0]
    reach = 5  # 3 sigma = 4.5, rounded up
    one = {k: exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)}
    total = sum(one.values())
    for place in itertools.product(*[range(n) for n in shape]):
        expected = prod(one.get(p - c, 0.0) / total for p, c in zip(place, centre, strict=True))
        assert abs(got[place].item() - expected) < SLACK
