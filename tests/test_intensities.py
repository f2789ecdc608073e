"""Every similarity on every type and range of intensities against the same formula in float64, windows written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tables import SIMILARITIES

from foldless.metrics import dice, folds_percent, mean_dice, ndv_percent, summary
from foldless.similarity import LNCC, MINDSSC, MSE, NCC, NMI

SHAPE = (19, 22)
EPSILON = 1e-5
ABSOLUTE = 2e-4  # local variances in float32

RANGES = {
    "0 to 1": (0.0, 1.0),
    "raw CT": (-1024.0, 3071.0),
    "12-bit MR": (0.0, 4095.0),
    "8 bits": (0.0, 255.0),
    "16 bits": (0.0, 65535.0),
    "z-scores": (-3.0, 5.0),
    "negative": (-900.0, -100.0),
    "far from zero": (1e4, 1e4 + 50),
    "tiny": (0.0, 1e-4),
    "huge": (0.0, 1e8),
}
DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)
MASKS = ("none", "bool", "byte", "float")
OURS = {
    "LNCC": LNCC(window=5),
    "LNCC squared": LNCC(window=5, squared=True),
    "LNCC Gaussian": LNCC(sigma=1.2),
    "LNCC Gaussian squared": LNCC(sigma=1.2, squared=True),
    "NCC": NCC(),
    "MSE": MSE(),
    "NMI": None,
    "MIND-SSC": MINDSSC(radius=1, dilation=1),
}


def window(name):
    """The window's weights along an axis, and by how many voxels a squared correlation's sums count."""
    if "Gaussian" in name:
        k = np.arange(-4, 5)
        weights = np.exp(-0.5 * (k / 1.2) ** 2)
        return weights / weights.sum(), 12 * 1.2**2 + 1
    return np.full(5, 1 / 5), 25.0


def lncc(name, a, b, mask):
    """Every window written out, about its own mean."""
    weights, volume = window(name)
    reach, kernel = len(weights) // 2, torch.outer(*[torch.tensor(weights)] * 2).flatten()[:, None]

    def windows(x):
        return F.unfold(F.pad(x[None, None], [reach] * 4), len(weights))[0]

    def centred(x):
        """Constant windows are zero to the last bit."""
        every = windows(x)
        every = every - every[len(kernel) // 2].detach()
        return every - (w * every).sum(0)

    w = kernel.expand(-1, a.numel())
    if mask is not None:
        w = w * windows(mask)
        w = w / w.sum(0).clamp_min(1e-6)
    x, y = centred(a), centred(b)
    xx, yy, xy = ((w * product).sum(0) for product in (x * x, y * y, x * y))
    if "squared" in name:
        scores = xy**2 / (xx * yy + EPSILON / volume**2)
    else:
        scores = xy / ((xx + EPSILON) * (yy + EPSILON)).sqrt()
    return 1 - average(scores.reshape(a.shape), mask)


def average(x, mask):
    weight = torch.ones_like(x) if mask is None else mask.expand_as(x)
    return (x * weight).sum() / weight.sum()


def ncc(a, b, mask):
    x, y = (image - average(image, mask) for image in (a, b))
    xx, yy, xy = (average(product, mask) for product in (x * x, y * y, x * y))
    return 1 - xy / ((xx + 1e-6) * (yy + 1e-6)).sqrt()


def nmi(a, b, mask, low, high):
    centres, sums = torch.arange(32), []
    for image in (a, b):
        at = (image.flatten().clamp(low, high) - low) * 31 / (high - low)
        each = (-0.5 * ((at[:, None] - centres) / 0.5) ** 2).exp()
        sums.append(each / each.sum(1, keepdim=True))
    weight = torch.ones(a.numel(), dtype=a.dtype) if mask is None else mask.flatten()
    joint = (sums[0] * weight[:, None] / weight.sum()).T @ sums[1]
    entropies = [-(p * (p + 1e-12).log()).sum() for p in (joint.sum(0), joint.sum(1), joint)]
    return 2 - (entropies[0] + entropies[1]) / entropies[2]


def mind(image, mask):
    """Four pairs of neighbours at right angles; what lies outside repeats the border."""
    weight = torch.ones_like(image) if mask is None else mask
    steps = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    pairs = [(s, t) for s in steps[:2] for t in steps[2:]]

    def moved(x, by):
        wide = F.pad(x[None, None], [1] * 4, mode="replicate")[0, 0]
        return wide[1 + by[0] : 1 + by[0] + x.shape[0], 1 + by[1] : 1 + by[1] + x.shape[1]]

    def patch(x):
        return sum(moved(x, (i, j)) for i in (-1, 0, 1) for j in (-1, 0, 1))

    unlike = []
    for s, t in pairs:
        both = moved(weight, s) * moved(weight, t)
        square = (moved(image, s) - moved(image, t)) ** 2 * both
        unlike.append(patch(square) / patch(both).clamp_min(1e-6))
    unlike = torch.stack(unlike)
    unlike = unlike - unlike.amin(0)
    spread = unlike.mean(0)
    usual = average(spread, mask)
    return (-unlike / spread.maximum(1e-3 * usual).minimum(1e3 * usual).clamp_min(1e-12)).exp()


def reference(name, a, b, mask, low, high):
    if mask is not None:
        a, b = a.masked_fill(mask == 0, 0), b.masked_fill(mask == 0, 0)
    match name:
        case "MSE":
            return average((a - b) ** 2, mask)
        case "NCC":
            return ncc(a, b, mask)
        case "NMI":
            return nmi(a, b, mask, low, high)
        case "MIND-SSC":
            return average((mind(a, mask) - mind(b, mask)) ** 2, mask)
    return lncc(name, a, b, mask)


def images(low, high, dtype):
    """Two images alike in part, with regions that are constant at either end of the range and in between; as `dtype`
    holds them, None if it cannot."""
    random = np.random.default_rng(0)
    a = random.random(SHAPE)
    b = 0.6 * a + 0.4 * random.random(SHAPE)
    a[:7, :9], b[:7, :9] = 0, 0
    a[11:, :8], b[11:, :8] = 1, 1
    a[:8, 14:] = 0.5
    pair = [low + (high - low) * x for x in (a, b)]
    if dtype == torch.bool:
        return [torch.tensor(x > (low + high) / 2)[None, None] for x in pair] if low == 0 else None
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    if low < limits.min or high > limits.max:
        return None
    return [torch.tensor(x)[None, None].to(dtype) for x in pair]


def mask_of(kind):
    """A mask, and the weights that it stands for."""
    if kind == "none":
        return None, None
    inside = torch.zeros(SHAPE, dtype=torch.float64)
    inside[3:16, 2:20] = 1
    inside[6:9, 6:9] = 0
    if kind == "float":
        inside *= 0.25 + 0.5 * torch.tensor(np.random.default_rng(1).random(SHAPE))
        return inside[None, None], inside
    mask = inside[None, None] > 0
    return mask if kind == "bool" else mask.byte() * 255, inside


def similarity_for(name, low, high):
    return NMI(low=low, high=high) if name == "NMI" else OURS[name]


def exact(x):
    return x.detach()[0, 0].double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("span", RANGES)
@pytest.mark.parametrize("name", OURS)
def test_every_similarity_takes_every_type_and_range(name, span, dtype):
    low, high = RANGES[span]
    pair = images(low, high, dtype)
    if pair is None:
        pytest.skip(f"{dtype} holds no intensities of {low:g} to {high:g}")
    similarity = similarity_for(name, low, high)
    for kind in MASKS:
        mask, weight = mask_of(kind)
        expected = reference(name, *map(exact, pair), weight, low, high).item()
        got = similarity(*pair, mask)
        assert got.dtype == (torch.float64 if dtype in (torch.float64, torch.int32) else torch.float32)
        assert got.item() == pytest.approx(expected, rel=1e-4, abs=ABSOLUTE), kind
        if "squared" in name:
            assert 0 <= got <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("span", RANGES)
@pytest.mark.parametrize("name", OURS)
def test_gradients_are_those_of_float64(name, span, dtype):
    low, high = RANGES[span]
    pair = images(low, high, dtype)
    if pair is None:
        pytest.skip(f"{dtype} holds no intensities of {low:g} to {high:g}")
    for kind in ("none", "bool"):
        mask, weight = mask_of(kind)
        leaves = [x.clone().requires_grad_() for x in pair]
        known = [exact(x).requires_grad_() for x in pair]
        got = torch.autograd.grad(similarity_for(name, low, high)(*leaves, mask), leaves)
        expected = torch.autograd.grad(reference(name, *known, weight, low, high), known)
        for ours, theirs in zip(got, expected, strict=True):
            assert ours.dtype == dtype
            slack = {torch.bfloat16: 1e-2, torch.float64: 1e-6}.get(dtype, 1e-2) * theirs.abs().max().item()
            smallest = torch.finfo(dtype).smallest_normal  # what a half cannot hold is 0
            torch.testing.assert_close(exact(ours), theirs, rtol=0, atol=max(slack, smallest))


def test_images_may_hold_anything_where_a_mask_is_zero():
    pair = images(0.0, 1.0, torch.float32)
    mask, _ = mask_of("bool")
    wild = [torch.where(mask, x, torch.nan).requires_grad_() for x in pair]
    for name, similarity in SIMILARITIES.items():
        score = similarity(*wild, mask)
        assert score == similarity(*pair, mask), name
        assert all(g.isfinite().all() for g in torch.autograd.grad(score, wild)), name


@pytest.mark.parametrize("dtype", [d for d in DTYPES if not d.is_floating_point], ids=str)
def test_labels_of_every_integer_type_overlap_alike(dtype):
    a, b = (x[0, 0].to(dtype) for x in images(0.0, 1.0, torch.bool))
    expected = 2 * (a.double() * b.double()).sum().item() / (a.sum() + b.sum()).item()
    assert dice(a, b) == {1: pytest.approx(expected)}
    assert dice(a.numpy(), b.numpy()) == {1: pytest.approx(expected)}
    assert mean_dice(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_fields_of_every_float_type_fold_alike(dtype):
    field = torch.randn(1, 2, 9, 9).to(dtype)
    for score in (folds_percent, ndv_percent):
        assert score(field).item() == pytest.approx(score(field.double()).item(), abs=1e-3)
    assert summary(field)["max"] == field.double().max().item()
