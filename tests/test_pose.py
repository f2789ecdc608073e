"""Two scans of one body are laid on each other, turned and cut; of another contrast not always."""

import numpy as np
import pytest
from samples import save_image
from scipy.ndimage import gaussian_filter
from scipy.optimize import check_grad
from scipy.spatial.transform import Rotation

from experiments.phantoms import planted
from foldless.io import read_volume
from foldless.pose import Moves, Pose, Scan, find_pose
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


NOT_YET = pytest.mark.xfail(reason="146°, 70 %, inverted: of this head the search finds another pose", strict=True)


@pytest.mark.parametrize("seed", [3, pytest.param(5, marks=NOT_YET)])
def test_a_turn_and_a_cut_are_found(head, seed):
    pair = planted(head, seed)
    found = find_pose(Scan(pair.moving), Scan(pair.fixed))
    assert pair.error(found.pose) < pair.tolerance
    assert found.score > found.start
    assert found.runner_up < 0.8


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
    image = gaussian_filter(np.random.default_rng(0).normal(size=(70, 70)), 4).astype(np.float32)
    fixed = read_volume(save_image(image[None, 5:65, 5:65], tmp_path / "f.nii.gz"))
    moving = read_volume(save_image(image[None, 2:62, 10:70], tmp_path / "m.nii.gz"))
    found = find_pose(Scan(moving), Scan(fixed)).pose
    shift = found(fixed.geometry.centre[None])[0] - fixed.geometry.centre
    np.testing.assert_allclose(shift, [-5, 3, 0], atol=0.1)
