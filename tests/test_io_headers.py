"""What other tools write into headers and NIfTI: vectors of one number, scaled labels, units, codes, slopes."""

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from foldless.errors import InputError
from foldless.io import Geometry, read_volume, read_warp

SHAPE = (7, 6, 5)
MICRONS = np.array([[25.0, 0, 0, -250], [0, 25.0, 0, -300], [0, 0, 25.0, -350], [0, 0, 0, 1]])


def marks(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)


def nifti(path: Path, array: np.ndarray, sform: np.ndarray, qform: np.ndarray | None = None, unit: str = "mm") -> Path:
    image = nib.Nifti1Image(array, sform)
    image.set_sform(sform, 1)
    image.set_qform(qform, 0 if qform is None else 1)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def notes(path: Path, labels: bool = False) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read_volume(path, labels)
    return [str(one.message) for one in said]


# --- vectors of one number -------------------------------------------------------------------------------------------


def nrrd(path: Path, array: np.ndarray, place: int, kind: str) -> Path:
    """An image (z, y, x) with an axis of one node and no direction at `place`."""
    sizes, directions, kinds = [str(n) for n in array.shape[::-1]], ["(1,0,0)", "(0,1,0)", "(0,0,1)"], ["domain"] * 3
    for words, word in ((sizes, "1"), (directions, "none"), (kinds, kind)):
        words.insert(place, word)
    head = [
        "NRRD0004",
        "type: unsigned char",
        "dimension: 4",
        "space: left-posterior-superior",
        f"sizes: {' '.join(sizes)}",
        f"space directions: {' '.join(directions)}",
        f"kinds: {' '.join(kinds)}",
        "encoding: raw",
        "space origin: (0,0,0)",
    ]
    path.write_bytes("\n".join([*head, "", ""]).encode() + array.tobytes())
    return path


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("kind", ["list", "vector", "point", "stub"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_nrrd_with_an_axis_of_one_node(tmp_path: Path, place: int, kind: str, labels: bool) -> None:
    read = read_volume(nrrd(tmp_path / "layer.seg.nrrd", marks(), place, kind), labels)
    np.testing.assert_array_equal(read.array, marks())


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 1), (5, 6, 7, 1, 1), (5, 6, 1, 1, 1), (5, 6, 1), (5, 6)])
def test_nifti_of_vectors_of_one_number(tmp_path: Path, shape: tuple[int, ...], labels: bool) -> None:
    affine = np.array([[2.0, 0, 0, 1], [0, 3, 0, 2], [0, 0, 4, 3], [0, 0, 0, 1]])
    image = nib.Nifti1Image(marks(shape), affine)
    image.set_sform(affine, 1)
    image.header.set_intent("vector")
    nib.save(image, tmp_path / "v.nii.gz")
    read = read_volume(tmp_path / "v.nii.gz", labels)
    assert read.array.shape == shape[:3][::-1]
    np.testing.assert_array_equal(read.array, marks(shape).reshape(shape[:3]).T)
    assert read.geometry.spacing == (2.0, 3.0, 4.0)[: read.dim]
    np.testing.assert_allclose(read.geometry.origin, (-1.0, -2.0, 3.0)[: read.dim])


# --- slopes and intercepts -------------------------------------------------------------------------------------------


def scaled(path: Path, array: np.ndarray, slope: float, intercept: float) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("dtype", [np.uint16, np.uint8, np.int16])
@pytest.mark.parametrize("largest", [7, 120, 200])
def test_labels_that_a_scale_factor_moved_off_whole_numbers(tmp_path: Path, dtype: type, largest: int) -> None:
    labels = np.linspace(0, largest, 7).round()[:, None, None] * np.ones(SHAPE)
    image = nib.Nifti1Image(labels, np.eye(4))
    image.set_data_dtype(dtype)
    nib.save(image, tmp_path / "l.nii.gz")
    assert (np.asanyarray(nib.load(tmp_path / "l.nii.gz").dataobj) != labels).any()
    np.testing.assert_array_equal(read_volume(tmp_path / "l.nii.gz", labels=True).array, labels.T)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_labels_that_arithmetic_left_beside_whole_numbers(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(marks() * (1 - 1e-7))
    sitk.WriteImage(image, str(tmp_path / f"l{suffix}"))
    np.testing.assert_array_equal(read_volume(tmp_path / f"l{suffix}", labels=True).array, marks())


@pytest.mark.parametrize("value", [0.5, 1.03, 0.9])
def test_labels_that_were_interpolated_stay_refused(tmp_path: Path, value: float) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.full(SHAPE, value)), str(tmp_path / "l.nii.gz"))
    with pytest.raises(InputError, match="not whole numbers"):
        read_volume(tmp_path / "l.nii.gz", labels=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_without_a_slope_nothing_is_scaled(tmp_path: Path, slope: float, dtype: type) -> None:
    path = scaled(tmp_path / "l.nii", marks().T.astype(dtype), slope, 7.0)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).max() > 2  # ITK adds it
    for labels in (True, False):
        read = read_volume(path, labels)
        np.testing.assert_array_equal(read.array, marks())
        assert read.geometry == Geometry.of(sitk.ReadImage(str(path)))


def test_slope_and_intercept_count_otherwise(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_volume(scaled(tmp_path / "i.nii", marks().T, 2, 7)).array, 2.0 * marks() + 7)


@pytest.mark.parametrize("slope", [1e-30, -1e-20, 1e-9])
def test_slopes_that_itk_takes_for_none(tmp_path: Path, slope: float) -> None:
    path = scaled(tmp_path / "i.nii", marks().T.astype(np.float32), slope, 0.0)
    np.testing.assert_allclose(read_volume(path).array, np.float64(np.float32(slope)) * marks(), rtol=1e-6)


@pytest.mark.parametrize("size", ["0 6 5", "7 6 0"])
def test_images_without_voxels(tmp_path: Path, size: str) -> None:
    path = tmp_path / "i.mha"
    path.write_text(
        f"ObjectType = Image\nNDims = 3\nDimSize = {size}\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    )
    for labels in (True, False):
        with pytest.raises(InputError, match=r"holds no voxels|cannot be read as an image"):
            read_volume(path, labels)


def test_an_intercept_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as NIfTI"):
        read_volume(scaled(tmp_path / "i.nii", marks().T, 1, np.nan))


# --- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "factor"), [("micron", 0.025), ("meter", 25000.0), ("mm", 25.0), ("unknown", 25.0)])
@pytest.mark.parametrize("shear", [0.0, 3e-3])
@pytest.mark.filterwarnings("ignore:.*straightened")
def test_units_count_whichever_reader_serves(tmp_path: Path, unit: str, factor: float, shear: float) -> None:
    affine = MICRONS.copy()
    affine[:3, :3] = affine[:3, :3] @ (np.eye(3) + shear * np.eye(3, k=1))
    read = read_volume(nifti(tmp_path / "a.nii.gz", marks().T, affine, unit=unit)).geometry
    np.testing.assert_allclose(read.spacing, [factor] * 3, rtol=1e-4)
    np.testing.assert_allclose(read.origin, np.array([250, 300, -350]) * factor / 25, rtol=1e-5)


def test_a_flat_warp_in_micrometres_lies_where_it_says(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((5, 6, 1, 1, 3), np.float32), MICRONS)
    image.header.set_intent("vector")
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "w.nii.gz")
    assert read_warp(tmp_path / "w.nii.gz")[1].spacing == pytest.approx((0.025, 0.025, 0.025))


@pytest.mark.parametrize(("microns", "quarrels"), [(0.5, 0), (50.0, 1)])
def test_forms_are_compared_in_millimetres_and_voxels(tmp_path: Path, microns: float, quarrels: int) -> None:
    moved = MICRONS.copy()
    moved[0, 3] += microns
    said = notes(nifti(tmp_path / "a.nii.gz", marks().T, MICRONS, moved, unit="micron"))
    assert len(said) == quarrels
    assert all("0.05 mm apart" in one for one in said)


# --- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.hdr", "a.img"])
def test_a_header_that_does_not_say_how_the_image_lies(tmp_path: Path, name: str, labels: bool) -> None:
    kind = nib.Nifti1Image if ".nii" in name else nib.Nifti1Pair
    bare = kind(marks().T, None)
    nib.save(bare, tmp_path / name)
    said = notes(tmp_path / name, labels)
    assert len(said) == 1
    assert str(tmp_path / name) in said[0]
    assert "does not say" in said[0]
    coded = kind(marks().T, np.eye(4))
    nib.save(coded, tmp_path / name)
    assert notes(tmp_path / name, labels) == []


def test_analyze_says_nothing_of_how_it_lies(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(marks().T, None), tmp_path / "a.img")
    said = notes(tmp_path / "a.img")
    assert len(said) == 1
    assert "Analyze headers do not say" in said[0]
