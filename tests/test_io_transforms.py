"""Warps on disk, judged by SimpleITK and ANTs on an oblique, anisotropic, opposite-handed pair with a large map."""

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from foldless.errors import InputError
from foldless.grid import Grid
from foldless.io import (
    Geometry,
    Volume,
    apply_warp,
    centred_lattice,
    displacement_mm,
    inverse_consistency_of_files,
    opening_lines,
    physical_jacobian,
    read_volume,
    read_warp,
    reoriented,
    resampled,
    sitk_transform,
    spanning_lattice,
    voxel_displacement,
    write_volume,
    write_warp,
)
from foldless.maps import Affine, Displacement, Identity, Map

OF_RANGE = 1e-3
"""Two linear interpolations of one image may differ by this share of its range: float32 files, float32 weights."""

FLOAT32 = 1e-4
"""Millimetres lost by a displacement of up to 100 mm in a float32 file, and by its header."""

STENCIL = 5e-3
"""Jacobian determinants by two neighbours an axis and by ANTs' four differ by this little on a smooth map."""

WARPS = ["w.nii.gz", "w.nii", "w.h5"]


@pytest.fixture(scope="module")
def ants() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ants

        return ants


def image(
    size: tuple[int, ...], spacing: tuple[float, ...], angles: tuple[float, ...], mirror: int | None
) -> sitk.Image:
    """A smooth image on an oblique lattice around (10, -20, 30) mm; `mirror` flips one axis' direction."""
    dim = len(size)
    rng = np.random.default_rng(sum(size))
    array = gaussian_filter(rng.normal(size=size[::-1]), 2).astype(np.float32)
    made = sitk.GetImageFromArray(array / np.abs(array).max())
    made.SetSpacing(spacing)
    turn = Rotation.from_euler("zyx", [*angles, 0, 0][:3]).as_matrix()[:dim, :dim]
    signs = [-1.0 if axis == mirror else 1.0 for axis in range(dim)]
    made.SetDirection((turn @ np.diag(signs)).ravel().tolist())
    middle = made.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size])
    made.SetOrigin([want - is_ for want, is_ in zip((10.0, -20.0, 30.0), middle, strict=False)])
    return made


def pair(dim: int) -> tuple[Volume, Volume]:
    """Moving and fixed; handedness, obliquity, size and spacing all differ."""
    if dim == 3:
        moving = image((26, 30, 22), (4.1, 3.3, 5.2), (0.3, -0.2, 0.15), mirror=1)
        fixed = image((24, 20, 28), (3.7, 5.0, 3.1), (-0.2, 0.1, 0.3), mirror=None)
    else:
        moving = image((40, 33), (2.0, 3.1), (0.3,), mirror=0)
        fixed = image((31, 36), (2.9, 2.2), (-0.25,), mirror=None)
    return Volume(moving, Path("moving")), Volume(fixed, Path("fixed"))


def bent(x: np.ndarray) -> np.ndarray:
    """The map of these tests, in numpy: (dim, *at) to (dim, *at), unit cube, array order; no two axes alike."""
    dim = len(x)
    waves = [0.06 * (a + 1) * np.sin(2 * x[(a + 1) % dim] + 3 * x[a] + a) for a in range(dim)]
    return np.stack([0.1 + 0.75 * x[a] + waves[a] for a in range(dim)])


class Bent(Identity):
    """`bent` as a map."""

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(bent(points[0].numpy()))[None]


def pulled_back(moving: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """moving ∘ bent on a lattice by unit-cube arithmetic alone, without any header; and where it lies well inside."""
    nodes = np.indices(shape) / (np.array(shape).reshape(-1, *[1] * len(shape)) - 1)
    index = bent(nodes) * (np.array(moving.shape).reshape(-1, *[1] * len(shape)) - 1)
    last = np.array(moving.shape).reshape(-1, *[1] * len(shape)) - 1
    inside = ((index > 0.01) & (index < last - 0.01)).all(0)
    return map_coordinates(moving, index, order=1), inside


def the_field(dim: int) -> tuple[np.ndarray, Volume, Volume]:
    moving, fixed = pair(dim)
    lattice = fixed.geometry
    return displacement_mm(Bent(dim), moving.geometry, lattice, lattice), moving, fixed


# --- from a map to a file --------------------------------------------------------------------------------------------


def test_the_map_of_these_tests_is_large() -> None:
    field, *_ = the_field(3)
    assert np.linalg.norm(field, axis=-1).max() > 50


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("dim", [2, 3])
def test_simpleitk_reproduces_the_warped_image(tmp_path: Path, dim: int, name: str) -> None:
    field, moving, fixed = the_field(dim)
    write_warp(field, fixed.geometry, tmp_path / name)
    if name.endswith(".h5"):
        transform = sitk.ReadTransform(str(tmp_path / name))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / name), sitk.sitkVectorFloat64))
    warped = sitk.GetArrayFromImage(sitk.Resample(moving.image, fixed.image, transform))
    expected, inside = pulled_back(moving.array, fixed.array.shape)
    assert inside.mean() > 0.5
    assert np.abs(warped - expected)[inside].max() < OF_RANGE * np.ptp(moving.array)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    ours = apply_warp(moving, tmp_path / name, fixed.geometry)
    assert ours.geometry == fixed.geometry
    assert np.abs(ours.array - expected)[inside].max() < OF_RANGE * np.ptp(moving.array)


@pytest.mark.parametrize("name", ["w.nii.gz", "w.h5"])
@pytest.mark.parametrize("dim", [2, 3])
def test_ants_reproduces_the_warped_image(tmp_path: Path, ants: ModuleType, dim: int, name: str) -> None:
    field, moving, fixed = the_field(dim)
    paths = {}
    for role, volume in (("moving", moving), ("fixed", fixed)):
        paths[role] = str(tmp_path / f"{role}.nrrd")
        sitk.WriteImage(volume.image, paths[role])
    write_warp(field, fixed.geometry, tmp_path / name)
    warped = ants.apply_transforms(
        ants.image_read(paths["fixed"]), ants.image_read(paths["moving"]), [str(tmp_path / name)], "linear"
    )
    expected, inside = pulled_back(moving.array, fixed.array.shape)
    assert np.abs(warped.numpy().T - expected)[inside].max() < OF_RANGE * np.ptp(moving.array)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_nifti_warp_is_of_the_kind_that_others_read(tmp_path: Path, dim: int) -> None:
    field, _, fixed = the_field(dim)
    write_warp(field, fixed.geometry, tmp_path / "w.nii.gz")
    file = nib.load(tmp_path / "w.nii.gz")
    size = fixed.geometry.size
    assert file.shape == ((*size, 1, 3) if dim == 3 else (*size, 1, 1, 2))
    assert int(file.header["intent_code"]) == 1007
    assert file.get_data_dtype() == np.float32
    np.testing.assert_allclose(np.asarray(file.dataobj).reshape(*size, dim), np.moveaxis(field.T, 0, -1), atol=FLOAT32)


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("dim", [2, 3])
def test_warps_come_back_as_they_went(tmp_path: Path, dim: int, name: str) -> None:
    field, _, fixed = the_field(dim)
    write_warp(field, fixed.geometry, tmp_path / name)
    back, lattice = read_warp(tmp_path / name)
    np.testing.assert_allclose(back, field, atol=FLOAT32)
    assert lattice.fits(fixed.geometry, 1e-5)


def test_the_field_agrees_with_itk_point_by_point() -> None:
    field, moving, fixed = the_field(3)
    transform = sitk_transform(field, fixed.geometry)
    for ijk in [(0, 0, 0), (3, 7, 11), (23, 19, 27)]:
        last = np.array(fixed.image.GetSize()) - 1
        there = bent((np.array(ijk) / last)[::-1, None])[::-1, 0] * (np.array(moving.image.GetSize()) - 1)
        judged = moving.image.TransformContinuousIndexToPhysicalPoint(there.tolist())
        p = fixed.image.TransformIndexToPhysicalPoint(ijk)
        np.testing.assert_allclose(transform.TransformPoint(p), judged, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_field_on_another_lattice_is_the_map_there(dtype: torch.dtype) -> None:
    """The network's lattices may differ from the images': padded, coarser, finer."""
    moving, fixed = (volume.geometry for volume in pair(3))
    network_moving, network_fixed = spanning_lattice(moving, (9, 10, 8)), spanning_lattice(fixed, (7, 8, 9))
    phi = Affine(torch.eye(3, dtype=dtype)[None] * 0.9, torch.full((1, 3), 0.07, dtype=dtype))
    direct, roundabout = (
        displacement_mm(phi, *lattices, fixed) for lattices in ((moving, fixed), (network_moving, network_fixed))
    )
    np.testing.assert_allclose(roundabout, direct, atol=FLOAT32)
    padded = displacement_mm(phi, moving, fixed, centred_lattice(fixed, (32, 24, 26)))
    np.testing.assert_allclose(padded[2:-2, 2:-2, 1:-1], direct, atol=FLOAT32)


def test_a_large_field_is_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, moving, fixed = the_field(3)
    monkeypatch.setattr("foldless.io.transforms.CHUNK", 1300)
    pieces = displacement_mm(Bent(3), moving.geometry, fixed.geometry, fixed.geometry)
    np.testing.assert_allclose(pieces, whole, atol=1e-9)


def test_batches_and_mixed_dimensions_are_refused() -> None:
    moving, fixed = (volume.geometry for volume in pair(3))
    with pytest.raises(ValueError, match="batch of 2"):
        displacement_mm(Displacement(torch.zeros(2, 3, 4, 4, 4)), moving, fixed, fixed)
    with pytest.raises(ValueError, match="one dimension"):
        displacement_mm(Identity(2), moving, fixed, fixed)


def test_labels_are_warped_by_the_nearest_voxel_with_zero_outside(tmp_path: Path) -> None:
    field, moving, fixed = the_field(3)
    write_warp(field + 1000, fixed.geometry, tmp_path / "away.nii.gz")
    write_warp(field, fixed.geometry, tmp_path / "w.nii.gz")
    labels = Volume(sitk.Cast(sitk.RescaleIntensity(moving.image, 3, 900), sitk.sitkInt32), Path("labels"))
    warped = apply_warp(labels, tmp_path / "w.nii.gz", fixed.geometry, labels=True)
    assert warped.holds_labels
    assert set(np.unique(warped.array)) <= {0, *np.unique(labels.array)}
    assert apply_warp(labels, tmp_path / "away.nii.gz", fixed.geometry, labels=True).array.max() == 0
    outside = apply_warp(moving, tmp_path / "away.nii.gz", fixed.geometry).array
    assert np.unique(outside) == moving.array.min()


# --- what fields say -------------------------------------------------------------------------------------------------


def test_the_jacobian_agrees_with_ants_and_not_with_itks_filter(tmp_path: Path, ants: ModuleType) -> None:
    fixed = pair(3)[1]  # twice, since ANTs turns the negative determinants of a mirrored pair into zero
    field = displacement_mm(Bent(3), fixed.geometry, fixed.geometry, fixed.geometry)
    sitk.WriteImage(fixed.image, str(tmp_path / "fixed.nrrd"))
    write_warp(field, fixed.geometry, tmp_path / "w.nii.gz")
    domain = ants.image_read(str(tmp_path / "fixed.nrrd"))
    judged = ants.create_jacobian_determinant_image(domain, str(tmp_path / "w.nii.gz"), do_log=False).numpy().T
    ours, inner = physical_jacobian(field, fixed.geometry), (slice(2, -2),) * 3
    np.testing.assert_allclose(ours[inner], judged[inner], atol=STENCIL)
    vectors = sitk.GetImageFromArray(field, isVector=True)
    vectors.CopyInformation(fixed.image)
    wrong = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(vectors))
    assert np.abs(ours - wrong)[inner].max() > 10 * STENCIL


@pytest.mark.parametrize("role", [0, 1], ids=["mirrored", "right-handed"])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_jacobian_of_a_linear_map_is_its_determinant_up_to_the_border(dim: int, role: int) -> None:
    geometry = pair(dim)[role].geometry
    linear = np.array([[0.8, 0.3, -0.1], [0.1, 1.3, 0.2], [-0.2, 0.0, 0.9]])[:dim, :dim]
    p = np.moveaxis(geometry.voxel_centres, 0, -1)
    field = p @ (linear - np.eye(dim)).T + 5
    np.testing.assert_allclose(physical_jacobian(field, geometry), np.linalg.det(linear), atol=1e-9)


def test_one_slice_has_a_jacobian() -> None:
    geometry = Geometry((5, 4, 1), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist()))
    field = np.moveaxis(geometry.voxel_centres, 0, -1) * 0.5
    np.testing.assert_allclose(physical_jacobian(field, geometry), 1.5**2)


@pytest.mark.parametrize("dim", [2, 3])
def test_voxel_displacements_are_differences_of_itks_indices(dim: int) -> None:
    field, _, fixed = the_field(dim)
    voxels = voxel_displacement(field, fixed.geometry)
    assert voxels.shape == (dim, *fixed.geometry.shape)
    at = (5, 9, 2)[:dim]
    p = np.array(fixed.image.TransformIndexToPhysicalPoint(at))
    there = fixed.image.TransformPhysicalPointToContinuousIndex((p + field[at[::-1]]).tolist())
    np.testing.assert_allclose(voxels[(slice(None), *at[::-1])][::-1], np.array(there) - at, atol=1e-9)


@pytest.mark.parametrize("dim", [2, 3])
def test_there_and_back_again_is_home_and_a_voxel_off_is_one_voxel(dim: int) -> None:
    moving, fixed = (volume.geometry for volume in pair(dim))
    phi = Affine(torch.eye(dim, dtype=torch.float64)[None] * 0.8, torch.full((1, dim), 0.1, dtype=torch.float64))
    forward = displacement_mm(phi, moving, fixed, fixed)
    inverse = displacement_mm(phi.inverse, fixed, moving, moving)
    error = inverse_consistency_of_files(forward, fixed, inverse, moving)
    assert error.shape == fixed.shape
    np.testing.assert_allclose(error, 0, atol=1e-9)
    one_along_y = fixed.matrix[:, 1]
    np.testing.assert_allclose(
        inverse_consistency_of_files(forward, fixed, inverse + one_along_y, moving), 1, atol=1e-9
    )


def test_outside_its_lattice_the_inverse_continues_its_border() -> None:
    geometry = pair(2)[1].geometry
    shift = np.broadcast_to(geometry.matrix @ [100.0, 0.0], (*geometry.shape, 2)).copy()
    np.testing.assert_allclose(inverse_consistency_of_files(shift, geometry, -shift, geometry), 0, atol=1e-9)


# --- refusals --------------------------------------------------------------------------------------------------------


def plain(path: Path, shape: tuple[int, ...], intent: int) -> Path:
    file = nib.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), np.eye(4))
    file.header.set_intent(intent, allow_unknown=True)
    nib.save(file, path)
    return path


def transform(path: Path, *parts: sitk.Transform) -> Path:
    sitk.WriteTransform(sitk.CompositeTransform(list(parts)), str(path))
    return path


def text(path: Path) -> Path:
    path.write_text("hello")
    return path


def not_finite(path: Path) -> Path:
    file = sitk.GetImageFromArray(np.full((4, 4, 4, 3), np.nan), isVector=True)
    return transform(path, sitk.DisplacementFieldTransform(file))


def patched(path: Path, at: int, value: float, packed: bool = False, dtype: type = np.float32) -> Path:
    """A warp with some bytes of its file changed."""
    warp = plain(path.with_name("sound.nii"), (5, 6, 7, 1, 3), 1007).read_bytes()
    changed = bytearray(warp)
    changed[at : at + 4] = dtype(value).tobytes()
    path.write_bytes(gzip.compress(changed) if packed else changed)
    return path


def cut(path: Path, packed: bool = False, torn: bool = False) -> Path:
    """A warp that stops early: its voxels, or the stream that they are packed in."""
    whole = plain(path.with_name("sound.nii"), (5, 6, 7, 1, 3), 1007).read_bytes()
    part = whole[: 2 * len(whole) // 3]
    path.write_bytes((gzip.compress(whole)[:-400] if torn else gzip.compress(part)) if packed else part)
    return path


BAD_WARPS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "no.nii.gz", "does not exist"),
    "folder": (lambda d: d, "is a folder"),
    "text": (lambda d: text(d / "w.nii.gz"), "cannot be read"),
    "text h5": (lambda d: text(d / "w.h5"), "cannot be read as an ITK transform"),
    "another format": (lambda d: text(d / "w.mha"), r"expected a displacement field .* or \.h5"),
    "intent 0": (lambda d: plain(d / "w.nii.gz", (5, 6, 7, 1, 3), 0), "intent 0"),
    "four axes": (lambda d: plain(d / "w.nii.gz", (5, 6, 7, 3), 1007), r"shape \(5, 6, 7, 3\)"),
    "FSL": (lambda d: plain(d / "w.nii.gz", (5, 6, 7, 3), 2006), "FSL"),
    "an image": (lambda d: plain(d / "w.nii.gz", (5, 6, 7), 0), r"shape \(5, 6, 7\)"),
    "two components in 3-D": (lambda d: plain(d / "w.nii.gz", (5, 6, 7, 1, 2), 1007), "shape"),
    "affine": (lambda d: transform(d / "w.h5", sitk.AffineTransform(3)), "AffineTransform"),
    "two parts": (lambda d: transform(d / "w.h5", sitk.AffineTransform(3), sitk.Euler3DTransform()), "Euler3D"),
    "not finite": (lambda d: not_finite(d / "w.h5"), "not finite"),
    "not finite, NIfTI": (lambda d: patched(d / "w.nii", 1000, np.nan), "1 voxels that are NaN"),
    "infinite, packed": (lambda d: patched(d / "w.nii.gz", 1000, np.inf, packed=True), "1 voxels that are NaN"),
    "cut": (lambda d: cut(d / "w.nii"), "before its last voxel"),
    "cut and packed": (lambda d: cut(d / "w.nii.gz", packed=True), "before its last voxel"),
    "packed and torn": (lambda d: cut(d / "w.nii.gz", packed=True, torn=True), "before its last voxel"),
    "a slope": (lambda d: patched(d / "w.nii", 112, 2), "scaled by a slope"),
    "an intercept without a slope": (lambda d: patched(d / "w.nii", 116, 5), "scaled by a slope"),
    "voxels within the header": (lambda d: patched(d / "w.nii", 108, 0), "vox_offset"),
}


@pytest.mark.parametrize("name", BAD_WARPS)
def test_bad_warps_get_their_own_sentence(tmp_path: Path, name: str) -> None:
    make, phrase = BAD_WARPS[name]
    path = make(tmp_path)
    with pytest.raises(InputError, match=phrase) as caught:
        read_warp(path)
    assert str(path) in str(caught.value)


def test_a_ras_warp_of_intent_1006_is_turned_to_lps(tmp_path: Path) -> None:
    field, _, fixed = the_field(3)
    write_warp(field, fixed.geometry, tmp_path / "lps.nii.gz")
    lps = nib.load(tmp_path / "lps.nii.gz")
    ras = nib.Nifti1Image(np.asarray(lps.dataobj) * np.array([-1, -1, 1], np.float32), lps.affine, lps.header)
    ras.header.set_intent(1006)
    nib.save(ras, tmp_path / "ras.nii.gz")
    np.testing.assert_allclose(read_warp(tmp_path / "ras.nii.gz")[0], field, atol=FLOAT32)


@pytest.mark.parametrize(
    ("name", "phrase"), [("w.mha", r"\.nii\.gz or as \.h5"), ("no/w.h5", "folder .* does not exist")]
)
def test_bad_names_for_warps(tmp_path: Path, name: str, phrase: str) -> None:
    field, _, fixed = the_field(2)
    with pytest.raises(InputError, match=phrase):
        write_warp(field, fixed.geometry, tmp_path / name)


def test_bad_fields_are_not_written(tmp_path: Path) -> None:
    field, _, fixed = the_field(2)
    with pytest.raises(ValueError, match="displacement on this lattice"):
        write_warp(field[1:], fixed.geometry, tmp_path / "w.nii.gz")
    with pytest.raises(ValueError, match="not finite"):
        write_warp(field * np.nan, fixed.geometry, tmp_path / "w.nii.gz")


def test_a_warp_of_another_dimension_is_not_applied(tmp_path: Path) -> None:
    field, _, fixed = the_field(2)
    write_warp(field, fixed.geometry, tmp_path / "w.nii.gz")
    moving = pair(3)[0]
    with pytest.raises(InputError, match="2-D warp"):
        apply_warp(moving, tmp_path / "w.nii.gz", moving.geometry)


# --- opening elsewhere -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my w.nii.gz", "my w.h5"])
def test_the_lines_for_simpleitk_run(tmp_path: Path, name: str) -> None:
    field, moving, fixed = the_field(3)
    for role, volume in (("m", moving), ("f", fixed)):
        write_volume(volume.array, volume.geometry, tmp_path / f"{role}.nii.gz")
    write_warp(field, fixed.geometry, tmp_path / name)
    lines = opening_lines(tmp_path / "m.nii.gz", tmp_path / "f.nii.gz", tmp_path / name)
    run: dict[str, sitk.Image] = {}
    exec("\n".join(lines[:4]), run)
    expected, inside = pulled_back(moving.array, fixed.array.shape)
    assert np.abs(sitk.GetArrayFromImage(run["warped"]) - expected)[inside].max() < OF_RANGE * np.ptp(moving.array)
    assert lines[4].startswith("antsApplyTransforms -d 3 -i ")
    assert lines[5].startswith("itksnap -g ")


# --- a real pair -----------------------------------------------------------------------------------------------------


def wobble(shape: tuple[int, ...]) -> Map:
    """A smooth displacement of several voxels on a network's lattice."""
    coarse = torch.randn(1, len(shape), 4, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.04
    x = Grid(shape).points()
    return Displacement(Displacement(coarse)(x) - x)


def test_native_brains_are_warped_by_the_headers_as_by_the_network(real_data: Path, tmp_path: Path) -> None:
    """Brains stored LAS go through reorientation and padding to a network; SimpleITK warps the files themselves."""
    folder = real_data / "brains" / "native2mm"
    native, fixed = read_volume(folder / "1000_t1.nii.gz"), reoriented(read_volume(folder / "1001_t1.nii.gz"))
    moving, shape = reoriented(native), (88, 112, 88)
    lattice_m, lattice_f = (centred_lattice(volume.geometry, shape) for volume in (moving, fixed))
    phi = wobble(shape)
    seen = resampled(moving, lattice_m).array
    index = phi.on(Grid(shape))[0].numpy() * (np.array(shape).reshape(3, 1, 1, 1) - 1)
    expected = map_coordinates(seen, index, order=1, mode="nearest")
    write_warp(displacement_mm(phi, lattice_m, lattice_f, lattice_f), lattice_f, tmp_path / "w.nii.gz")
    warped = apply_warp(native, tmp_path / "w.nii.gz", lattice_f).array
    assert np.abs(warped - expected)[2:-2, 2:-2, 2:-2].max() < OF_RANGE * np.ptp(seen)
    assert np.corrcoef(warped.ravel(), expected.ravel())[0, 1] > 0.9999


def test_a_3d_warp_of_one_slice_keeps_its_place(tmp_path: Path) -> None:
    turned = (1.0, 0.0, 0.0, 0.0, 0.8, -0.6, 0.0, 0.6, 0.8)
    geometry = Geometry((7, 6, 1), (1.0, 1.1, 4.0), (1.0, 2.0, 3.0), turned)
    field = np.random.default_rng(0).normal(size=(1, 6, 7, 3)).astype(np.float32)
    write_warp(field, geometry, tmp_path / "w.nii.gz")
    found, lattice = read_warp(tmp_path / "w.nii.gz")
    np.testing.assert_array_equal(found, field)
    assert lattice.fits(geometry)
