"""OME-Zarr images, carried chunk by chunk; skipped where the package zarr is not installed."""

import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from foldless.io import Geometry, read_geometry, read_source, write_warp
from foldless.io import zarrs as module

SHAPE, SPACING, ORIGIN = (20, 14, 18), (0.5, 0.75, 1.0), (4.0, -3.0, 2.0)
LATTICE = Geometry(SHAPE[::-1], SPACING, ORIGIN, tuple(np.eye(3).ravel().tolist()))


@pytest.fixture
def zarr():
    return pytest.importorskip("zarr")


def described(names, version, units="micrometer", factor=1000.0, **more):
    """What ngff-zarr 0.50 writes, units other than mm."""
    extra = [1.0] * (len(names) - 3)
    places = [
        {"type": "scale", "scale": [*extra, *(s * factor for s in SPACING[::-1])]},
        {"type": "translation", "translation": [*[0.0] * len(extra), *(o * factor for o in ORIGIN[::-1])]},
    ]
    kinds = {"t": {"type": "time"}, "c": {"type": "channel"}}
    axes = [{"name": n, **kinds.get(n, {"type": "space", "unit": units, **more})} for n in names]
    said = [{"axes": axes, "datasets": [{"path": "s/image", "coordinateTransformations": places}]}]
    return {"multiscales": said} if version == 2 else {"ome": {"version": "0.5", "multiscales": said}}


def saved(zarr, path, array, names="zyx", version=2, **said):
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    group.create_array("s/image", data=array, chunks=(1,) * (array.ndim - 3) + (8, 7, 6))
    group.attrs.update(described(names, version, **said))
    return path


def voxels(*before, dtype=np.int16):
    return np.random.default_rng(0).integers(-200, 900, (*before, *SHAPE)).astype(dtype)


def image_of(array, path):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def warp(tmp_path):
    wave = 0.8 * np.sin(np.indices(SHAPE)[0] / 3)
    write_warp(np.stack([wave, 0.5 * wave, -wave], -1).astype(np.float32), LATTICE, tmp_path / "w.nii.gz")
    return tmp_path / "w.nii.gz"


def apply(foldless, warp, image, output, *more, reference=None):
    return foldless("apply", warp, image, "--reference", reference or image, "--output", output, *more)


@pytest.mark.parametrize("version", [2, 3])
def test_apply_takes_and_writes_what_it_would_of_a_volume(foldless, zarr, tmp_path, warp, version, monkeypatch):
    array = voxels()
    monkeypatch.setattr("foldless.io.pulling.SLAB", 600)
    monkeypatch.setattr(module, "CHUNK", (8, 8, 8))
    saved(zarr, tmp_path / "a.ome.zarr", array, version=version)
    image_of(array, tmp_path / "a.nii.gz")
    assert read_geometry(tmp_path / "a.ome.zarr").fits(LATTICE)
    assert apply(foldless, warp, tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")[0] == 0
    code, _, complained = apply(foldless, warp, tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr")
    assert (code, complained) == (0, "")
    found, expected = read_source(tmp_path / "b.ome.zarr"), sitk.ReadImage(str(tmp_path / "b.nii.gz"))
    whole = np.concatenate([piece.ravel() for piece in found.voxels[0].pieces()])
    assert whole.dtype == np.int16
    assert sorted(whole) == sorted(sitk.GetArrayFromImage(expected).ravel())
    assert np.array_equal(found.voxels[0][:], sitk.GetArrayFromImage(expected))
    assert found.geometry.fits(LATTICE)
    assert found.voxels[0].array.chunks == (8, 8, 8)
    code, _, said = apply(foldless, warp, tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr")
    assert (code, "exists" in said) == (2, True)
    assert apply(foldless, warp, tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr", "--overwrite")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.nii.gz",
        "a.ome.zarr",
        "b.nii.gz",
        "b.ome.zarr",
        warp.name,
    ]


@pytest.mark.parametrize("name", ["c", "t"])
def test_channels_and_times_are_carried_one_by_one(foldless, zarr, tmp_path, warp, name):
    array = voxels(3, dtype=np.float32)
    saved(zarr, tmp_path / "a.zarr", array, f"{name}zyx")
    assert apply(foldless, warp, tmp_path / "a.zarr", tmp_path / "b.zarr")[0] == 0
    for k in range(3):
        image_of(array[k], tmp_path / "one.nii.gz")
        assert apply(foldless, warp, tmp_path / "one.nii.gz", tmp_path / "two.nii.gz", "--fill", array.min())[0] == 0
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "two.nii.gz")))
        assert np.array_equal(read_source(tmp_path / "b.zarr").voxels[k][:], expected)
        for file in ("one.nii.gz", "two.nii.gz"):
            (tmp_path / file).unlink()
    assert zarr.open_group(str(tmp_path / "b.zarr"), mode="r").attrs["multiscales"][0]["axes"][0]["name"] == name


def oblique(path):
    image = sitk.Image([4, 4, 4], sitk.sitkInt16)
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))
    return path


def test_what_cannot_be_carried_is_one_sentence(foldless, zarr, tmp_path, warp):
    good = saved(zarr, tmp_path / "good.zarr", voxels())
    cases = {
        "no.zarr": (tmp_path / "no.zarr", good, "does not exist"),
        "axes": (saved(zarr, tmp_path / "axes.zarr", voxels(), "xyz"), good, "has the axes xyz"),
        "unit": (saved(zarr, tmp_path / "unit.zarr", voxels(), units="parsec"), good, "cannot be read as an OME-Zarr"),
        "flipped": (
            saved(zarr, tmp_path / "flipped.zarr", voxels(), orientation={"value": "left-to-right"}),
            good,
            "elsewhere than left",
        ),
        "both": (
            saved(zarr, tmp_path / "both.zarr", voxels(2, 2), "tczyx"),
            good,
            "several channels and several times",
        ),
        "oblique": (good, oblique(tmp_path / "oblique.nii.gz"), "knows no directions"),
    }
    (tmp_path / "empty.zarr").mkdir()
    cases["empty"] = (tmp_path / "empty.zarr", good, "cannot be read as an OME-Zarr")
    before = sorted(tmp_path.rglob("*"))
    for image, reference, says in cases.values():
        code, _, complained = apply(foldless, warp, image, tmp_path / "out.zarr", reference=reference)
        assert code == 2
        assert says in complained
        assert complained.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_chunk_leaves_nothing(foldless, zarr, tmp_path, warp):
    saved(zarr, tmp_path / "a.zarr", voxels())
    chunk = next(path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file() and path.name[0] not in ".z")
    chunk.write_bytes(b"hello")
    code, _, complained = apply(foldless, warp, tmp_path / "a.zarr", tmp_path / "out.zarr")
    assert code == 2
    assert "a chunk is damaged" in complained
    assert not (tmp_path / "out.zarr").exists()


def test_without_zarr_it_says_what_to_install(foldless, tmp_path, warp, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    (tmp_path / "a.zarr").mkdir()
    code, _, complained = apply(foldless, warp, tmp_path / "a.zarr", tmp_path / "b.nii.gz")
    assert code == 2
    assert "pip install 'foldless[zarr]'" in complained
    assert complained.count("\n") == 1
