"""Landmarks that `register` is given: how far they miss before and after, and that they draw if they are asked to."""

import csv
import json
import re

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from samples import run_folder, save_image

from foldless.direct import Direct, register_directly
from foldless.errors import InputError
from foldless.io import read_volume
from foldless.io.landmarks import LandmarkPairs, read_landmarks
from foldless.pose import Pose

SHAPE, PUT = (44, 40), {"spacing": (1.0, 1.5), "Origin": (112.0, -130.0), "Direction": (-1.0, 0.0, 0.0, 1.0)}
MOVED = np.array([3.0, -2.0])
"""Voxels x, y that the moving image's anatomy lies off."""
QUICK = ("--aligned", "--steps", "10", "6")


def disc(centre):
    y, x = np.indices(SHAPE)
    return (80 / (1 + np.exp(np.hypot(x - centre[0], y - centre[1]) - 9))).astype(np.float32)


def write_points(path, points):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["", "X", "Y"], *([k, *point] for k, point in enumerate(points))])
    return path


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A pair, and the files of the same landmarks in every space."""
    folder = tmp_path_factory.mktemp("landmarks")
    centre = np.array([20.0, 22.0])
    turns = np.linspace(0, 2 * np.pi, 9)[:-1]
    fixed = centre + 9 * np.stack([np.cos(turns), np.sin(turns)], 1)
    found = {"moving": (disc(centre + MOVED), fixed + MOVED), "fixed": (disc(centre), fixed)}
    files = {}
    for role, (image, voxels) in found.items():
        files[role] = save_image(image, folder / f"{role}.nii.gz", **PUT)
        header = sitk.ReadImage(str(files[role]))
        lps = np.array([header.TransformContinuousIndexToPhysicalPoint(point.tolist()) for point in voxels])
        for space, points in (("voxels", voxels), ("lps", lps), ("ras", -lps)):
            files[role, space] = write_points(folder / f"{role}_{space}.csv", points)
        files[role, "mm"] = lps
    return files


def register(foldless, scans, output, space, *more):
    return foldless(
        "register", scans["moving"], scans["fixed"], "--output", output, "--moving-landmarks", scans["moving", space],
        "--fixed-landmarks", scans["fixed", space], "--landmark-space", space, *more,
    )  # fmt: skip


def metrics_in(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("space", ["voxels", "lps", "ras"])
def test_the_error_is_what_sitk_finds_in_the_written_warp(foldless, scans, tmp_path, space):
    code, said, _ = register(foldless, scans, tmp_path / "out", space, *QUICK)
    assert code == 0
    warp = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "out/warp.nii.gz"), sitk.sitkVectorFloat64))
    carried = np.array([warp.TransformPoint(point.tolist()) for point in scans["fixed", "mm"]])
    missed = np.linalg.norm(carried - scans["moving", "mm"], axis=1)
    scores = metrics_in(tmp_path / "out")
    # at the header's own precision, float32
    assert scores["tre_mm"]["mean"] == pytest.approx(missed.mean(), abs=1e-4)
    assert scores["tre_mm"]["max"] == pytest.approx(missed.max(), abs=1e-4)
    assert scores["tre_mm_before"]["mean"] == pytest.approx(np.linalg.norm(MOVED * PUT["spacing"]), abs=1e-4)
    assert scores["tre_mm"]["mean"] < scores["tre_mm_before"]["mean"]
    assert "tre_mm mean ↓" in said
    page = (tmp_path / "out/report.html").read_text()
    assert "Landmarks came closer" in page
    assert "Landmark error (TRE), mean" in page
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert {str(scans["moving", space]), str(scans["fixed", space])} <= set(record["data_sha256"])


def test_landmarks_draw_where_intensities_do_not(foldless, scans, tmp_path):
    image = np.zeros(SHAPE, np.float32)
    image[20:22, 18:20] = 1
    alike = save_image(image, tmp_path / "alike.nii.gz", **PUT)
    scans = {**scans, "moving": alike, "fixed": alike}
    assert register(foldless, scans, tmp_path / "out", "voxels", *QUICK, "--landmark-weight", "100")[0] == 0
    scores = metrics_in(tmp_path / "out")
    assert scores["tre_mm"]["mean"] < 0.5 * scores["tre_mm_before"]["mean"]
    assert scores["certificate"]["proven"] == 1


def test_landmarks_draw_after_a_pose_too(foldless, scans, tmp_path):
    """These lie two millimetres from where the images say."""
    scans = {**scans, ("moving", "lps"): write_points(tmp_path / "off.csv", scans["moving", "mm"] + [2.0, 0.0])}
    errors = []
    for weight in ((), ("--landmark-weight", "100")):
        out = tmp_path / f"out{len(weight)}"
        assert register(foldless, scans, out, "lps", "--placement", "world", "--steps", "6", *weight)[0] == 0
        errors.append(metrics_in(out)["tre_mm"]["mean"])
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("space", "change", "words", "sentence"),
    [
        ("lps", {"fixed": None}, (), "landmarks come in pairs: give both --moving-landmarks and --fixed-landmarks"),
        ("lps", {"fixed": "x,y\n100,-120\n"}, (), "holds 8 points and .* 1; expected as many in both"),
        ("lps", {"fixed": "x,y,z\n1,2,3\n"}, (), "holds 3-D points, its image is 2-D"),
        ("ras", {}, ("--landmark-space", "lps"), "points lie farther from their image than half its extent"),
        ("lps", {"fixed": "x,y\n100,-120\n"}, ("--gain", "1"), "--gain is a share of the score"),
        ("lps", {}, ("--landmark-weight", "-1"), "--landmark-weight is in voxels, above 0 and finite; got -1"),
        ("lps", {}, ("--landmark-weight", "9", "--optimiser", "adam"), "--landmark-weight is for --optimiser forces"),
        ("lps", {}, ("--landmark-weight", "9", "--transform", "rigid"), "--landmark-weight is for deforming"),
        ("lps", {}, ("--landmark-weight", "9", "--model", "RUN"), "--landmark-weight is for finding a map without"),
    ],
)
def test_refused(foldless, scans, tmp_path, space, change, words, sentence):
    files = {role: scans[role, space] for role in ("moving", "fixed")}
    for role, text in change.items():
        files[role] = text and tmp_path / f"{role}.csv"
        if text:
            files[role].write_text(text)
    if "RUN" in words:
        words = (*words[:-1], run_folder(tmp_path / "run", 2))
    given = [word for role, file in files.items() if file for word in (f"--{role}-landmarks", file)]
    out = tmp_path / "out"
    code, _, complained = foldless("register", scans["moving"], scans["fixed"], "--output", out, *given, *words)
    assert code == 2
    assert re.search(sentence, complained), complained
    assert not out.exists()


def test_points_outside_their_image_are_told_of(scans, tmp_path):
    points = scans["fixed", "mm"].copy()
    points[0] += [30.0, 0.0]
    lattices = [read_volume(scans[role]).geometry for role in ("moving", "fixed")]
    with pytest.warns(UserWarning, match="1 of 8 points lie outside their image"):
        read_landmarks(scans["moving", "lps"], write_points(tmp_path / "outside.csv", points), *lattices)


def test_nothing_is_drawn_out_of_the_plane_of_one_slice(tmp_path):
    """Though landmarks lie beside it by different lengths."""
    image = disc((20.0, 22.0))[None]
    moving, fixed = (
        read_volume(save_image(image, tmp_path / f"{name}.nii.gz", spacing=(1.0, 1.0, 5.0))) for name in "ab"
    )
    places = np.array([[12.0, 14.0, 0.0], [25.0, 20.0, 0.0], [20.0, 30.0, 0.0]])
    marks = LandmarkPairs(places + np.array([1.0, -1.0, 2.0]), places)
    here = Pose.laying(fixed.geometry.centre, fixed.geometry.centre)
    direct = Direct.of_pair(moving, fixed, here, landmark_weight=100.0, steps=(6, 4), levels=(2, 1))
    fields = register_directly(direct, moving, fixed, landmarks=marks)
    assert np.abs(fields.forward[..., 2]).max() == 0
    assert np.abs(fields.forward[..., :2]).max() > 0.3


def test_adam_refuses_landmarks(tmp_path):
    one = read_volume(save_image(disc((20.0, 22.0)), tmp_path / "a.nii.gz"))
    with pytest.raises(InputError, match="Adam takes no landmarks"):
        Direct.of_pair(one, one, optimiser="adam", landmark_weight=1.0)


@pytest.mark.parametrize("option", [("--landmark-weight", "9"), ("--landmark-space", "ras")])
def test_options_of_landmarks_without_any(foldless, scans, tmp_path, option):
    words = ("register", scans["moving"], scans["fixed"], "--output", tmp_path / "out", *option)
    code, _, complained = foldless(*words)
    assert (code, f"{option[0]} is of landmarks; add --moving-landmarks" in complained) == (2, True)


@pytest.mark.parametrize(
    ("space", "says"),
    [("ras", "says itself what its points are"), ("voxels", "only points of a .csv are taken as voxels")],
)
def test_files_that_say_their_space_are_not_told_another(foldless, scans, tmp_path, space, says):
    marks = tmp_path / "marks.fcsv"
    marks.write_text("# CoordinateSystem = LPS\n1,100,-120,0\n")
    files = ("--moving-landmarks", marks, "--fixed-landmarks", marks, "--landmark-space", space)
    code, _, complained = foldless("register", scans["moving"], scans["fixed"], "--output", tmp_path / "out", *files)
    assert (code, says in complained) == (2, True)
