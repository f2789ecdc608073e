"""Two scans of one body are laid on each other, turned, cut and of another contrast; and the command."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from samples import save_image
from scipy.ndimage import gaussian_filter
from scipy.optimize import check_grad
from scipy.spatial.transform import Rotation

from experiments.phantoms import planted
from foldless.io import like, read_volume, write_volume
from foldless.pose import Found, Moves, Pose, Scan, as_itk, find_pose, laid
from foldless.pose.find import TURNS
from foldless.pose.measure import Measure, Points
from foldless.pose.rigid import rotations

SLOPE = 0.03  # share of the slope: points that cross a node, where the interpolant has a kink


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """An uneven body of 160 mm."""
    random = np.random.default_rng(0)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij")
    inside = (x / 0.6) ** 2 + (y / 0.85) ** 2 + (z / 0.7) ** 2 < 1
    texture = gaussian_filter(random.normal(size=x.shape), 2.5)
    array = gaussian_filter(inside.astype(float), 1) * (500 + 2500 * texture + 150 * x).clip(100)
    return read_volume(save_image(np.float32(array), tmp_path_factory.mktemp("head") / "head.nii.gz", (4.0, 4.0, 4.0)))


@pytest.fixture(scope="module")
def small(head):
    """The same in an eighth of the voxels."""
    return read_volume(save_image(head.array[::2, ::2, ::2], head.path.parent / "small.nii.gz", (8.0, 8.0, 8.0)))


@pytest.fixture
def clear(monkeypatch):
    """Starts nearby are clear: the threshold is of real images, and an egg is like itself from all over."""
    monkeypatch.setattr("foldless.pose.find.CLEAR", 1.2)


def test_a_turn_a_cut_and_another_contrast_are_found(head):
    """146°, 81 mm, 70 % of the body, inverted: of the turns the right one ranks 112th by correlation alone."""
    pair = planted(head, 5)
    found = find_pose(Scan(pair.moving), Scan(pair.fixed))
    assert pair.error(found.pose) < pair.tolerance
    assert found.score > found.start
    assert found.runner_up < 0.8


@pytest.mark.usefixtures("clear")
def test_no_search_is_made_where_the_start_is_clear(head):
    near = Pose.laying(head.geometry.centre, head.geometry.centre).moved(
        np.array([3.0, -2, 1, 4, 2, -3]), Moves.of("rigid", np.eye(3), 80.0)
    )
    told = []
    found = find_pose(Scan(laid(head, near)), Scan(head), on_part=lambda: told.append(1))
    np.testing.assert_allclose(found.pose(near(head.geometry.corners)), head.geometry.corners, atol=2.0)
    assert len(told) < TURNS[3]
    assert found.clear > 1.2
    assert found.mirrored < 1
    assert found.overlap > 0.9


def test_a_mirrored_image_says_more_as_it_was(head):
    here = head.geometry.centre
    flipped = like(head.array[:, :, ::-1].copy(), head)
    assert find_pose(Scan(flipped), Scan(head), initial=Pose.laying(here, here)).mirrored > 1.2


def test_a_start_that_says_as_much_is_kept(head):
    here = head.geometry.centre
    began, pose = Pose.laying(here, here), Pose.laying(here + 1, here)
    found = Found(pose, 0.2, 0.199, 0.0, 0.05, began, 4.0, 0.7, 1.0)
    assert found.settled.pose is began
    assert found.settled.score == 0.199
    assert replace(found, start=0.19).settled.pose is pose


def test_a_pose_undoes_itself_wherever_it_is_written():
    turn = Rotation.from_rotvec([0.3, -1.0, 2.0]).as_matrix()
    pose = Pose.laying(np.array([5.0, 6, 7]), np.array([-20.0, 3, 1]), turn * 1.2)
    points = np.random.default_rng(0).normal(size=(7, 3)) * 50
    np.testing.assert_allclose(pose.inverse(pose(points)), points, atol=1e-12)
    np.testing.assert_allclose(pose.about(points[0])(points), pose(points), atol=1e-12)


def test_rigid_motions_keep_distances_and_similarities_angles():
    random = np.random.default_rng(0)
    for freedom, count in (("rigid", 6), ("similarity", 7), ("affine", 12)):
        moves = Moves.of(freedom, np.eye(3), 50.0)
        assert moves.count == count
        linear, _ = moves.motion(random.normal(size=count) * 10)
        square = linear.T @ linear
        if freedom != "affine":
            np.testing.assert_allclose(square, square[0, 0] * np.eye(3), atol=1e-12)
        assert (abs(square[0, 0] - 1) < 1e-12) == (freedom == "rigid")


def test_turns_come_near_every_turn():
    turns = Rotation.from_matrix(rotations(240, np.eye(3)))
    assert turns[0].magnitude() < 1e-12
    anywhere = Rotation.random(300, random_state=0)
    assert max((one.inv() * turns).magnitude().min() for one in anywhere) < np.deg2rad(40)


def test_the_slope_is_that_of_the_measure(head):
    view = Scan(head).at(8.0)
    measure = Measure(Points.of(view, 10**6), view, 1.0)
    moves, here = Moves.of("affine", np.eye(3), 50.0), head.geometry.centre
    start = Pose.laying(here + np.array([6.0, -4, 5]), here).moved(np.full(12, 3.0), moves)
    off = check_grad(
        lambda x: measure(start.moved(x, moves)),
        lambda x: measure.with_slope(start.moved(x, moves), moves)[1],
        np.zeros(12),
        epsilon=0.05,
    )
    assert off < SLOPE * np.linalg.norm(measure.with_slope(start, moves)[1])


def test_a_mask_says_what_counts(head):
    array = head.array
    array[:12] = array.max()
    spoilt = read_volume(save_image(array, head.path.parent / "spoilt.nii.gz", (4.0, 4.0, 4.0)))
    mask = np.ones(array.shape, np.uint8)
    mask[:12] = 0
    whole = read_volume(save_image(mask, head.path.parent / "mask.nii.gz", (4.0, 4.0, 4.0)), labels=True)
    view = Scan(spoilt, whole).at(8.0)
    points = np.random.default_rng(0).uniform(60, 100, (50, 3))
    assert (view.read(points * [1, 1, 0])[1] == 0).all()
    assert (view.read(points)[1] == 1).all()


def test_nothing_moves_along_an_axis_of_one_voxel(tmp_path):
    image = gaussian_filter(np.random.default_rng(0).normal(size=(50, 50)), 3).astype(np.float32)
    fixed = read_volume(save_image(image[None, 5:45, 5:45], tmp_path / "f.nii.gz"))
    moving = read_volume(save_image(image[None, 2:42, 10:50], tmp_path / "m.nii.gz"))
    found = find_pose(Scan(moving), Scan(fixed)).pose
    shift = found(fixed.geometry.centre[None])[0] - fixed.geometry.centre
    np.testing.assert_allclose(shift, [-5, 3, 0], atol=0.1)


def test_swapped_scans_have_the_inverse_pose(small):
    pair = planted(small, 3)
    near = pair.truth.moved(np.array([3.0, -2, 1, 4, 2, -3]), Moves.of("rigid", np.eye(3), 80.0))
    moving, fixed = Scan(pair.moving), Scan(pair.fixed)
    found = find_pose(moving, fixed, initial=near).pose
    other = find_pose(fixed, moving, initial=near.inverse).pose
    assert pair.error(found) < pair.tolerance
    np.testing.assert_allclose(other.inverse(pair.body), found(pair.body), atol=1e-6)


def test_a_header_that_moves_lays_the_image(head):
    """Its voxels stay, and lie where ITK's transform reads them."""
    pair = planted(head, 3)
    moved = laid(pair.moving, pair.truth)
    np.testing.assert_array_equal(moved.array, pair.moving.array)
    index = np.array([3.0, 4, 5])
    there = moved.geometry.index_to_physical(index)
    expected = pair.moving.geometry.index_to_physical(index)
    np.testing.assert_allclose(as_itk(pair.truth).TransformPoint(there.tolist()), expected, atol=1e-4)
    with pytest.raises(ValueError, match="turns and shifts only"):
        laid(pair.moving, Pose.laying(np.zeros(3), np.zeros(3), 1.1 * np.eye(3)))


@pytest.mark.usefixtures("clear")
def test_the_command_writes_what_itk_reads(small, foldless, tmp_path):
    pair = planted(small, 3)
    names = [tmp_path / name for name in ("moving.nii.gz", "fixed.nii.gz", "mask.nii.gz")]
    for volume, name in zip((laid(pair.moving, pair.truth), pair.fixed), names, strict=False):
        write_volume(volume.array, volume.geometry, name)
    write_volume(np.ones_like(pair.fixed.array, np.int32), pair.fixed.geometry, names[2], np.uint8)
    out = tmp_path / "out"
    words = ("pose", *names[:2], "--output", out, "--fixed-mask", names[2], "--transform")
    code, said, _ = foldless(*words, "rigid", "--placement", "world")
    assert code == 0
    assert "100.0% of" in said
    assert "turned by" in said
    moving, fixed = (sitk.ReadImage(str(name), sitk.sitkFloat32) for name in names[:2])
    by_itk = sitk.Resample(moving, fixed, sitk.ReadTransform(str(out / "pose.txt")), sitk.sitkLinear)
    warped = sitk.ReadImage(str(out / "warped.nii.gz"), sitk.sitkFloat32)
    inside = sitk.GetArrayFromImage(by_itk) > 0
    np.testing.assert_allclose(sitk.GetArrayFromImage(warped)[inside], sitk.GetArrayFromImage(by_itk)[inside], atol=0.5)
    there, back = (sitk.ReadTransform(str(out / name)) for name in ("pose.txt", "inverse_pose.txt"))
    np.testing.assert_allclose(back.TransformPoint(there.TransformPoint((1.0, 2, 3))), (1, 2, 3), atol=1e-6)
    assert (out / "laid.nii.gz").exists()
    assert foldless(*words, "affine", "--placement", "world", "--overwrite")[0] == 0
    assert not (out / "laid.nii.gz").exists()


def test_a_mask_that_leaves_nothing_is_refused(head, foldless, tmp_path):
    for name, volume in (("a.nii.gz", head), ("m.nii.gz", like(np.zeros(head.array.shape, np.int32), head))):
        write_volume(volume.array, volume.geometry, tmp_path / name, np.uint8 if name == "m.nii.gz" else None)
    files = [tmp_path / name for name in ("a.nii.gz", "a.nii.gz", "m.nii.gz")]
    code, _, said = foldless("pose", *files[:2], "--moving-mask", files[2], "--output", tmp_path / "out")
    assert code == 2
    assert "leaves nothing of" in said
    assert not (tmp_path / "out").exists()


def test_images_that_lie_apart_have_no_start_in_the_world(head, foldless, tmp_path):
    far = laid(head, Pose.laying(head.geometry.centre, head.geometry.centre + 900))
    for name, volume in (("a.nii.gz", head), ("b.nii.gz", far)):
        write_volume(volume.array, volume.geometry, tmp_path / name)
    words = ("pose", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "--output", tmp_path / "out", "--placement", "world")
    assert foldless(*words)[0] == 2
    assert not (tmp_path / "out").exists()
