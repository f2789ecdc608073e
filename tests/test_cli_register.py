"""`foldless register` and `foldless apply`: what they write is whole, and others read the same from it."""

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from samples import blob, run_folder, save_image

from foldless import metrics
from foldless.record import RECORD

WRITTEN = {
    *("warped.nii.gz", "warp.nii.gz", "inverse_warp.nii.gz", "certificate.json"),
    *("metrics.json", "run.json", "report.html"),
}
NUMBERS = (
    "dice", "dice_before", "ndv_percent", "sdlogj", "sdlogj_learn2reg", "similarity_before", "similarity_after",
    "seconds",
)  # fmt: skip
RULES = {"forward", "central", "any_of_eight", "ten"}
SAME_SUMS = 1e-5  # float32 sums in another order
OBLIQUE = tuple(np.round(np.linalg.qr(np.array([[1, 0.3, 0], [-0.2, 1, 0.1], [0.1, 0, 1]]))[0].ravel(), 12))


def oblique(flip):
    """An orthonormal direction, right-handed, its x and y axes turned round or not."""
    matrix = np.array(OBLIQUE).reshape(3, 3)
    matrix = matrix * np.sign(np.diag(matrix))
    return tuple((matrix * ([-1, -1, 1] if flip else [1, 1, 1])).ravel().tolist())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """By name: a 2-D pair and a 3-D pair of different shapes, spacings and orientations, with models and labels."""
    folder = tmp_path_factory.mktemp("pairs")
    headers = {
        2: ({"spacing": (1.0, 1.5)}, {"spacing": (1.2, 1.0), "Origin": (5.0, -3.0)}),
        3: (
            {"spacing": (1.0, 1.3, 0.8), "Direction": oblique(False)},
            {"spacing": (1.1, 1.0, 1.0), "Origin": (40.0, -30.0, 12.0), "Direction": oblique(True)},
        ),
    }
    shapes = {2: ((17, 14), (15, 16)), 3: ((15, 17, 14), (16, 13, 17))}
    found = {}
    for dim in (2, 3):
        inputs = {"model": run_folder(folder / f"run{dim}", dim)}
        for role, shape, header, seed in zip(("moving", "fixed"), shapes[dim], headers[dim], (1, 2), strict=True):
            labels = blob(shape, seed)
            image = (labels * 60 + np.random.default_rng(seed).normal(30, 3, shape)).astype(np.float32)
            if dim == 3 and role == "fixed":  # the same anatomy in an image whose x and y run the other way
                labels, image = labels[:, ::-1, ::-1], image[:, ::-1, ::-1]
            inputs[role] = save_image(image, folder / f"{role}{dim}.nii.gz", **header)
            inputs[f"{role}_labels"] = save_image(labels.astype(np.uint8), folder / f"{role}{dim}_seg.nii.gz", **header)
        found[dim] = inputs
    return found


def register(foldless, inputs, output, *more):
    return foldless(
        "register", inputs["moving"], inputs["fixed"], "--model", inputs["model"], "--output", output,
        "--moving-labels", inputs["moving_labels"], "--fixed-labels", inputs["fixed_labels"], *more,
    )  # fmt: skip


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def by_itk(moving, fixed, warp, order=sitk.sitkLinear):
    """The moving image through the warp, by SimpleITK alone."""
    if warp.suffix == ".h5":
        transform = sitk.ReadTransform(str(warp))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(warp), sitk.sitkVectorFloat64))
    image = sitk.ReadImage(str(moving), sitk.sitkInt32 if order == sitk.sitkNearestNeighbor else sitk.sitkFloat32)
    outside = 0.0 if order == sitk.sitkNearestNeighbor else float(sitk.GetArrayViewFromImage(image).min())
    return sitk.GetArrayFromImage(sitk.Resample(image, sitk.ReadImage(str(fixed)), transform, order, outside))


@pytest.mark.parametrize("form", ["nii.gz", "h5"])
@pytest.mark.parametrize("dim", [2, 3])
def test_everything_is_written_and_sitk_agrees(foldless, pairs, tmp_path, dim, form):
    inputs = pairs[dim]
    code, said, complained = register(foldless, inputs, tmp_path / "out", "--warp-format", form)
    assert (code, complained.count("note:")) == (0, 2 if dim == 3 else 0)  # of the orientations, and the places
    wanted = {name.replace("warp.nii.gz", f"warp.{form}") for name in WRITTEN} | {"warped_labels.nii.gz"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == wanted
    warp = tmp_path / "out" / f"warp.{form}"
    warped = read(tmp_path / "out/warped.nii.gz")
    assert warped.shape == read(inputs["fixed"]).shape
    np.testing.assert_allclose(warped, by_itk(inputs["moving"], inputs["fixed"], warp), rtol=0, atol=1e-4)
    nearest = by_itk(inputs["moving_labels"], inputs["fixed"], warp, sitk.sitkNearestNeighbor)
    assert np.array_equal(read(tmp_path / "out/warped_labels.nii.gz"), nearest)
    assert str(tmp_path / "out/report.html") in said
    assert 'src="http' not in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("dim", [2, 3])
def test_metrics_are_those_of_the_files(foldless, pairs, tmp_path, dim):
    """Everything in metrics.json once more, from the files that were written and with SimpleITK as the reader."""
    inputs, out = pairs[dim], tmp_path / "out"
    assert register(foldless, inputs, out)[0] == 0
    found = json.loads((out / "metrics.json").read_text())

    assert all(isinstance(found[name], float) for name in NUMBERS if name in found)
    assert set(NUMBERS) - set(found) <= ({"sdlogj_learn2reg"} if dim == 2 else set())
    assert isinstance(found["folds_forward"], int)
    assert set(found["folds_percent"]) == RULES
    assert set(found["inverse_consistency_voxels"]) == {"mean", "p99", "max"}

    fixed, image = read(inputs["fixed_labels"]), sitk.ReadImage(str(out / "warp.nii.gz"))
    moving, warped = read(inputs["moving_labels"]), read(out / "warped_labels.nii.gz")
    dice = {}
    for label in (1, 2):
        a, b = warped == label, fixed == label
        dice[str(label)] = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert found["dice_per_label"] == pytest.approx(dice)
    assert found["dice"] == pytest.approx(np.mean(list(dice.values())))
    assert 0 < found["dice_before"] < 1
    assert set(np.unique(moving)) == {0, 1, 2}

    # the displacement in voxels: mm through the inverse of direction · spacing, components and axes reversed
    matrix = np.array(image.GetDirection()).reshape(dim, dim) * np.array(image.GetSpacing())
    voxels = sitk.GetArrayFromImage(image).astype(float) @ np.linalg.inv(matrix).T
    voxels = torch.from_numpy(np.moveaxis(voxels, -1, 0)[::-1].copy())[None]
    assert found["folds_forward"] == int(metrics.folds(voxels, "forward"))
    for rule in RULES:
        assert found["folds_percent"][rule] == pytest.approx(metrics.folds_percent(voxels, rule).item())
    assert found["ndv_percent"] == pytest.approx(metrics.ndv_percent(voxels).item(), abs=1e-9)
    assert found["sdlogj"] == pytest.approx(metrics.sdlogj(voxels).item(), rel=SAME_SUMS)

    # there and back with ITK, on the voxels whose image lies well inside the moving lattice
    there = sitk.DisplacementFieldTransform(sitk.ReadImage(str(out / "warp.nii.gz"), sitk.sitkVectorFloat64))
    back = sitk.DisplacementFieldTransform(sitk.ReadImage(str(out / "inverse_warp.nii.gz"), sitk.sitkVectorFloat64))
    on = sitk.ReadImage(str(inputs["fixed"]))
    inside = sitk.ReadImage(str(inputs["moving"]))
    errors = []
    for index in np.ndindex(*on.GetSize()):
        point = on.TransformIndexToPhysicalPoint([int(i) for i in index])
        away = there.TransformPoint(point)
        at = np.array(inside.TransformPhysicalPointToContinuousIndex(away))
        if (at < 0).any() or (at > np.array(inside.GetSize()) - 1).any():
            errors.append(np.nan)
            continue
        home = on.TransformPhysicalPointToContinuousIndex(back.TransformPoint(away))
        errors.append(np.linalg.norm(np.array(home) - index))
    known = np.array(errors)[~np.isnan(errors)]
    assert len(known) > 0.4 * len(errors)
    share = len(known) / len(errors)
    assert known.max() <= found["inverse_consistency_voxels"]["max"] + 1e-4
    assert (
        abs(found["inverse_consistency_voxels"]["mean"] - known.mean())
        <= (1 - share) * max(found["inverse_consistency_voxels"]["max"], known.max()) + 1e-4
    )


def test_the_record(foldless, pairs, tmp_path):
    register(foldless, pairs[2], tmp_path / "out")
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["command"] == "register"
    assert record["arguments"][:2] == ["register", str(pairs[2]["moving"])]
    assert len(record["data_sha256"]) == 5, "two images, two label maps, the weights"
    assert record["recipe"]["widths"] == [4, 8]
    assert record["settings"]["warp_format"] == "nii.gz"


def test_without_labels_there_is_no_dice(foldless, pairs, tmp_path):
    inputs = pairs[2]
    code, *_ = foldless(
        "register", inputs["moving"], inputs["fixed"], "--model", inputs["model"], "--output", tmp_path / "out"
    )
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == WRITTEN
    assert not any("dice" in name for name in json.loads((tmp_path / "out/metrics.json").read_text()))


@pytest.mark.parametrize("name", ["[brackets] and spaces", ":smile:"])
def test_odd_folder_names_are_said_as_they_are(foldless, pairs, tmp_path, name):
    code, said, _ = register(foldless, pairs[2], tmp_path / name)
    assert code == 0
    assert f"look at {tmp_path / name}/report.html" in said


def test_a_real_pair(foldless, real_data, tmp_path):
    """Both ways, as somebody would: register, then carry the image and its labels with `apply`."""
    data = real_data / "hippocampus"
    a, b = "hippocampus_033.nii.gz", "hippocampus_003.nii.gz"
    inputs = {
        "moving": data / "images" / a, "moving_labels": data / "labels" / a,
        "fixed": data / "images" / b, "fixed_labels": data / "labels" / b,
        "model": run_folder(tmp_path / "run", 3, levels=(2, 1), normalisation="instance"),
    }  # fmt: skip
    out = tmp_path / "out"
    assert register(foldless, inputs, out)[0] == 0
    warped = read(out / "warped.nii.gz")
    np.testing.assert_allclose(
        warped, by_itk(inputs["moving"], inputs["fixed"], out / "warp.nii.gz"), rtol=1e-6, atol=1e-3
    )
    carried = tmp_path / "carried.nii.gz"
    words = ("apply", out / "warp.nii.gz", inputs["moving"], "--reference", inputs["fixed"], "--output", carried)
    assert foldless(*words)[0] == 0
    assert read(carried).dtype == np.uint8, "as the image stores it"
    assert np.array_equal(read(carried), np.rint(warped))
    words = (
        "apply", out / "warp.nii.gz", inputs["moving_labels"], "--reference", inputs["fixed"], "--output", carried,
        "--labels", "--overwrite",
    )  # fmt: skip
    assert foldless(*words)[0] == 0
    assert np.array_equal(read(carried), read(out / "warped_labels.nii.gz"))
    there, back = (sitk.ReadImage(str(out / name)) for name in ("warp.nii.gz", "inverse_warp.nii.gz"))
    assert there.GetSize() == sitk.ReadImage(str(inputs["fixed"])).GetSize()
    assert back.GetSize() == sitk.ReadImage(str(inputs["moving"])).GetSize()


def test_the_other_way_round_is_the_other_map(foldless, pairs, tmp_path):
    """Registering B onto A writes, as its warp, what registering A onto B wrote as its inverse."""
    inputs = pairs[3]
    swapped = {**inputs, "moving": inputs["fixed"], "fixed": inputs["moving"]}
    swapped |= {"moving_labels": inputs["fixed_labels"], "fixed_labels": inputs["moving_labels"]}
    register(foldless, inputs, tmp_path / "ab")
    register(foldless, swapped, tmp_path / "ba")
    np.testing.assert_allclose(
        read(tmp_path / "ab/inverse_warp.nii.gz"), read(tmp_path / "ba/warp.nii.gz"), rtol=0, atol=1e-4
    )


def test_a_reflected_copy_is_registered_like_the_original(foldless, pairs, tmp_path):
    """Orientation is the header's business: the same image stored in another order gives the same result."""
    inputs = pairs[3]
    stored = sitk.PermuteAxes(sitk.Flip(sitk.ReadImage(str(inputs["moving"])), [True, False, True]), [2, 0, 1])
    other = tmp_path / "stored.nii.gz"
    sitk.WriteImage(stored, str(other))
    for name, moving in (("a", inputs["moving"]), ("b", other)):
        words = ("register", moving, inputs["fixed"], "--model", inputs["model"], "--output", tmp_path / name)
        assert foldless(*words)[0] == 0
    np.testing.assert_allclose(
        read(tmp_path / "a/warped.nii.gz"), read(tmp_path / "b/warped.nii.gz"), rtol=0, atol=1e-2
    )


def test_apply_refuses(foldless, pairs, tmp_path):
    inputs = pairs[2]
    register(foldless, inputs, tmp_path / "out")
    warp, there = tmp_path / "out/warp.nii.gz", tmp_path / "there.nii.gz"
    there.write_bytes(b"mine")
    for words, says in (
        ((warp, inputs["moving"], "--reference", inputs["fixed"], "--output", there), "--overwrite"),
        (
            (warp, inputs["moving"], "--reference", inputs["fixed"], "--output", warp, "--overwrite"),
            "one of the inputs",
        ),
        (
            (inputs["moving"], inputs["moving"], "--reference", inputs["fixed"], "--output", tmp_path / "x.mha"),
            "displacement",
        ),
        ((warp, inputs["moving"], "--reference", pairs[3]["fixed"], "--output", tmp_path / "x.mha"), "2-D"),
        (
            (warp, inputs["moving"], "--reference", inputs["fixed"], "--output", tmp_path / "x.abc"),
            "ends in .abc; give",
        ),
        (
            (warp, inputs["moving"], "--reference", inputs["fixed"], "--output", tmp_path / "no/x.abc"),
            "ends in .abc; give",
        ),
        ((warp, inputs["moving"], "--reference", inputs["fixed"], "--output", there / "x.mha"), "cannot be made"),
        ((warp, inputs["moving"], "--reference", inputs["fixed"], "--output", tmp_path / "x.png"), "float32"),
    ):
        before = sorted(tmp_path.rglob("*"))
        code, _, complained = foldless("apply", *words)
        assert code == 2
        assert says in complained
        assert complained.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
    assert there.read_bytes() == b"mine"


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("form", ["nii.gz", "h5"])
def test_a_thin_pair(foldless, pairs, tmp_path, slices, form):
    for seed in (1, 2):
        save_image(
            (blob((9, 16, 16), seed)[4 : 4 + slices] * 50.0).astype(np.float32), tmp_path / f"{seed}.nii.gz", (2, 2, 2)
        )
    words = ("register", tmp_path / "1.nii.gz", tmp_path / "2.nii.gz", "--model", pairs[3]["model"])
    code, _, complained = foldless(*words, "--output", tmp_path / "out", "--warp-format", form)
    assert (code, complained.count("slice"), complained.count("note:")) == (0, 4, 2)
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert ("folds_forward" in found) == (slices == 2)
