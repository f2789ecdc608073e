"""The commands that bring transforms together: convert, compose, invert, jacobian, inspect, points."""

from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.ndimage import gaussian_filter
from transform_cases import geometry, itk_of, moving_geometry, nodes, transform, wave

from foldless.io import (
    Geometry,
    Linear,
    Spaces,
    Transform,
    Warped,
    read_transform,
    read_volume,
    recognised,
    write_transform,
    write_volume,
    write_warp,
)
from foldless.maps.solving import solve
from foldless.mistakes import judged

TOGETHER = 1e-3
"""Millimetres between a composition and its parts one after the other."""


def image_on(on, path, seed=0):
    array = gaussian_filter(np.random.default_rng(seed).normal(size=on.shape), 1.5)
    write_volume((array / np.abs(array).max()).astype(np.float32), on, path)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The two images, a warp, a turn, and the same turn in FLIRT's and in greedy's words."""
    monkeypatch.chdir(tmp_path)
    fixed = geometry("oblique")
    moving = moving_geometry(fixed)
    image_on(fixed, tmp_path / "f.nii.gz")
    image_on(moving, tmp_path / "m.nii.gz", 1)
    turn, spaces = transform("rotation", fixed), Spaces(fixed, moving)
    write_transform(transform("smooth warp", fixed), tmp_path / "warp.nii.gz")
    write_transform(turn, tmp_path / "turn.tfm")
    write_transform(turn, tmp_path / "flirt.mat", spaces, "flirt")
    write_transform(turn, tmp_path / "greedy.mat", spaces, "greedy-affine")
    return tmp_path


@pytest.fixture
def short_walks(monkeypatch):
    """Inverses that are not there are given up after 4 steps of the 2000, which take seconds."""
    monkeypatch.setattr("foldless.io.world.solve", partial(solve, walk=4))


IMAGES = ("--fixed", "f.nii.gz", "--moving", "m.nii.gz")


def test_convert(foldless, home):
    code, said, complained = foldless("convert", "flirt:flirt.mat", "a.lta", *IMAGES)
    assert (code, complained) == (0, "")
    assert "takes points of" in said
    points = nodes(geometry("oblique"))
    np.testing.assert_allclose(read_transform("a.lta")(points), read_transform("turn.tfm")(points), atol=1e-6)
    assert foldless("convert", "warp.nii.gz", "fsl-relative:w.nii.gz", *IMAGES)[0] == 0
    assert foldless("convert", "w.nii.gz", "back.mha", *IMAGES)[0] == 0
    np.testing.assert_allclose(read_transform("back.mha")(points), read_transform("warp.nii.gz")(points), atol=1e-4)


def test_compose_is_one_after_the_other(foldless, home):
    """Five transforms of four tools, 10 000 points carried by SimpleITK and by matrices."""
    fixed = geometry("oblique")
    write_transform(transform("smooth warp", fixed), home / "reg.nii.gz", name="niftyreg-disp")
    write_transform(Transform((Linear(np.eye(3, 4) + [[0, 0, 0, 0.4]] * np.ones((3, 1))),)), home / "s.aff12.1D")
    words = ("warp.nii.gz", "greedy-affine:greedy.mat", "reg.nii.gz", "s.aff12.1D", "turn.tfm,-1")
    code, said, complained = foldless("compose", *words, "--reference", "f.nii.gz", "--output", "all.h5")
    assert (code, complained) == (0, "")
    assert f"through {', then '.join(words)}" in said
    inside = fixed.index_to_physical(np.random.default_rng(0).uniform(3, 6, (10_000, 3)))
    warp, turn = itk_of(transform("smooth warp", fixed)), itk_of(transform("rotation", fixed))
    shift = sitk.TranslationTransform(3, (0.4, 0.4, 0.4))
    expected = inside
    for judge in (warp, turn, warp, shift, turn.GetInverse()):
        expected = np.array([judge.TransformPoint(point) for point in expected.tolist()])
    whole = sitk.ReadTransform("all.h5")
    found = np.array([whole.TransformPoint(point) for point in inside.tolist()])
    assert np.abs(found - expected).max() < TOGETHER


def test_invert(foldless, home):
    code, said, complained = foldless("invert", "warp.nii.gz", "--moving", "m.nii.gz", "--output", "back.nii.gz")
    assert (code, complained) == (0, "")
    assert "there and back misses" in said
    there = moving_geometry(geometry("oblique"))
    back = read_transform("back.nii.gz")
    assert back.fixed.fits(there)
    np.testing.assert_allclose(read_transform("warp.nii.gz")(back(nodes(there))), nodes(there), atol=1e-3)
    assert foldless("invert", "turn.tfm", "--output", "back.tfm")[0] == 0
    assert foldless("convert", "[turn.tfm,1]", "same.tfm")[0] == 0
    assert np.allclose(read_transform("back.tfm").linear.matrix, read_transform("same.tfm").linear.matrix)


def test_a_warp_that_folds_has_no_inverse(foldless, home, short_walks):
    fixed = geometry("axis-aligned")
    write_warp(wave(fixed, 40.0), fixed, "folds.nii.gz")
    image_on(fixed, home / "a.nii.gz")
    (home / "p.csv").write_text("x,y,z\n" + "\n".join(",".join(map(str, point)) for point in nodes(fixed)))
    for words in (
        ("invert", "folds.nii.gz", "--moving", "a.nii.gz", "--output", "b.nii.gz"),
        ("convert", "folds.nii.gz,-1", "b.nii.gz", "--fixed", "a.nii.gz"),
        ("compose", "folds.nii.gz,-1", "turn.tfm", "--reference", "a.nii.gz", "--output", "b.nii.gz"),
        ("apply", "[folds.nii.gz,1]", "a.nii.gz", "--reference", "a.nii.gz", "--output", "b.nii.gz"),
        ("points", "folds.nii.gz", "p.csv", "--output", "b.csv"),
    ):
        code, _, complained = foldless(*words)
        assert code == 2
        assert "no inverse was found at" in complained
        assert complained.count("\n") == 1
        assert not list(home.glob("b.*"))


@pytest.mark.parametrize("log", [False, True])
def test_jacobian_of_a_matrix(foldless, home, log):
    write_transform(Transform((Linear(np.diag([2.0, 1.0, 0.75, 0])[:3]),)), home / "a.tfm")
    words = ("jacobian", "a.tfm", "--reference", "f.nii.gz", "--output", "j.nii.gz")
    code, said, _ = foldless(*words, *(["--log"] if log else []))
    assert code == 0
    assert "by central differences; 0 of" in said
    expected = np.log(1.5) if log else 1.5
    np.testing.assert_allclose(read_volume_of("j.nii.gz"), expected, atol=1e-6)


def read_volume_of(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


# --- inspect ---------------------------------------------------------------------------------------------------------


CUBE = Geometry((24, 22, 24), (1.5, 2.0, 2.5), (-14.0, 9.0, 30.0), geometry("oblique").direction)


def planted():
    """A warp between two images that it brings together, and what of its field makes each mistake."""
    u = wave(CUBE, 4.0)
    signs, half = np.array([-1.0, -1.0, 1.0]), (np.array(CUBE.size) - 1) / 2
    voxels = u @ np.linalg.inv(CUBE.matrix).T
    here = np.moveaxis(CUBE.voxel_centres, 0, -1)
    tenths = np.rint(voxels * 10) / 10 @ CUBE.matrix.T
    moved = Geometry(CUBE.size, CUBE.spacing, (0.0, 0.0, 0.0), CUBE.direction)
    return u, {
        "voxels, not mm": (voxels, CUBE),
        "components stand in the order z, y, x": (u[..., ::-1], CUBE),
        "voxels in the order z, y, x": (voxels[..., ::-1], CUBE),
        "RAS, not LPS": (u * signs, CUBE),
        "positions, not displacements": (u + here, CUBE),
        "positions in RAS": ((u + here) * signs, CUBE),
        "metres, not mm": (u / 1000, CUBE),
        "normalised to -1 ... 1": (voxels / half, CUBE),
        "normalised to -1 ... 1, in the order z, y, x": ((voxels / half)[..., ::-1], CUBE),
        "header has lost": (u, moved),
        "axes stand in the order z, y, x": (u.transpose(2, 1, 0, 3), CUBE),
        "whole tenths of a voxel": (tenths, CUBE),
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two images that the planted warp brings together."""
    home = tmp_path_factory.mktemp("pair")
    u, _ = planted()
    moving = read_volume(image_on(CUBE, home / "m.nii.gz"))
    field = itk_of(Transform((Warped(u, CUBE),)))
    fixed = sitk.Resample(moving.image, moving.image, field, sitk.sitkLinear, 0.0)
    sitk.WriteImage(fixed, str(home / "f.nii.gz"))
    return home


@pytest.mark.parametrize("name", planted()[1])
def test_inspect_names_the_mistake(foldless, pair, tmp_path, name, short_walks):
    field, on = planted()[1][name]
    write_warp(np.ascontiguousarray(field), on, tmp_path / "w.nii.gz")
    code, said, complained = foldless("inspect", tmp_path / "w.nii.gz", pair / "m.nii.gz", pair / "f.nii.gz")
    assert (code, complained) == (0, "")
    assert "likely mistake: its " in said
    assert name in said


def test_inspect_finds_nothing_wrong_with_a_good_warp(foldless, pair, tmp_path):
    write_warp(planted()[0], CUBE, tmp_path / "w.nii.gz")
    code, said, _ = foldless("inspect", tmp_path / "w.nii.gz", pair / "m.nii.gz", pair / "f.nii.gz")
    assert code == 0
    assert "no likely mistake" in said
    assert "brings the images together" in said
    assert "takes points of" in said
    assert "mm on average" in said


def test_inspect_knows_the_other_direction(pair):
    warp = Transform((Warped(planted()[0], CUBE),), CUBE, CUBE)
    back, _ = warp.inverse(CUBE)
    found = judged(back, read_volume(pair / "m.nii.gz"), read_volume(pair / "f.nii.gz"))
    assert "other way" in found.likely
    assert found.inverse > found.warped


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("convert", "no.h5", "a.h5"), "does not exist"),
        (("convert", "greedy.mat", "a.h5"), "say whose"),
        (("convert", "flirt:flirt.mat", "a.h5"), "give both images"),
        (("convert", "warp.nii.gz", "a.lta"), "affine map only"),
        (("convert", "warp.nii.gz", "a.docx"), "no transform's name"),
        (("convert", "warp.nii.gz", "warp.nii.gz"), "one of the inputs"),
        (("convert", "turn.tfm", "a.nii.gz"), "give the fixed image"),
        (("compose", "warp.nii.gz", "turn.tfm", "--reference", "no.nii.gz", "--output", "a.h5"), "does not exist"),
        (("invert", "warp.nii.gz", "--output", "a.h5"), "give that image"),
        (("jacobian", "turn.tfm", "--output", "a.nii.gz"), "--reference"),
        (("repair", "warp.nii.gz", "--output", "a.lta"), "affine maps only"),
        (("repair", "warp.nii.gz", "--output", "a.docx"), "no transform's name"),
        (("inspect", "warp.nii.gz", "f.nii.gz"), "MOVING FIXED"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(foldless, home, words, says):
    before = sorted(home.rglob("*"))
    code, _, complained = foldless(*words)
    assert code == 2
    assert says in complained
    assert complained.count("\n") == 1
    assert sorted(home.rglob("*")) == before


FIELDS = (
    "fsl-relative",
    "fsl-absolute",
    "slicer-field",
    "mgz",
    "niftyreg-def",
    "niftyreg-disp",
    "learn2reg",
    "voxelmorph",
    "dipy",
)


@pytest.mark.parametrize("name", FIELDS)
def test_fields_of_any_program_are_certified_and_repaired(foldless, home, name):
    fixed, end = geometry("oblique"), {"mgz": "mgz", "slicer-field": "mha"}.get(name, "nii.gz")
    torn = wave(fixed)
    torn[4, 5, 6] += 3.5
    spaces = Spaces(fixed, moving_geometry(fixed))
    for title, field in (("sound", wave(fixed)), ("torn", torn)):
        write_transform(Transform((Warped(field, fixed),)), home / f"{title}.{end}", spaces, name)
    images = ("--moving", "m.nii.gz")
    code, said, complained = foldless("certify", f"{name}:sound.{end}", "--reference", "f.nii.gz", *images)
    assert (code, complained) == (0, "")
    assert "proven fold-free" in said
    assert foldless("certify", f"{name}:torn.{end}", "--reference", "f.nii.gz", *images)[0] == 3
    words = ("--fixed", "f.nii.gz", *images, "--output", f"mended.{end}")
    code, said, _ = foldless("repair", f"{name}:torn.{end}", *words)
    assert code == 0
    assert f"mended.{end}: {name}; " in said
    assert foldless("certify", f"{name}:mended.{end}", "--reference", "f.nii.gz", *images)[0] == 0


def test_a_repaired_warp_may_get_another_format(foldless, home):
    fixed = geometry("axis-aligned")
    torn = wave(fixed)
    torn[4, 5, 6] += 3.5
    image_on(fixed, home / "f.nii.gz")
    write_transform(Transform((Warped(torn, fixed),)), home / "torn.npz", Spaces(fixed, fixed), "voxelmorph")
    words = ("--fixed", "f.nii.gz", "--output", "mended.h5")
    assert foldless("repair", "voxelmorph:torn.npz", *words)[0] == 0
    assert recognised(home / "mended.h5") == "itk"
    assert foldless("certify", "mended.h5")[0] == 0


@pytest.mark.parametrize("name", ["fsl-relative", "voxelmorph"])
def test_compose_takes_what_counts_in_both_images(foldless, home, name):
    fixed = geometry("oblique")
    write_transform(transform("smooth warp", fixed), home / "w.nii.gz", Spaces(fixed, moving_geometry(fixed)), name)
    words = (f"{name}:w.nii.gz", "turn.tfm", "--reference", "f.nii.gz", "--output", "all.h5")
    assert foldless("compose", *words, "--moving", "m.nii.gz")[0] == 0
    points = nodes(fixed)
    expected = read_transform("turn.tfm")(read_transform("warp.nii.gz")(points))
    np.testing.assert_allclose(read_transform("all.h5")(points), expected, atol=1e-4)
