"""Surface distances beside DeepMind's package, and without the names that the package calls and new SciPy lacks."""

import numpy as np
import pytest
import scipy.ndimage
import surface_distance

from foldless.metrics import hd95

SAME = 1e-12
"""Relative; cumulative sums over elements that are as far away may be in another order."""


def blobs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    return (scipy.ndimage.gaussian_filter(noise, 1.5) > 0.02).astype(np.int32)


@pytest.mark.skipif(not hasattr(scipy.ndimage, "filters"), reason="the package itself needs older SciPy")
@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="the package itself needs NumPy 2")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(13, 17), (9, 11, 10)])
def test_hd95_is_deepminds(shape: tuple[int, ...], seed: int) -> None:
    a, b = blobs(shape, seed), blobs(shape, seed + 50)
    spacing = (0.7, 1.3, 2.1)[: len(shape)]
    distances = surface_distance.compute_surface_distances(b > 0, a > 0, spacing)
    expected = surface_distance.compute_robust_hausdorff(distances, 95.0)
    assert expected > 0
    assert hd95(a, b, spacing=spacing)[1] == pytest.approx(expected, rel=SAME)


def test_a_mask_that_fills_its_volume() -> None:
    whole, part = np.ones((6, 6, 6), np.int32), np.ones((6, 6, 6), np.int32)
    part[:, :, 3:] = 0
    assert hd95(whole, part)[1] == 3
    assert hd95(whole, whole)[1] == 0


@pytest.mark.parametrize("shape", [(12, 12), (12, 12, 12)])
def test_names_that_new_scipy_lacks_are_not_called(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    for name in ("filters", "morphology"):
        monkeypatch.delattr(scipy.ndimage, name, raising=False)
    a, b = (np.zeros(shape, np.int32) for _ in range(2))
    a[3:6], b[5:8] = 1, 1
    assert hd95(a, b) == {1: 2.0}
