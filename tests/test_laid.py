"""`register` finds the pose itself: turned scans are deformed onto each other, proven after the pose, both ways."""

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from samples import save_image
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from foldless.direct import Direct, lattices_of_pair, register_directly
from foldless.io import Geometry, like, read_volume, read_warp, write_volume
from foldless.pose import Moves, Pose, Scan, as_itk, laid

SIDE = 5.0
TURN = Rotation.from_euler("zyx", [90, 15, -10], degrees=True).as_matrix()


def body(seed, shape=(16, 18, 17)):
    """An uneven egg of 60 mm, a little another for each seed."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    z, y, x = (
        grid + 0.05 * np.array([gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3) for _ in grid]) * 20
    )
    inside = (x / 0.6) ** 2 + (y / 0.85) ** 2 + (z / 0.7) ** 2 < 1
    texture = gaussian_filter(np.random.default_rng(0).normal(size=shape), 1.3)
    return np.float32(gaussian_filter(inside.astype(float), 0.7) * (500 + 2500 * texture + 150 * x).clip(100))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two bodies, the moving one turned by 90° and more and shifted, and how it was laid."""
    home = tmp_path_factory.mktemp("scans")
    fixed, moving = (
        read_volume(save_image(body(seed), home / f"{seed}.nii.gz", (SIDE, SIDE, SIDE))) for seed in (1, 2)
    )
    pose = Pose.laying(moving.geometry.centre, moving.geometry.centre + np.array([20.0, -35, 10]), TURN)
    turned = laid(moving, pose)
    write_volume(turned.array, turned.geometry, home / "moving.nii.gz")
    write_volume(fixed.array, fixed.geometry, home / "fixed.nii.gz")
    return home, pose.inverse


@pytest.fixture
def out(scans, foldless):
    """What `register` writes of them, found once, from a start some degrees off; test_pose.py has the search."""
    home, _ = scans
    if not (home / "out").exists():
        near = scans[1].moved(np.array([4.0, -3, 2, 3, -4, 2]), Moves.of("rigid", np.eye(3), 50.0))
        sitk.WriteTransform(as_itk(near), str(home / "near.txt"))
        words = (
            "register",
            home / "moving.nii.gz",
            home / "fixed.nii.gz",
            "--steps",
            8,
            4,
            "--initial",
            home / "near.txt",
        )
        code, said, complained = foldless(*words, "--output", home / "out")
        assert (code, complained.count("note:"), complained.count("is stored as")) == (0, 1, 1)
        assert "turned by" in said
    return home / "out"


def alike(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


def test_turned_scans_are_laid_and_deformed(scans, out):
    home, _ = scans
    fixed, warped = read_volume(home / "fixed.nii.gz"), read_volume(out / "warped.nii.gz")
    metrics = json.loads((out / "metrics.json").read_text())
    assert alike(warped.array, fixed.array) > 0.95
    assert metrics["similarity_after"] < 0.7 * metrics["similarity_before"]
    assert metrics["certificate"]["proven"] == 1
    assert metrics["folds_percent"]["ten"] == 0
    assert metrics["pose"]["degrees"] == pytest.approx(90, abs=4)
    assert metrics["inverse_consistency_voxels"]["mean"] < 0.3
    assert metrics["pose"]["clear"] == metrics["pose"]["mirrored"] == 0, "too few voxels to tell"


def test_the_image_is_read_once_through_the_whole_map(scans, out):
    home, _ = scans
    moving, fixed = (sitk.ReadImage(str(home / f"{name}.nii.gz"), sitk.sitkFloat32) for name in ("moving", "fixed"))
    warp = sitk.DisplacementFieldTransform(sitk.ReadImage(str(out / "warp.nii.gz"), sitk.sitkVectorFloat64))
    by_itk = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, warp, sitk.sitkLinear, 0.0))
    np.testing.assert_allclose(read_volume(out / "warped.nii.gz").array, by_itk, atol=0.05)


def test_the_pose_is_what_the_warps_end_in(out, foldless):
    """certify finds what certificate.json says where the pose is named, and folds where it is not."""
    found = json.loads((out / "certificate.json").read_text())
    for name, pose in (("warp", "pose.txt"), ("inverse_warp", "inverse_pose.txt")):
        words = ("certify", out / f"{name}.nii.gz", "--output", out / "again.json", "--overwrite")
        assert foldless(*words, "--after", out / pose)[0] == 0
        (again,) = json.loads((out / "again.json").read_text())["warps"].values()
        assert (again["state"], again["digest"], again["cells"]) == tuple(
            found[name][key] for key in ("state", "digest", "cells")
        )
        assert again["bounds"] == pytest.approx(found[name]["bounds"], rel=1e-6)
        assert foldless(*words)[0] == 3
        words = (
            "repair",
            out / f"{name}.nii.gz",
            "--after",
            out / pose,
            "--output",
            out / "mended.nii.gz",
            "--overwrite",
        )
        code, said, _ = foldless(*words)
        assert code == 0
        assert "nothing to repair" in said
        linear = sitk.ReadTransform(str(out / pose))
        matrix = np.array(found[name]["after"])
        np.testing.assert_allclose(linear.TransformPoint((1.0, 2.0, 3.0)), matrix @ [1, 2, 3, 1], atol=1e-6)


@pytest.mark.parametrize("kind", ["rigid", "similarity"])
def test_a_pose_alone_is_a_warp_too(scans, out, foldless, tmp_path, kind):
    home, _ = scans
    words = ("register", home / "moving.nii.gz", home / "fixed.nii.gz", "--initial", out / "pose.txt")
    code, _, complained = foldless(*words, "--transform", kind, "--output", tmp_path / "out")
    assert (code, complained.count("note:"), complained.count("is stored as")) == (0, 1, 1)
    there, back = (sitk.ReadTransform(str(tmp_path / "out" / name)) for name in ("pose.txt", "inverse_pose.txt"))
    warp, geometry = read_warp(tmp_path / "out/warp.nii.gz")
    point = geometry.index_to_physical(np.array([3.0, 4, 5]))
    np.testing.assert_allclose(there.TransformPoint(point.tolist()) - point, warp[5, 4, 3], atol=1e-4)
    np.testing.assert_allclose(back.TransformPoint(there.TransformPoint(point.tolist())), point, atol=1e-6)
    assert json.loads((tmp_path / "out/metrics.json").read_text())["certificate"]["least_volume"] == pytest.approx(
        1, abs=1e-3
    )


@pytest.mark.parametrize(
    ("matrix", "says"),
    [(np.diag([-1.0, 1, 1]), "mirrors space"), (np.diag([1.0, 1]), "is 2-D, but the fixed image 3-D")],
)
def test_a_start_that_cannot_be_is_refused(scans, foldless, tmp_path, matrix, says):
    home, _ = scans
    start = sitk.AffineTransform(len(matrix))
    start.SetMatrix(matrix.ravel().tolist())
    sitk.WriteTransform(start, str(tmp_path / "start.txt"))
    words = ("register", home / "moving.nii.gz", home / "fixed.nii.gz", "--initial", tmp_path / "start.txt")
    code, _, complained = foldless(*words, "--output", tmp_path / "out")
    assert code == 2
    assert says in complained
    assert not (tmp_path / "out").exists()


def test_aligned_images_are_taken_as_a_file_lays_them(scans, foldless, tmp_path):
    """Bit for bit the pose that was given, and a mask counts."""
    home, pose = scans
    sitk.WriteTransform(as_itk(pose), str(tmp_path / "start.txt"))
    fixed = read_volume(home / "fixed.nii.gz")
    mask = np.ones(fixed.array.shape, np.int32)
    mask[:4] = 0
    write_volume(mask, fixed.geometry, tmp_path / "mask.nii.gz", np.uint8)
    words = (
        "register",
        home / "moving.nii.gz",
        home / "fixed.nii.gz",
        "--initial",
        tmp_path / "start.txt",
        "--aligned",
    )
    for name, more in (("out", ()), ("masked", ("--fixed-mask", tmp_path / "mask.nii.gz"))):
        assert foldless(*words, "--steps", 2, "--output", tmp_path / name, *more)[0] == 0
    found = sitk.ReadTransform(str(tmp_path / "out/pose.txt"))
    np.testing.assert_allclose(found.TransformPoint((9.0, 8, 7)), as_itk(pose).TransformPoint((9.0, 8, 7)), atol=1e-9)
    assert "pose" not in json.loads((tmp_path / "out/metrics.json").read_text()), "none was sought"
    fields = [read_warp(tmp_path / name / "warp.nii.gz")[0] for name in ("out", "masked")]
    assert np.abs(fields[0] - fields[1]).max() > 1e-2


def test_swapped_images_have_the_inverse(scans):
    home, pose = scans
    moving, fixed = (read_volume(home / f"{name}.nii.gz") for name in ("moving", "fixed"))
    forces = {"levels": (2, 1), "steps": (6, 4)}
    there = register_directly(Direct.of_pair(moving, fixed, pose, **forces), moving, fixed)
    back = register_directly(Direct.of_pair(fixed, moving, pose.inverse, **forces), fixed, moving)
    np.testing.assert_allclose(there.forward, back.inverse, atol=1e-3)
    np.testing.assert_allclose(there.inverse, back.forward, atol=1e-3)
    bare = np.linalg.norm(there.forward - there.untouched, axis=-1)
    assert bare.max() > 1, "and it deforms"


def test_images_on_one_lattice_are_read_at_their_voxels(scans):
    home, _ = scans
    fixed, other = (read_volume(home / f"{seed}.nii.gz") for seed in (1, 2))
    here = fixed.geometry.centre
    for lattice in lattices_of_pair(other, fixed, Pose.laying(here, here)):
        assert lattice.shape == (16, 32, 32)
        index = fixed.geometry.physical_to_index(np.array(lattice.origin))
        np.testing.assert_allclose(index, index.round(), atol=1e-9)
        np.testing.assert_allclose(lattice.spacing, SIDE)


def test_lattices_share_their_cube_and_hold_what_both_show(scans):
    home, pose = scans
    moving, fixed = (read_volume(home / f"{name}.nii.gz") for name in ("moving", "fixed"))
    sheared = Pose(pose.linear @ np.array([[1.1, 0.1, 0], [0, 1, 0], [0, -0.1, 0.9]]), pose.here, pose.there)
    there, here = lattices_of_pair(moving, fixed, sheared)
    unit = np.random.default_rng(0).uniform(-0.2, 1.2, (3, 50))
    np.testing.assert_allclose(there.unit_to_physical(unit).T, sheared(here.unit_to_physical(unit).T), atol=1e-9)
    both = [p for p in fixed.geometry.voxel_centres.reshape(3, -1).T[::7] if inside(moving.geometry, sheared(p))]
    assert len(both) > 500
    assert all(inside(here, p) for p in both)


def inside(geometry, point):
    index = geometry.physical_to_index(point)
    return bool(((index >= -1e-6) & (index <= np.array(geometry.size) - 1 + 1e-6)).all())


def test_what_lies_outside_weighs_nothing(tmp_path):
    """Half a voxel beyond the outermost centres it shows something; a voxel beyond, nothing; a mask takes away."""
    on = Geometry((13, 4), (1.0, 1.0), (8.0, 20.0), (1.0, 0.0, 0.0, 1.0))
    image = read_volume(save_image(np.float32(np.eye(4, 5)), tmp_path / "a.nii.gz", (2.0, 1.0), Origin=(10.0, 20.0)))
    shown = Scan(image).shown(on)
    np.testing.assert_allclose(shown[0], [0, 0.5, *[1] * 9, 0.5, 0])
    mask = np.ones((4, 5), np.int32)
    mask[:, :2] = 0
    np.testing.assert_allclose(Scan(image, like(mask, image)).shown(on)[0, :9], [0, 0, 0, 0, 0, 0.5, 1, 1, 1])
    small = read_volume(
        save_image(np.ones((4, 2), np.uint8), tmp_path / "m.nii.gz", (2.0, 1.0), Origin=(12.0, 20.0)), labels=True
    )
    np.testing.assert_allclose(Scan(image, small).shown(on)[0], [0, 0, 0, 0.5, 1, 1, 1, 0.5, 0, 0, 0, 0, 0])
