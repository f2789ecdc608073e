"""Lattices in the world, judged by ITK's own arithmetic."""

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from foldless.io import Geometry, centred_lattice, spanning_lattice

ROUNDING = 1e-9
"""Millimetres or voxels: float64 rounding over a metre, with room."""


def oblique(size: tuple[int, ...], mirrored: bool = False) -> sitk.Image:
    image = sitk.Image(list(size), sitk.sitkFloat32)
    dim = len(size)
    image.SetSpacing((0.7, 2.9, 4.3)[:dim])
    image.SetOrigin((31.0, -57.0, 12.5)[:dim])
    turn = Rotation.from_euler("zyx", [0.5, 0.4 * (dim == 3), -0.3 * (dim == 3)]).as_matrix()[:dim, :dim]
    image.SetDirection((turn @ np.diag([1.0, -1.0 if mirrored else 1.0, 1.0][:dim])).ravel().tolist())
    return image


IMAGES = {
    "3-D": oblique((7, 6, 5)),
    "3-D mirrored": oblique((7, 6, 5), mirrored=True),
    "2-D": oblique((7, 6)),
    "2-D mirrored": oblique((7, 6), mirrored=True),
    "one slice": oblique((7, 6, 1)),
}


def of(image: sitk.Image) -> Geometry:
    return Geometry.of(image)


@pytest.mark.parametrize("name", IMAGES)
def test_indices_go_where_itk_says(name: str) -> None:
    image, geometry = IMAGES[name], of(IMAGES[name])
    indices = np.random.default_rng(0).uniform(-3, 9, (20, geometry.dim))
    judged = np.array([image.TransformContinuousIndexToPhysicalPoint(index) for index in indices.tolist()])
    np.testing.assert_allclose(geometry.index_to_physical(indices), judged, atol=ROUNDING)
    np.testing.assert_allclose(geometry.physical_to_index(judged), indices, atol=ROUNDING)


@pytest.mark.parametrize("name", IMAGES)
def test_unit_cube_runs_in_array_order_from_first_to_last_voxel(name: str) -> None:
    image, geometry = IMAGES[name], of(IMAGES[name])
    points = np.random.default_rng(1).uniform(0, 1, (geometry.dim, 4, 5))
    indices = [x * max(n - 1, 1) for x, n in zip(points[::-1], image.GetSize(), strict=True)]
    judged = np.array(
        [
            image.TransformContinuousIndexToPhysicalPoint(one)
            for one in np.reshape(indices, (geometry.dim, -1)).T.tolist()
        ]
    )
    physical = geometry.unit_to_physical(points)
    np.testing.assert_allclose(physical.reshape(geometry.dim, -1).T, judged, atol=ROUNDING)
    np.testing.assert_allclose(geometry.physical_to_unit(physical), points, atol=ROUNDING)


@pytest.mark.parametrize("name", IMAGES)
def test_voxel_centres_centre_and_shape(name: str) -> None:
    image, geometry = IMAGES[name], of(IMAGES[name])
    assert geometry.shape == sitk.GetArrayFromImage(image).shape
    last = tuple(n - 1 for n in image.GetSize())
    centres = geometry.voxel_centres
    assert centres.shape == (geometry.dim, *geometry.shape)
    np.testing.assert_allclose(centres[(..., *[-1] * geometry.dim)], image.TransformIndexToPhysicalPoint(last))
    np.testing.assert_allclose(centres[(..., *[0] * (geometry.dim - 1), 3)] if geometry.size[0] > 3 else 0,
                               image.TransformIndexToPhysicalPoint((3, *[0] * (geometry.dim - 1))))  # fmt: skip
    middle = image.TransformContinuousIndexToPhysicalPoint([n / 2 for n in last])
    np.testing.assert_allclose(geometry.centre, middle, atol=ROUNDING)


def test_a_slab_keeps_its_voxels_in_place() -> None:
    geometry = of(IMAGES["3-D mirrored"])
    np.testing.assert_allclose(geometry.slab(1, 4).voxel_centres, geometry.voxel_centres[:, 1:4], atol=ROUNDING)


@pytest.mark.parametrize("name", ["3-D", "2-D mirrored"])
def test_fits_allows_for_rounding_and_not_for_a_tenth_of_a_voxel(name: str) -> None:
    geometry = of(IMAGES[name])
    near, far = (
        dataclasses.replace(geometry, origin=(geometry.origin[0] + off, *geometry.origin[1:])) for off in (1e-3, 0.3)
    )
    assert geometry.fits(near)
    assert not geometry.fits(far)
    assert geometry.fits(far, tolerance=0.5)
    assert not geometry.fits(dataclasses.replace(geometry, size=(geometry.size[0] + 1, *geometry.size[1:])))
    assert not geometry.fits(dataclasses.replace(geometry, direction=tuple(-d for d in geometry.direction)))


@pytest.mark.parametrize("shape", [(5, 9, 8), (4, 6, 10), (5, 6, 7), (3, 11, 4)])
def test_centred_lattice_pads_and_crops_whole_voxels(shape: tuple[int, ...]) -> None:
    image = IMAGES["3-D mirrored"]
    geometry = of(image)
    padded = centred_lattice(geometry, shape)
    before = [(m - n) // 2 for n, m in zip(image.GetSize(), shape[::-1], strict=True)]
    assert padded.shape == shape
    assert (padded.spacing, padded.direction) == (geometry.spacing, geometry.direction)
    np.testing.assert_allclose(padded.origin, image.TransformIndexToPhysicalPoint([-b for b in before]), atol=ROUNDING)


def test_centred_lattice_of_another_spacing_keeps_the_centre() -> None:
    geometry = of(IMAGES["3-D"])
    other = centred_lattice(geometry, (8, 9, 10), (1.0, 1.0, 4.3))
    assert other.spacing == (1.0, 1.0, 4.3)
    off = geometry.physical_to_index(other.centre) - geometry.physical_to_index(geometry.centre)
    np.testing.assert_allclose(off, (0, 0, 0.5), atol=ROUNDING)  # z: whole voxels, 1 before and 2 after


@pytest.mark.parametrize("shape", [(9, 8, 3), (2, 11, 7)])
def test_spanning_lattice_shares_the_corners(shape: tuple[int, ...]) -> None:
    geometry = of(IMAGES["3-D mirrored"])
    spanning = spanning_lattice(geometry, shape)
    assert spanning.shape == shape
    np.testing.assert_allclose(spanning.corners, geometry.corners, atol=ROUNDING)


def test_impossible_geometries_are_refused() -> None:
    good = of(IMAGES["2-D"])
    nan, inf = float("nan"), float("inf")
    nowhere = ({"origin": (nan, 0.0)}, {"spacing": (inf, 1.0)}, {"direction": (nan, 0.0, 0.0, 1.0)})
    other = ({"size": (3,)}, {"size": (3, 0)}, {"spacing": (1.0, -1.0)}, {"direction": (1.0, 1.0, 1.0, 1.0)})
    for wrong in (*other, *nowhere):
        with pytest.raises(ValueError, match=r"geometry has|positive|singular|lies somewhere"):
            dataclasses.replace(good, **wrong)
    with pytest.raises(ValueError, match="needs 2 numbers"):
        centred_lattice(good, (3, 3, 3))
