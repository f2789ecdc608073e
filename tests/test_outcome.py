"""What a registration of two volumes came to: its fields, its scores and its picture."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from samples import PREPARED, SMALL, CentreOfMass, blob, lively_model, save_image

from foldless.build import build_registration
from foldless.data.prepare import Preparation
from foldless.errors import InputError
from foldless.grid import Grid
from foldless.io import Volume, read_volume
from foldless.mending import made_provable
from foldless.metrics import FOLD_RULES
from foldless.model import Model
from foldless.outcome import Outcome, field_scores, headline, same_lattice
from foldless.proofs import care_for, repair_warp
from foldless.registering import Fields, predict, register_volumes

SAME = 1e-4  # mm; fields are float32


def volume(path, shape, seed=0, **header):
    return read_volume(save_image((blob(shape, seed) * 50 + 20).astype(np.float32), path, **header))


def still_model(dim, preparation=None):
    """A fresh model is the identity: its last layer is zero."""
    preparation = preparation or PREPARED[dim]
    return Model(build_registration(SMALL, preparation.lattice).eval(), SMALL, preparation)


@pytest.mark.parametrize(("dim", "shape", "other"), [(2, (13, 17), (16, 11)), (3, (13, 17, 14), (16, 11, 15))])
def test_doing_nothing_lays_centre_on_centre(tmp_path, dim, shape, other):
    spacing = (1.0, 1.2, 0.8)[:dim]
    moving = volume(tmp_path / "a.nii.gz", shape, 1, spacing=spacing, Origin=(5.0, -7.0, 11.0)[:dim])
    fixed = volume(tmp_path / "b.nii.gz", other, 2, spacing=spacing)
    preparation = Preparation((32,) * dim, (2.0,) * dim)  # no node on a voxel: centres agree exactly
    fields = register_volumes(still_model(dim, preparation), moving, fixed)
    shift = moving.geometry.centre - fixed.geometry.centre
    assert np.abs(fields.forward - shift).max() < SAME
    assert np.abs(fields.inverse + shift).max() < SAME
    assert np.abs(fields.forward - fields.untouched).max() < SAME
    assert fields.forward.shape == (*other, dim)
    assert fields.inverse.shape == (*shape, dim)


def test_doing_nothing_in_the_world_moves_nothing(tmp_path):
    moving = volume(tmp_path / "a.nii.gz", (13, 17, 14), 1, Origin=(5.0, -7.0, 11.0))
    fixed = volume(tmp_path / "b.nii.gz", (16, 11, 15), 2)
    world = Preparation((32, 32, 32), (1.0, 1.0, 1.0), "world", (-8.0, -8.0, -8.0))
    fields = register_volumes(still_model(3, world), moving, fixed)
    assert np.abs(fields.forward).max() < SAME


def test_a_shift_by_hand(tmp_path):
    """Fields of a known shift: every score and the warped image, by hand."""
    array = (blob((14, 15, 16), 3) * 50 + 20).astype(np.float32)
    labels = blob((14, 15, 16), 3).astype(np.uint8)
    moving, moved = (
        read_volume(save_image(a, tmp_path / f"{k}.nii.gz")) for k, a in enumerate((array, np.roll(array, 1, 2)))
    )
    seg, moved_seg = (
        read_volume(save_image(a, tmp_path / f"s{k}.nii.gz"), labels=True)
        for k, a in enumerate((labels, np.roll(labels, 1, 2)))
    )
    shift = np.zeros((14, 15, 16, 3), np.float32)
    shift[..., 0] = -1  # fixed x goes to moving x - 1
    fields = Fields(shift, -shift, np.zeros_like(shift), 0.5)
    outcome = Outcome(moving, moved, fields, lively_model(3), seg, moved_seg)
    scores = outcome.metrics()
    assert scores["dice"] == 1
    assert 0 < scores["dice_before"] < 1
    assert scores["folds_forward"] == 0
    assert set(scores["folds_percent"].values()) == {0.0}
    assert scores["ndv_percent"] == 0
    assert scores["sdlogj"] == pytest.approx(0, abs=1e-6)
    assert scores["inverse_consistency_voxels"] == pytest.approx({"mean": 0, "p99": 0, "max": 0}, abs=1e-6)
    assert scores["similarity_after"] < 1e-3 < scores["similarity_before"]
    assert scores["seconds"] == 0.5
    assert np.array_equal(outcome.warped.array[:, :, 1:], array[:, :, :-1])
    assert np.abs(outcome.displacement_voxels - np.array([0, 0, -1]).reshape(3, 1, 1, 1)).max() < 1e-6


def test_the_moving_image_is_carried_onto_the_fixed_one(tmp_path):
    """A registration that is right by construction, and two images apart by two voxels: the direction of the map."""
    array = np.pad(blob((10, 11, 12), 3), 4)
    shape, moved = array.shape, np.roll(array, 2, 2)
    images = [
        read_volume(save_image(a.astype(np.float32), tmp_path / f"{k}.mha")) for k, a in enumerate((array, moved))
    ]
    labels = [
        read_volume(save_image(a.astype(np.uint8), tmp_path / f"s{k}.mha"), labels=True)
        for k, a in enumerate((array, moved))
    ]
    model = Model(CentreOfMass(), SMALL, Preparation(shape, (1.0, 1.0, 1.0), percentiles=(0.0, 100.0)))
    fields = register_volumes(model, *images)
    assert np.abs(fields.forward - np.array([-2, 0, 0])).max() < SAME
    scores = Outcome(*images, fields, model, *labels).metrics()
    assert scores["dice"] > 0.99 > 0.9 > scores["dice_before"]
    assert scores["inverse_consistency_voxels"]["max"] < SAME


def test_a_fold_is_counted_and_drawn_where_it_is(tmp_path):
    fixed = volume(tmp_path / "b.nii.gz", (12, 13, 14), 2, Direction=(-1.0, 0, 0, 0, -1, 0, 0, 0, 1))
    field = np.zeros((12, 13, 14, 3), np.float32)
    field[5, 6, 7, 0] = 3 * -1  # three voxels along x, in LPS mm, of an image whose x axis is turned round
    fields = Fields(field, np.zeros_like(field), np.zeros_like(field), 0.0)
    outcome = Outcome(fixed, fixed, fields, lively_model(3))
    assert outcome.metrics()["folds_forward"] > 0
    assert outcome.metrics()["inverse_consistency_voxels"]["max"] == pytest.approx(3, rel=1e-5)
    pair = outcome.drawn("a pair")
    assert pair.folded[5, 12 - 6, 13 - 7 - 2 : 13 - 7 + 3].any(), "the picture is turned to the common orientation"
    assert pair.folded.sum() > 0
    assert pair.displacement_voxels[2, 5, 6, 6] == pytest.approx(-3, rel=1e-5)
    assert "dice" not in outcome.metrics()


def test_both_dimensions_must_be_the_models(tmp_path):
    flat, deep = volume(tmp_path / "a.nii.gz", (12, 12)), volume(tmp_path / "b.nii.gz", (12, 12, 12))
    for moving, fixed in ((flat, deep), (deep, flat), (flat, flat)):
        with pytest.raises(InputError, match="2-D, but the model was trained on 3-D"):
            register_volumes(lively_model(3), moving, fixed)


def test_labels_of_another_lattice(tmp_path):
    image = volume(tmp_path / "a.nii.gz", (12, 12, 12))
    good = read_volume(save_image(blob((12, 12, 12), 0).astype(np.uint8), tmp_path / "s.nii.gz"), labels=True)
    assert same_lattice(good, image, "moving") is good
    turned = Volume(sitk.DICOMOrient(good.image, "RAI"), good.path)
    assert same_lattice(turned, image, "moving").geometry.fits(image.geometry)
    np.testing.assert_array_equal(same_lattice(turned, image, "moving").array, good.array)
    for header in ({"Origin": (1.0, 0, 0)}, {"spacing": (1.0, 1.0, 1.1)}):
        other = save_image(blob((12, 12, 12), 0).astype(np.uint8), tmp_path / "t.nii.gz", **header)
        with pytest.raises(InputError, match="moving labels"):
            same_lattice(read_volume(other, labels=True), image, "moving")
    flat = read_volume(save_image(blob((12, 12), 0).astype(np.uint8), tmp_path / "u.nii.gz"), labels=True)
    with pytest.raises(InputError, match="moving labels"):
        same_lattice(flat, image, "moving")


def test_the_batch_does_not_matter(tmp_path):
    """A pair's maps are the same alone and beside others, batch norm included."""
    model, images = lively_model(2), torch.rand(2, 3, 1, 16, 16)
    together, grid = predict(model, *images)[0], Grid((16, 16))
    for k in range(3):
        alone = predict(model, images[0, k : k + 1], images[1, k : k + 1])[0]
        assert torch.allclose(alone.on(grid), together[k : k + 1].on(grid), atol=1e-5)


def test_images_larger_than_the_models_lattice(tmp_path):
    """The map goes on outside: nothing breaks, and the border displacement continues."""
    moving, fixed = volume(tmp_path / "a.nii.gz", (30, 30), 1), volume(tmp_path / "b.nii.gz", (28, 40), 2)
    fields = register_volumes(lively_model(2), moving, fixed)
    assert np.isfinite(fields.forward).all()
    assert np.abs(fields.forward[0] - fields.forward[1]).max() < SAME


def test_what_the_lattice_cuts_off_is_said(tmp_path):
    model = still_model(2)
    large = volume(tmp_path / "large.nii.gz", tuple(n + 8 for n in model.preparation.lattice))
    with pytest.warns(UserWarning, match="reaches beyond the lattice"):
        register_volumes(model, large, large)


def test_sitk_reads_the_field_as_it_is_meant(tmp_path):
    moving, fixed = volume(tmp_path / "a.nii.gz", (16, 15, 14), 1), volume(tmp_path / "b.nii.gz", (15, 14, 16), 2)
    outcome = Outcome(moving, fixed, register_volumes(lively_model(3), moving, fixed), lively_model(3))
    field = sitk.GetImageFromArray(outcome.fields.forward.astype(np.float64), isVector=True)
    transform = sitk.DisplacementFieldTransform(field)
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    by_itk = sitk.Resample(image, sitk.ReadImage(str(tmp_path / "b.nii.gz")), transform, sitk.sitkLinear, 20.0)
    assert np.abs(sitk.GetArrayFromImage(by_itk) - outcome.warped.array).max() < 1e-3


def test_headline_leaves_out_what_is_not_there():
    assert headline({"seconds": 1.0}) == {}
    full = {"dice": 0.9, "dice_before": 0.5, "folds_percent": {"ten": 0.0}, "inverse_consistency_voxels": {"mean": 0.1}}
    assert list(headline(full).values()) == [0.5, 0.9, 0.0, 0.1]


def test_exponential_maps_are_written_too(tmp_path):
    moving, fixed = volume(tmp_path / "a.nii.gz", (16, 16), 1), volume(tmp_path / "b.nii.gz", (16, 16), 2)
    fields = register_volumes(lively_model(2, replace(SMALL, as_map="exponential", levels=(2, 1))), moving, fixed)
    assert np.isfinite(fields.forward).all()
    assert np.abs(fields.forward).max() > 0.1


@pytest.mark.parametrize("slices", [1, 2, 3, 4])
def test_thin_volumes_lack_the_scores_that_they_cannot_hold(tmp_path, slices):
    moving, fixed = (
        read_volume(save_image(blob((9, 16, 15), k)[4 : 4 + slices].astype(np.float32), tmp_path / f"{k}.mha"))
        for k in (1, 2)
    )
    outcome = Outcome(moving, fixed, register_volumes(lively_model(3), moving, fixed), lively_model(3))
    scores = outcome.metrics()
    rules = {1: set(), 2: {"forward", "central"}}.get(slices, set(FOLD_RULES))
    assert set(scores.get("folds_percent", {})) == rules
    assert ("folds_forward" in scores) == (slices > 1)
    assert "sdlogj" not in scores
    assert outcome.drawn("thin").displacement_voxels.shape == (3, slices, 16, 15)


def test_a_field_that_is_not_finite_is_no_matter_of_its_lattice():
    with pytest.raises(ValueError, match="not finite"):
        field_scores(torch.full((1, 3, 6, 6, 6), float("nan")))


def test_placed_by_the_world_images_must_overlap(tmp_path):
    moving = volume(tmp_path / "a.nii.gz", (13, 17, 14), 1, Origin=(500.0, 0.0, 0.0))
    fixed = volume(tmp_path / "b.nii.gz", (16, 11, 15), 2)
    world = Preparation((32, 32, 32), (1.0, 1.0, 1.0), "world", (-8.0, -8.0, -8.0))
    with pytest.raises(InputError, match="do not overlap"):
        register_volumes(still_model(3, world), moving, fixed)
    register_volumes(still_model(3), moving, fixed)


def test_both_maps_are_certified_and_repaired_each_on_its_own_lattice(tmp_path):
    """Only the map back folds, beside an edge of the moving image."""
    edge = np.zeros((13, 17, 14), np.float32)
    edge[:, 9:] = 100
    moving = read_volume(save_image(edge, tmp_path / "a.nii.gz"))
    fixed = volume(tmp_path / "b.nii.gz", (16, 11, 15), 2)
    forward, inverse = np.zeros((16, 11, 15, 3), np.float32), np.zeros((13, 17, 14, 3), np.float32)
    inverse[6, 8, 7] = 1.5
    fields = Fields(forward, inverse, np.zeros_like(forward), 0.5)
    there, back = Outcome(moving, fixed, fields, still_model(3)).certificates
    assert (there.state, back.state) == ("proven", "refuted")
    scores = Outcome(moving, fixed, fields, still_model(3)).metrics()["certificate"]
    assert (scores["proven"], scores["failing_cells"]) == (0, back.refuted)
    mended = made_provable(fields, moving, fixed)
    expected, _ = repair_warp(inverse, moving.geometry, care_for(moving.array))
    assert np.array_equal(mended.forward, forward)
    assert np.array_equal(mended.inverse, expected)
    assert not np.array_equal(mended.inverse, repair_warp(inverse, moving.geometry)[0])
    assert [one.failed > 0 for one in mended.repairs] == [False, True]
    assert Outcome(moving, fixed, mended, still_model(3)).metrics()["certificate"]["proven"] == 1
    assert mended.seconds > fields.seconds


def test_what_both_images_show_is_where_the_map_stays_on_the_moving_lattice(tmp_path):
    """Both begin at one origin, with voxels alike, so that the shorter of both sides is what both show."""
    moving = volume(tmp_path / "a.nii.gz", (13, 17, 14), 1)
    fixed = volume(tmp_path / "b.nii.gz", (16, 11, 15), 2)
    still = np.zeros((16, 11, 15, 3), np.float32)
    outcome = Outcome(moving, fixed, Fields(still, np.zeros((13, 17, 14, 3), np.float32), still, 0.0), still_model(3))
    expected = np.zeros((16, 11, 15), bool)
    expected[:13, :, :14] = True
    assert np.array_equal(outcome.common, expected)
