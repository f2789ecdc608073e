"""Reading, turning, resampling and writing images; SimpleITK, nibabel and a byte editor are the judges."""

import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from foldless.errors import InputError
from foldless.io import (
    Geometry,
    Volume,
    centred_lattice,
    check_overlap,
    describe_mismatch,
    like,
    on_lattice_of,
    read_volume,
    reoriented,
    resampled,
    write_volume,
)

HEADER = 1e-5
"""NIfTI keeps its header in float32: millimetres lost over a head."""


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """A file with an sform only, as resampling tools write them."""
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    image.set_qform(None, 0)
    image.set_sform(image.affine, 1)
    nib.save(image, path)
    return path


def turned(seed: int, size: tuple[int, ...] = (7, 6, 5)) -> sitk.Image:
    """An image in any orientation at all, mirrored ones too."""
    dim = len(size)
    image = sitk.GetImageFromArray(noise(*size[::-1]))
    rng = np.random.default_rng(seed)
    direction = Rotation.random(random_state=seed).as_matrix() if dim == 3 else np.linalg.qr(rng.normal(size=(2, 2)))[0]
    image.SetDirection((direction * rng.choice([-1, 1])).ravel().tolist())
    image.SetSpacing((0.9, 2.1, 3.7)[:dim])
    image.SetOrigin((5.0, -40.0, 11.0)[:dim])
    return image


def volume(image: sitk.Image) -> Volume:
    return Volume(image, Path("made up"))


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_every_format_gives_the_same_array_and_place(tmp_path: Path, name: str) -> None:
    image = turned(3)
    sitk.WriteImage(image, str(tmp_path / name))
    read = read_volume(tmp_path / name)
    assert read.dim == 3
    assert read.array.dtype == np.float32
    np.testing.assert_array_equal(read.array, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(read.geometry.corners, Geometry.of(image).corners, atol=1e-4)


def test_labels_are_int32_and_may_be_stored_as_floats(tmp_path: Path) -> None:
    labels = np.arange(60).reshape(3, 4, 5)
    read = read_volume(nifti(tmp_path / "l.nii.gz", labels.T.astype(np.float64)), labels=True)
    assert read.array.dtype == np.int32
    np.testing.assert_array_equal(read.array, labels)
    assert read.holds_labels


def test_colour_becomes_luminance_and_alpha_is_ignored(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (6, 7, 4)).astype(np.uint8)
    for bands in (3, 4):
        sitk.WriteImage(sitk.GetImageFromArray(picture[..., :bands], isVector=True), str(tmp_path / "c.png"))
        read = read_volume(tmp_path / "c.png")
        assert read.dim == 2
        np.testing.assert_allclose(read.array, picture[..., :3] @ [0.299, 0.587, 0.114], atol=1e-3)


def test_one_slice_stays_3d_and_one_time_point_is_dropped(tmp_path: Path) -> None:
    assert read_volume(nifti(tmp_path / "s.nii.gz", noise(5, 6, 1))).array.shape == (1, 6, 5)
    assert read_volume(nifti(tmp_path / "t.nii.gz", noise(5, 6, 7, 1))).array.shape == (7, 6, 5)
    four = sitk.JoinSeries([sitk.GetImageFromArray(noise(5, 6, 7))])
    sitk.WriteImage(four, str(tmp_path / "t.nrrd"))
    assert read_volume(tmp_path / "t.nrrd").array.shape == (5, 6, 7)


def stop_early(path: Path) -> Path:
    nifti(path, noise(30, 30, 30))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def with_value(path: Path, value: float) -> Path:
    array = noise(5, 6, 7)
    array[1, 2, 3] = value
    return nifti(path, array)


def sheared(path: Path, off: float) -> Path:
    cosines = Rotation.from_euler("zyx", [0.3, 0.2, -0.4]).as_matrix() @ (np.eye(3) + off * np.eye(3, k=1))
    affine = np.block([[cosines * [2.0, 3.0, 4.0], np.array([[10.0], [-20.0], [30.0]])], [np.zeros((1, 3)), 1]])
    return nifti(path, noise(5, 6, 7), affine)


def written(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def tilted(path: Path) -> Path:
    image = turned(0)
    image.SetDirection((1, 0.2, 0, 0, 1, 0, 0, 0, 1))
    return written(image, path)


def text(path: Path) -> Path:
    path.write_text("hello")
    return path


BAD_IMAGES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "no.nii.gz", "does not exist"),
    "folder": (lambda d: d, "is a folder"),
    "text": (lambda d: text(d / "a.nii.gz"), "cannot be read as an image"),
    "empty picture": (lambda d: text(d / "a.png"), "cannot be read as an image"),
    "stops early": (lambda d: stop_early(d / "a.nii.gz"), "stops before its last voxel"),
    "stops early, unpacked": (lambda d: stop_early(d / "a.nii"), "cannot be read|stops before its last voxel"),
    "three volumes": (lambda d: nifti(d / "a.nii.gz", noise(5, 6, 7, 3)), "holds 3 volumes of 5 × 6 × 7 .* pick one"),
    "five axes": (lambda d: nifti(d / "a.nii.gz", noise(5, 6, 7, 2, 3)), "5 axes"),
    "vectors": (
        lambda d: written(sitk.GetImageFromArray(noise(4, 5, 6, 3), isVector=True), d / "a.nii.gz"),
        "3 numbers a voxel.* displacement field",
    ),
    "complex": (lambda d: nifti(d / "a.nii.gz", noise(4, 5, 6).astype(np.complex64)), "complex"),
    "nan": (lambda d: with_value(d / "a.nii.gz", np.nan), "1 voxels that are NaN"),
    "infinity": (lambda d: with_value(d / "a.nii.gz", -np.inf), "1 voxels that are NaN"),
    "beyond float32": (lambda d: nifti(d / "a.nii.gz", noise(4, 5, 6).astype(np.float64) * 1e300), "beyond float32"),
    "constant in float32": (
        lambda d: nifti(d / "a.nii.gz", 1e9 + np.random.default_rng(0).normal(size=(4, 5, 6))),
        r"the value 1e\+09 in every voxel, in float32",
    ),
    "constant": (lambda d: nifti(d / "a.nii.gz", np.full((4, 5, 6), 3.0)), "the value 3 in every voxel"),
    "sheared": (lambda d: sheared(d / "a.nii.gz", 0.1), "right angles"),
    "sheared mha": (lambda d: tilted(d / "a.mha"), "right angles"),
    "sheared nrrd": (lambda d: tilted(d / "a.nrrd"), "right angles"),
}

BAD_LABELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "no.nii.gz", "check the name of the label file"),
    "halves": (lambda d: nifti(d / "a.nii.gz", np.full((4, 5, 6), 1.5)), "not whole numbers, such as 1.5"),
    "nan": (lambda d: nifti(d / "a.nii.gz", np.full((4, 5, 6), np.nan)), "NaN"),
    "too large": (lambda d: nifti(d / "a.nii.gz", np.full((4, 5, 6), 2.0**40)), "fit in 32 bits"),
    "colours": (
        lambda d: written(sitk.GetImageFromArray(np.ones((5, 6, 3), np.uint8), isVector=True), d / "a.png"),
        "not as colours",
    ),
}


@pytest.mark.parametrize(("name", "labels"), [*((n, False) for n in BAD_IMAGES), *((n, True) for n in BAD_LABELS)])
def test_bad_input_gets_its_own_sentence(tmp_path: Path, name: str, labels: bool) -> None:
    make, phrase = (BAD_LABELS if labels else BAD_IMAGES)[name]
    path = make(tmp_path)
    with pytest.raises(InputError, match=phrase) as caught:
        read_volume(path, labels=labels)
    assert str(path) in str(caught.value)


def test_constant_labels_are_welcome(tmp_path: Path) -> None:
    assert read_volume(nifti(tmp_path / "a.nii.gz", np.zeros((4, 5, 6))), labels=True).array.max() == 0


@pytest.mark.parametrize("off", [3e-4, 9e-3])
def test_directions_that_itk_refuses_are_straightened_with_a_warning(tmp_path: Path, off: float) -> None:
    path = sheared(tmp_path / "a.nii.gz", off)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(path))
    with pytest.warns(UserWarning, match="straightened"):
        read = read_volume(path)
    cosines = read.geometry.cosines
    np.testing.assert_allclose(cosines @ cosines.T, np.eye(3), atol=1e-12)
    file = nib.load(path)
    np.testing.assert_array_equal(read.array, np.asarray(file.dataobj).T)
    corner = (file.affine @ [4, 5, 6, 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(read.geometry.corners[-1], corner, atol=25 * off)  # over 29 mm


@pytest.mark.parametrize(("code", "taken"), [(1, "sform"), (2, "qform")])
def test_a_quarrel_of_sform_and_qform_is_reported(tmp_path: Path, code: int, taken: str) -> None:
    for off in (5.0, 0.05):
        image = nib.Nifti1Image(noise(5, 6, 7), np.eye(4))
        image.set_qform(np.eye(4), 1)
        moved = np.eye(4)
        moved[0, 3] = off
        image.set_sform(moved, code)
        nib.save(image, tmp_path / "a.nii.gz")
        itk = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
        assert itk.GetOrigin()[0] == pytest.approx(-off if taken == "sform" else 0)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            read_volume(tmp_path / "a.nii.gz")
        assert [str(w.message) for w in said if f"takes the {taken}" in str(w.message)] == (
            [str(said[0].message)] if off == 5.0 else []
        )


# --- orientation and lattices ----------------------------------------------------------------------------------------


def values_at_places(image: sitk.Image) -> np.ndarray:
    """Every voxel as a row: its place, then its value; in the order of the (unique) values."""
    centres = Geometry.of(image).voxel_centres.reshape(image.GetDimension(), -1)
    rows = np.vstack([centres, sitk.GetArrayFromImage(image).ravel()[None]]).T
    return rows[np.argsort(rows[:, -1])]


@pytest.mark.parametrize("size", [(7, 6, 5), (7, 6)], ids=["3-D", "2-D"])
@pytest.mark.parametrize("seed", range(12))
def test_reorienting_moves_no_voxel(seed: int, size: tuple[int, ...]) -> None:
    image = turned(seed, size)
    straight = reoriented(volume(image))
    np.testing.assert_allclose(values_at_places(straight.image), values_at_places(image), atol=1e-9)
    cosines = straight.geometry.cosines
    assert np.linalg.det(cosines) == pytest.approx(1)
    assert (np.diag(cosines) > 0).all()
    if len(size) == 2:
        assert np.diag(cosines).min() >= 0.5**0.5 - 1e-9


@pytest.mark.parametrize("code", ["LAS", "LIA", "RAS", "PIR", "ASL", "LPS"])
def test_reorienting_agrees_with_dicom_orient(code: str) -> None:
    image = sitk.DICOMOrient(sitk.GetImageFromArray(noise(5, 6, 7)), code)
    image.SetSpacing((1.0, 2.0, 3.0))
    judged = sitk.DICOMOrient(image, "LPS")
    straight = reoriented(volume(image))
    np.testing.assert_array_equal(straight.array, sitk.GetArrayFromImage(judged))
    assert straight.geometry.fits(Geometry.of(judged), 1e-9)


@pytest.mark.parametrize("code", ["LAS", "LIA", "RAS", "PIR", "ASL", "LPS"])
@pytest.mark.parametrize("seed", range(3))
def test_labels_in_another_order_of_voxels_come_to_their_image(seed: int, code: str) -> None:
    image = turned(seed)
    image.SetDirection(Rotation.from_euler("zyx", [0.3, 0.2, -0.4]).as_matrix().ravel().tolist())
    marks = like(np.arange(210).reshape(5, 6, 7) + 1, volume(image))
    other = Volume(sitk.DICOMOrient(marks.image, code), Path("labels"))
    there = on_lattice_of(volume(image), other)
    assert there.geometry.fits(Geometry.of(image), 1e-9)
    np.testing.assert_array_equal(there.array, marks.array)
    np.testing.assert_array_equal(on_lattice_of(volume(other.image), marks).array, other.array)


def test_labels_of_another_lattice_are_refused_in_any_order() -> None:
    image = turned(1)
    marks = like(np.ones((5, 6, 7), int), volume(image))
    moved = sitk.Image(sitk.DICOMOrient(marks.image, "RAS"))
    moved.SetOrigin((np.array(moved.GetOrigin()) + 3).tolist())
    for other in (moved, marks.image[1:], sitk.Image(5, 6, sitk.sitkInt32)):
        with pytest.raises(InputError, match=r"its labels made up .* do not lie on the lattice of made up"):
            on_lattice_of(volume(image), volume(other), "its labels")


def test_a_header_of_no_patient_cannot_be_reoriented() -> None:
    image = turned(0)
    image.SetDirection((1, 0.9, 0.9, 0.9, 1, -0.9, 0.9, -0.9, 1))
    with pytest.raises(InputError, match="right-handed"):
        reoriented(volume(image))


def test_resampling_on_shared_nodes_pads_and_crops_exactly() -> None:
    image = turned(5)
    array = sitk.GetArrayFromImage(image)
    there = resampled(volume(image), centred_lattice(Geometry.of(image), (9, 4, 8)))
    expected = np.pad(array[:, 1:5], ((2, 2), (0, 0), (0, 1)), constant_values=array.min())
    np.testing.assert_allclose(there.array, expected, atol=1e-5)


def test_resampling_labels_takes_the_nearest_and_zero_outside() -> None:
    labels = sitk.Cast(sitk.GetImageFromArray(np.arange(27).reshape(3, 3, 3) + 5), sitk.sitkInt32)
    lattice = Geometry((5, 3, 3), (1.0, 1.0, 1.0), (-1.3, 0.2, 0.2), tuple(np.eye(3).ravel().tolist()))
    there = resampled(volume(labels), lattice, order=0)
    assert there.holds_labels
    np.testing.assert_array_equal(there.array[0, 0], [0, 5, 6, 7, 0])
    with pytest.raises(ValueError, match="order"):
        resampled(volume(labels), lattice)


def test_images_apart_are_described_and_refused() -> None:
    here, there = (sitk.Image([10, 10, 10], sitk.sitkFloat32) for _ in range(2))
    there.SetOrigin((0, 212, 0))
    sentence = describe_mismatch(Geometry.of(here), Geometry.of(there))
    assert sentence == "the image centres are 212 mm apart and the images do not overlap in world space"
    with pytest.raises(InputError, match="212 mm apart"):
        check_overlap(volume(here), volume(there))
    there.SetOrigin((9, 0, 0))
    assert "overlap by only" in str(describe_mismatch(Geometry.of(here), Geometry.of(there)))
    assert "2-D" in str(describe_mismatch(Geometry.of(here), Geometry.of(turned(0, (4, 4)))))


def test_a_crop_inside_a_head_overlaps() -> None:
    head, crop = sitk.Image([100, 100, 100], sitk.sitkUInt8), sitk.Image([5, 5, 5], sitk.sitkUInt8)
    crop.SetOrigin((80, 80, 80))
    assert describe_mismatch(Geometry.of(crop), Geometry.of(head)) is None
    assert describe_mismatch(Geometry.of(head), Geometry.of(crop)) is None


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 6, 5), (7, 6)], ids=["3-D", "2-D"])
@pytest.mark.parametrize("name", ["a.nii.gz", "sub.01.nii", "a.nrrd", "a.mha"])
def test_written_volumes_are_read_back_by_simpleitk(tmp_path: Path, name: str, size: tuple[int, ...]) -> None:
    image = turned(4 if len(size) == 3 else 1, size)
    if len(size) == 2:
        image.SetDirection((0.8, -0.6, 0.6, 0.8))
    geometry = Geometry.of(image)
    array = sitk.GetArrayFromImage(image)
    write_volume(array, geometry, tmp_path / name)
    back = sitk.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), array)
    np.testing.assert_allclose(Geometry.of(back).corners, geometry.corners, atol=HEADER)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_what_is_stored_can_be_chosen(tmp_path: Path) -> None:
    geometry = Geometry.of(turned(0, (3, 2)))
    write_volume(np.array([[0.6, 1.4, 2.5], [3.0, 4.0, 254.7]]), geometry, tmp_path / "a.png", np.uint8)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.png")))[1], [3, 4, 255])
    write_volume(np.ones((2, 3), dtype=bool), geometry, tmp_path / "mask.nrrd")
    assert sitk.ReadImage(str(tmp_path / "mask.nrrd")).GetPixelID() == sitk.sitkUInt8


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    geometry, old = Geometry.of(turned(0)), tmp_path / "a.png"
    old.write_text("old")
    with pytest.raises(InputError, match="cannot be written"):
        write_volume(noise(5, 6, 7), geometry, old)
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize(
    ("name", "phrase"),
    [("no/a.nii.gz", "folder .* does not exist"), ("a.xyz", "cannot be written"), ("a.mhd", "two files")],
)
def test_bad_output_names(tmp_path: Path, name: str, phrase: str) -> None:
    with pytest.raises(InputError, match=phrase):
        write_volume(noise(5, 6, 7), Geometry.of(turned(0)), tmp_path / name)


def test_arrays_and_lattices_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not lie on"):
        write_volume(noise(7, 6, 5), Geometry.of(turned(0)), tmp_path / "a.nii.gz")


def test_like_keeps_the_place_and_tells_labels_from_images() -> None:
    original = volume(turned(0))
    assert like(np.ones((5, 6, 7)), original).array.dtype == np.float32
    assert like(np.ones((5, 6, 7), dtype=np.uint8), original).holds_labels
    assert like(np.ones((5, 6, 7)), original).geometry == original.geometry


# --- real images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["brains/native2mm/1000_seg.nii.gz", "brains_fullsize/s1_seg.nii.gz"])
def test_real_brains_are_brought_to_lps(real_data: Path, name: str) -> None:
    brain = read_volume(real_data / name, labels=True)
    judged = sitk.DICOMOrient(brain.image, "LPS")
    assert np.linalg.det(brain.geometry.cosines) * np.prod(np.diag(brain.geometry.cosines)) <= 1  # not LPS as stored
    assert not np.allclose(brain.geometry.cosines, np.eye(3))
    straight = reoriented(brain)
    np.testing.assert_allclose(straight.geometry.cosines, np.eye(3), atol=1e-6)
    np.testing.assert_array_equal(straight.array, sitk.GetArrayFromImage(judged))


def test_a_brain_that_lost_its_origin_lies_apart(real_data: Path) -> None:
    lost, kept = (
        read_volume(real_data / "brains" / folder / "1000_t1.nii.gz") for folder in ("native1mm", "native2mm")
    )
    assert "261 mm apart and the images do not overlap" in str(describe_mismatch(lost.geometry, kept.geometry))


def test_a_real_colour_picture(real_data: Path) -> None:
    picture = read_volume(next((real_data / "histology").rglob("*.jpg")))
    assert picture.dim == 2
    assert 0 <= picture.array.min() < picture.array.max() <= 255
