"""OAI's knees on a small synthetic folder of their layout; torch pools and numpy scales as the judge."""

import nibabel
import numpy as np
import pytest
import torch

from foldless.data import oai
from foldless.data.oai import FULL, _pooled_geometry, prepare_oai_knees
from foldless.direct import Direct
from foldless.errors import InputError
from foldless.evaluation import cartilage_dice
from foldless.io import read_volume
from foldless.outcome import Outcome
from foldless.registering import Fields

SPACING = np.diag([0.7, 0.36, 0.36, 1.0])  # x runs along the slices
ROUNDED = 1e-5  # float32
CUT = 1e-3  # headers are float32, so that a share of exactly one half falls to either side


def knee():
    """(x, y, z), a picture without symmetry and two plates of cartilage, thicker than a pooled voxel."""
    x, y, z = np.ogrid[:16, :38, :38]
    image = ((x * 31 + y * 7 + z**2) % 251).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[2:9, 10:30, 15:21] = 1
    labels[2:12, 10:30, 21:26] = 2
    return image, labels


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    home = tmp_path_factory.mktemp("oai")
    folder = home / "raw"
    folder.mkdir()
    for part, array in zip(("images", "labels"), knee(), strict=True):
        (folder / part).mkdir()
        for name in ("one", "two"):
            nibabel.save(nibabel.Nifti1Image(array, SPACING), folder / part / f"{name}.nii")
    (folder / "sides.csv").write_text("case,side\none,right\ntwo,left\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oai, "SLICES", 16)
        patch.setattr(oai, "SIDE", 38)
        assert prepare_oai_knees(folder, home / "ready") == ["one", "two"]
    return home


def pooled(array):
    return torch.nn.functional.avg_pool3d(torch.from_numpy(array.astype(np.float32))[None], 2)[0].numpy()


@pytest.mark.parametrize(("name", "order"), [("one", 1), ("two", -1)])
def test_knees_are_mirrored_pooled_and_scaled(cohort, name, order):
    image, labels = (array[::order] for array in knee())
    ready, coarse, full = (
        nibabel.load(cohort / "ready" / part / f"{name}.nii.gz") for part in ("images", "labels", FULL)
    )
    small = pooled(image)
    low, high = np.percentile(small, (1, 99))
    np.testing.assert_allclose(ready.get_fdata(), np.clip((small - low) / (high - low), 0, 1), rtol=0, atol=ROUNDED)
    np.testing.assert_array_equal(np.asarray(full.dataobj), labels)
    foreground = np.asarray(coarse.dataobj) > 0
    np.testing.assert_array_equal(foreground, pooled(labels > 0) >= 0.5)
    assert set(np.unique(coarse.dataobj)) == {0, 1, 2}
    np.testing.assert_allclose(ready.affine[:3, 3], np.diag(SPACING)[:3] / 2, atol=ROUNDED)
    np.testing.assert_allclose(np.diag(ready.affine)[:3], 2 * np.diag(SPACING)[:3], atol=ROUNDED)


@pytest.mark.parametrize("voxels", [0, 5])
def test_the_published_dice_warps_linearly_on_all_voxels(cohort, voxels):
    """The same knee moved by some of its own voxels: numpy's roll of the full labels is the judge."""
    ready = cohort / "ready"
    image = read_volume(ready / "images/one.nii.gz")
    field = np.zeros((*image.geometry.shape, 3), np.float32)
    field[..., 1] = voxels * np.abs(image.geometry.matrix[1, 1]) / 2  # mm along LPS's y
    outcome = Outcome(image, image, Fields(field, -field, 0 * field, 0.0), Direct.of_pair(image, image))
    _, labels = knee()
    fixed, moved = labels > 0, np.roll(labels > 0, voxels, axis=1)
    wanted = 2 * (fixed & moved).sum() / (fixed.sum() + moved.sum())
    assert cartilage_dice(outcome, ready)["dice_cartilage"] == pytest.approx(wanted, abs=CUT)


def test_the_command_makes_nothing_twice(foldless, cohort):
    file = cohort / "ready/images/two.nii.gz"
    before = file.stat().st_mtime_ns
    code, said, complained = foldless("prepare", "oai-knees", cohort / "raw", "--output", cohort / "ready")
    assert (code, complained) == (0, "")
    assert file.stat().st_mtime_ns == before
    assert f"foldless train --data {cohort / 'ready'}" in said
    assert "--protocol oai-knees" in said


def test_the_lattice_of_pooled_voxels():
    from foldless.io import Geometry

    fine = Geometry((4, 6), (0.5, 2.0), (10.0, -1.0), (0.0, -1.0, 1.0, 0.0))
    coarse = _pooled_geometry(fine)
    index = np.array([[0.0, 0.0], [1.0, 2.0]])
    np.testing.assert_allclose(coarse.index_to_physical(index), fine.index_to_physical(2 * index + 0.5))


def test_folders_that_are_not_the_cohort(tmp_path):
    def save(part, array):
        (tmp_path / part).mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, SPACING), tmp_path / part / "one.nii.gz")

    save("images", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    for sides, says in (
        (None, "case,side"),
        ("case\none\n", "first line"),
        ("case,side\none,up\n", "left or right"),
        ("case,side\ntwo,left\n", "case one"),
        ("case,side\none,left\n", "has no labels"),
    ):
        if sides is not None:
            (tmp_path / "sides.csv").write_text(sides)
        with pytest.raises(InputError, match=says):
            prepare_oai_knees(tmp_path, tmp_path / "out")
    save("labels", np.zeros((3, 4, 5), np.int16))
    with pytest.raises(InputError, match="160 slices"):
        prepare_oai_knees(tmp_path, tmp_path / "out")
