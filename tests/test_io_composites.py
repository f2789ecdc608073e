"""ITK transforms that are no displacement field: affine ones, composites, parts that SimpleITK has no class for."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from foldless.errors import InputError
from foldless.io import Geometry, Volume, apply_warp, read_warp

SAME = 1e-9
"""Millimetres; SimpleITK's arithmetic is in double precision."""


def displacement() -> sitk.Transform:
    field = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(5, 6, 7, 3)), isVector=True)
    field.SetSpacing((2.0, 2.0, 3.0))
    return sitk.DisplacementFieldTransform(field)


def affine() -> sitk.Transform:
    found = sitk.AffineTransform(3)
    found.SetMatrix((1.1, 0.0, 0.1, 0.0, 0.9, 0.0, 0.05, 0.0, 1.0))
    found.SetTranslation((0.5, -1.0, 0.25))
    return found


def reference() -> Geometry:
    direction = Rotation.from_euler("zyx", [0.3, 0.2, -0.4]).as_matrix().ravel().tolist()
    return Geometry((6, 5, 4), (1.0, 1.5, 2.0), (1.0, 2.0, 3.0), tuple(direction))


def written(transform: sitk.Transform, path: Path) -> Path:
    sitk.WriteTransform(transform, str(path))
    return path


def with_centred_affines(folder: Path) -> Path:
    """What uniGradICON writes: CenteredAffine, displacement, CenteredAffine; SimpleITK has no class for the ends."""
    text = written(sitk.CompositeTransform([affine(), displacement(), affine()]), folder / "plain.tfm").read_text()
    lines = text.splitlines()
    for place, line in enumerate(lines):
        if line.startswith("Transform: AffineTransform"):
            name, numbers, fixed = lines[place : place + 3]
            values = numbers.split()[1:]
            lines[place] = name.replace("AffineTransform", "CenteredAffineTransform")
            lines[place + 1] = " ".join(["Parameters:", *values[:9], "0.5", "0.25", "0.75", *values[9:]])
            assert fixed == "FixedParameters: 0 0 0"
    (folder / "centred.tfm").write_text("\n".join(lines) + "\n")
    return written(sitk.ReadTransform(str(folder / "centred.tfm")), folder / "centred.h5")


def kinds(folder: Path) -> dict[str, Path]:
    composite = sitk.CompositeTransform([displacement(), affine(), sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3)])
    return {
        "affine": written(affine(), folder / "a.h5"),
        "composite": written(composite, folder / "c.h5"),
        "unknown parts": with_centred_affines(folder),
    }


KINDS = {
    "affine": "AffineTransform",
    "composite": "DisplacementFieldTransform, AffineTransform, Euler3DTransform",
    "unknown parts": "a part that SimpleITK does not know, DisplacementFieldTransform, a part",
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_itk_transform_is_evaluated_point_by_point(tmp_path: Path, kind: str) -> None:
    path, on = kinds(tmp_path)[kind], reference()
    transform = sitk.ReadTransform(str(path))
    field, geometry = read_warp(path, on)
    assert geometry == on
    for z, y, x in np.ndindex(on.shape):
        here = on.index_to_physical(np.array([x, y, z], dtype=float))
        there = here + field[z, y, x]
        np.testing.assert_allclose(there, transform.TransformPoint(here.tolist()), atol=SAME)


@pytest.mark.parametrize("kind", KINDS)
def test_apply_takes_them(tmp_path: Path, kind: str) -> None:
    path, on = kinds(tmp_path)[kind], reference()
    moving = Volume(sitk.GetImageFromArray(np.random.default_rng(1).normal(size=(9, 9, 9)).astype(np.float32)), path)
    there = apply_warp(moving, path, on)
    expected = sitk.Resample(
        moving.image, on.size, sitk.ReadTransform(str(path)), sitk.sitkLinear, on.origin, on.spacing, on.direction,
        float(moving.array.min()),
    )  # fmt: skip
    np.testing.assert_allclose(there.array, sitk.GetArrayFromImage(expected), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_lattice_they_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=f"holds {KINDS[kind]}"):
        read_warp(kinds(tmp_path)[kind])


def test_another_dimension(tmp_path: Path) -> None:
    path = written(sitk.TranslationTransform(2, (1.0, 2.0)), tmp_path / "t.h5")
    with pytest.raises(InputError, match="2-D transform, but the reference is 3-D"):
        read_warp(path, reference())


def test_nothing_is_no_transform(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds nothing"):
        read_warp(written(sitk.CompositeTransform(3), tmp_path / "t.h5"), reference())
