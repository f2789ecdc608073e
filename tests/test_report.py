"""The report: one file that needs nothing else, holds what it was given and says what was found."""

import base64
import gzip
import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from foldless.errors import InputError
from foldless.report import Pair, Table, judge, warped_grid_figure, write_comparison, write_report
from foldless.report.arrays import jacobian_determinant, views_of, window
from foldless.report.comparison import dots_of
from foldless.report.curves import MOST_POINTS, draw_curve
from foldless.report.verdict import format_number, judge_numbers, named, overall

METRICS: dict[str, Any] = {
    "dice_before": 0.5341,
    "dice": 0.8127,
    "dice_per_label": {1: 0.871, 17: 0.693},
    "folds_forward": 14,
    "folds_percent": {"forward": 0.0123, "central": 0.0045, "any_of_eight": 0.0567, "ten": 0.0611},
    "ndv_percent": 0.00231,
    "inverse_consistency_voxels": {"mean": 0.317, "p99": 1.93, "max": 4.62},
    "sdlogj": 0.2291,
    "sdlogj_learn2reg": 0.0617,
    "similarity_before": 0.4321,
    "similarity_after": 0.0813,
    "seconds": 12.7,
}
NO_FOLDS = dict.fromkeys(("forward", "central", "any_of_eight", "ten"), 0.0)


def a_pair(shape: tuple[int, ...] = (24, 32), **changes: Any) -> Pair:
    rng = np.random.default_rng(0)
    dim = len(shape)
    moving = ndimage.gaussian_filter(rng.standard_normal(shape), 2).astype(np.float32)
    displacement = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 3) for _ in shape]) * 8
    points = np.indices(shape) + displacement
    labels = np.digitize(moving, np.quantile(moving, [0.6, 0.9])) * 7
    pair = Pair(
        name="a pair",
        moving=moving,
        fixed=moving + 1,
        warped=ndimage.map_coordinates(moving, points, order=1, mode="nearest"),
        displacement_voxels=displacement,
        spacing=(1.0, 1.5, 2.0)[:dim],
        inverse_error=np.abs(displacement[0]),
        moving_labels=labels,
        fixed_labels=labels,
        warped_labels=np.roll(labels, 1, axis=0),
        metrics=METRICS,
    )
    return replace(pair, **changes)


def written(tmp_path: Path, *pairs: Pair, **more: Any) -> str:
    path = tmp_path / "new" / "report.html"
    write_report(path, more.pop("title", "A title"), pairs, more.pop("summary", {"Dice": 0.8127}), **more)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"], "no temporary file is left"
    return path.read_text(encoding="utf-8")


def content(page: str, identifier: str) -> str:
    found = re.search(rf'<script type="[^"]+" id="{identifier}">(.*?)</script>', page, re.DOTALL)
    assert found, f"the page has no {identifier}"
    return found[1]


def decoded(page: str, name: str, number: int = 0) -> np.ndarray:
    """The array as the viewer sees it, in units; shares no code with the writer."""
    spec = json.loads(content(page, f"head-{number}"))["arrays"][name]
    raw = np.frombuffer(gzip.decompress(base64.b64decode(content(page, f"data-{number}-{name}"))), np.uint8)
    if spec["dtype"] != "uint8":
        low, high = raw.reshape(2, -1)
        raw = (low.astype(np.uint16) | high.astype(np.uint16) << 8).view(spec["dtype"])
    codes = raw.reshape(spec["shape"])
    if spec["delta"]:
        codes = codes - codes.dtype.type(128 * (codes.dtype.itemsize == 2))
        codes = codes.cumsum(-1, dtype=codes.dtype).cumsum(-2, dtype=codes.dtype)
    return spec["low"] + spec["step"] * codes


@pytest.mark.parametrize("shape", [(24, 32), (10, 14, 18)])
def test_the_file_needs_nothing_else(tmp_path: Path, shape: tuple[int, ...]) -> None:
    page = written(tmp_path, a_pair(shape), history={"loss": [(0, 1.0), (1, 0.5)]}, command="foldless register a b")
    assert not re.search(
        r"(https?:)?//[a-z]", re.sub(r"<script type=\"text/plain\".*?</script>|base64,[^\"]*", "", page)
    )
    assert all(found.startswith("data:image/png;base64,") for found in re.findall(r'src="([^"]*)"', page))
    assert all(found.startswith("#") for found in re.findall(r'href="([^"]*)"', page))
    assert not re.search(r"@import|url\(|\bimport\s*\(|fetch\(|XMLHttpRequest", page)
    assert "default-src 'none'" in page


def test_the_page_holds_every_number(tmp_path: Path) -> None:
    page = written(tmp_path, a_pair(), summary={"pairs per second": 3.25, "device": "cpu"})
    for number in (
        *("0.534", "0.813", "0.871", "0.693", ">14<", "0.0123 %", "0.0045 %", "0.0567 %", "0.0611 %", "0.00231 %"),
        *("0.317 voxels", "1.93 voxels", "4.62 voxels", "0.2291", "0.0617", "0.4321", "0.0813", "12.7 s"),
        *("3.25", "cpu"),
    ):
        assert number in page, number


def test_other_numbers_are_listed_by_their_names(tmp_path: Path) -> None:
    page = written(tmp_path, a_pair(metrics={"landmark_error_mm": np.float32(2.5), "note": "left out"}))
    assert "landmark error mm" in page
    assert "left out" not in page


def test_text_is_escaped(tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script>&"
    page = written(
        tmp_path,
        a_pair(name=nasty, folded_rule=nasty),
        title=nasty,
        summary={nasty: nasty},
        history={nasty: [(0, 1.0)]},
        command=nasty,
        record={nasty: nasty},
        opening_lines=[nasty],
    )
    assert "<script>alert" not in page
    assert page.count(html.escape(nasty)) >= 7
    assert json.loads(content(page, "head-0"))["folded_rule"] == nasty


@pytest.mark.parametrize("shape", [(24, 32), (10, 14, 18)])
def test_the_viewer_gets_what_was_given(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pair = a_pair(shape)
    page = written(tmp_path, pair)
    head = json.loads(content(page, "head-0"))
    for name in ("moving", "fixed", "warped"):
        low, high = window(pair.fixed if name == "fixed" else pair.moving)
        half_a_grey = (high - low) / 255 * 0.501
        np.testing.assert_allclose(decoded(page, name), getattr(pair, name).clip(low, high), atol=half_a_grey)
    step = head["arrays"]["displacement"]["step"]
    assert step <= (1 / 16 if len(shape) == 3 else 1e-3)
    np.testing.assert_allclose(decoded(page, "displacement"), pair.displacement_voxels, atol=step * 0.501)
    error = pair.inverse_error
    assert error is not None
    limit = head["error_limit"]
    np.testing.assert_allclose(decoded(page, "inverse_error"), error.clip(0, limit), atol=limit / 255 * 0.501)
    for name in ("moving_labels", "fixed_labels", "warped_labels"):
        names = np.array(head["label_names"]).astype(int)
        np.testing.assert_array_equal(names[decoded(page, name).astype(int)], getattr(pair, name))


def test_many_labels_take_two_bytes(tmp_path: Path) -> None:
    labels = np.arange(24 * 32).reshape(24, 32) * 3 - 600
    page = written(tmp_path, a_pair(fixed_labels=labels))
    names = np.array(json.loads(content(page, "head-0"))["label_names"]).astype(int)
    assert names[0] == 0, "background comes first"
    np.testing.assert_array_equal(names[decoded(page, "fixed_labels").astype(int)], labels)


def test_the_log_jacobian_marks_the_folds(tmp_path: Path) -> None:
    displacement = np.zeros((2, 24, 32))
    displacement[1] = np.where(np.arange(32) < 16, 0.2, -3.0) * np.arange(32)
    displacement[1, :, 16:] = displacement[1, :, 15:16] - 0.3 * np.arange(16)
    displacement[1, 10:12, 20:23] = [6.0, 0.0, -6.0]
    determinant = jacobian_determinant(displacement)
    np.testing.assert_allclose(determinant[3, 4], 1.2)
    page = written(tmp_path, a_pair(displacement_voxels=displacement))
    spec = json.loads(content(page, "head-0"))["arrays"]["log_jacobian"]
    codes = np.rint((decoded(page, "log_jacobian") - spec["low"]) / spec["step"])
    assert (determinant <= 0).any()
    np.testing.assert_array_equal(codes == 255, determinant <= 0)
    np.testing.assert_allclose(decoded(page, "log_jacobian")[3, 4], np.log(1.2), atol=spec["step"] * 0.501)


def test_folds_as_given_win_over_the_determinant(tmp_path: Path) -> None:
    folded = np.zeros((24, 32), dtype=bool)
    folded[3, 5] = True
    page = written(tmp_path, a_pair(folded=folded, folded_rule="ten", determinant=np.ones((24, 32))))
    head = json.loads(content(page, "head-0"))
    spec = head["arrays"]["log_jacobian"]
    assert head["folded_rule"] == "ten"
    codes = np.rint((decoded(page, "log_jacobian") - spec["low"]) / spec["step"])
    assert codes[3, 5] == 255
    assert (codes == 127).sum() == codes.size - 1


@pytest.mark.parametrize("shape", [(24, 32), (10, 14, 18)])
def test_optional_parts_may_be_missing(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nothing: dict[str, Any] = dict.fromkeys(("inverse_error", "moving_labels", "fixed_labels", "warped_labels"))
    page = written(tmp_path, a_pair(shape, **nothing, metrics={}), summary={})
    assert "Nothing was judged" in page
    assert set(json.loads(content(page, "head-0"))["arrays"]) == {
        *("moving", "fixed", "warped", "displacement", "log_jacobian")
    }
    assert "NaN" not in content(page, "head-0")


def test_a_report_without_pairs_is_a_page(tmp_path: Path) -> None:
    page = written(tmp_path, history={"loss": [(0, 1.0), (10, float("nan")), (20, 0.5)]})
    assert "<script>" not in page
    assert 'd="M0.0 0.0M320.0 120.0"' in page, "a value that is not finite leaves a gap"


def test_the_moving_image_may_have_its_own_lattice(tmp_path: Path) -> None:
    moving = np.random.default_rng(0).random((12, 9, 20))
    pair = a_pair((10, 14, 18), moving=moving, moving_labels=(moving > 0.5).astype(np.int16))
    page = written(tmp_path, pair)
    assert json.loads(content(page, "head-0"))["moving_shape"] == [12, 9, 20]
    assert decoded(page, "moving").shape == moving.shape


def test_constant_images_and_numbers_that_are_none_are_drawn(tmp_path: Path) -> None:
    image = np.full((24, 32), 3)
    image_with_gap = np.where(np.arange(32) < 3, np.nan, 1.0) * np.ones((24, 1))
    displacement = np.zeros((2, 24, 32))
    displacement[0, 4, 5] = np.nan
    pair = a_pair(fixed=image, warped=image_with_gap, displacement_voxels=displacement, metrics={"dice": float("nan")})
    page = written(tmp_path, pair)
    assert "The displacement is not finite at 1 voxels" in page
    assert "not a number" in page


def test_all_pairs_are_in_the_table_and_the_first_few_in_the_viewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foldless.report.INTERACTIVE_3D", 2)
    monkeypatch.setattr("foldless.report.PICTURED", 4)
    dice = (0.1, 0.2, 0.3, 0.4, 0.5)
    page = written(tmp_path, *(a_pair((6, 7, 8), name=f"pair {d}", metrics={"dice": d}) for d in dice))
    assert all(f"pair {d}" in page for d in dice)
    assert len(re.findall(r'data-pair="\d"', page)) == 2
    assert len(re.findall(r'class="still"', page)) == 4
    assert (
        "2 of 5 pairs can be explored below, 2 more\nare shown as a still picture, the rest by their numbers only"
        in page
    )
    assert re.search(r"<tfoot>.*mean of all 5</th><td>0.300</td>", page)


def test_the_worst_pairs_come_first_and_every_judged_pair_counts(tmp_path: Path) -> None:
    drawn = [a_pair((6, 7, 8), name=f"d{d}", metrics={"dice": d, "dice_before": 0.3}) for d in (0.4, 0.2, float("nan"))]
    others = [("n0.1", {"dice": 0.1, "dice_before": 0.1}), ("n0.9", {"dice": 0.9, "dice_before": 0.2}), ("bare", {})]
    page = written(tmp_path, *drawn, others=others, summary={"Dice": 0.5975})
    table = re.findall(r"<tr><th scope=\"row\"><span.*?</tr>", page, re.DOTALL)
    order = [re.sub("<[^>]*>", " ", row).split()[0] for row in table]
    assert order == ["dnan", "n0.1", "d0.2", "d0.4", "n0.9", "bare"]
    assert re.findall(r'id="pair-(\d)">\s*<h2>(.*?)</h2>', page) == [("0", "dnan"), ("1", "d0.2"), ("2", "d0.4")]
    assert "mean of all 6" in page
    assert "Dice is lower than without registration in 2 of 5 pairs: dnan, d0.2." in page
    assert "<dd>0.598</dd>" in page or "<dd>0.597</dd>" in page, "the tile is rounded as the table is"
    assert "6 pairs: 2 passed every check, 3 failed a check, 1 not judged" in page
    assert "none of 1 pairs" in written(tmp_path, a_pair(), others=[("bare", {})])


def test_pairs_of_both_dimensions_share_a_page(tmp_path: Path) -> None:
    page = written(tmp_path, a_pair(), a_pair((6, 7, 8)))
    assert [len(json.loads(content(page, f"head-{k}"))["views"]) for k in (0, 1)] == [1, 3]


def test_a_volume_stays_small(tmp_path: Path) -> None:
    labels: dict[str, Any] = dict.fromkeys(("moving_labels", "fixed_labels", "warped_labels"))
    page = written(tmp_path, a_pair((99, 117, 95), **labels))
    assert len(page) < 7_500_000  # noise all over, the worst case; a skull-stripped brain is half as long


def test_a_real_pair_stays_small(tmp_path: Path, real_data: Path) -> None:
    import nibabel

    folder = real_data / "brains" / "affine2mm"
    moving, fixed = (
        np.asarray(nibabel.load(folder / f"{k}_t1.nii.gz").dataobj, dtype=np.float32).T for k in ("1000", "1001")
    )
    rng = np.random.default_rng(0)
    displacement = np.stack([ndimage.gaussian_filter(rng.standard_normal(fixed.shape), 8) for _ in range(3)]) * 200
    pair = Pair("real", moving, fixed, moving, displacement, (2.0, 2.0, 2.0), orientation="SAR")
    assert len(written(tmp_path, pair)) < 3_000_000


def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(InputError, match="disk is full"):
        written(tmp_path, title="Another")
    path = tmp_path / "new" / "report.html"
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_slices_have_anterior_and_superior_up_however_they_are_stored() -> None:
    lps = np.random.default_rng(0).random((3, 4, 5))  # (z, y, x): towards superior, posterior, left
    axial, coronal, sagittal = views_of(3, "SPL")
    np.testing.assert_array_equal(axial.cut(lps, 1), lps[1])
    np.testing.assert_array_equal(coronal.cut(lps, 2), lps[::-1, 2, :])
    np.testing.assert_array_equal(sagittal.cut(lps, 3), lps[::-1, :, 3])
    assert [view.letters for view in (axial, coronal, sagittal)] == [tuple("RLAP"), tuple("RLSI"), tuple("APSI")]
    ras = lps[:, ::-1, ::-1].T  # (x, y, z): towards right, anterior, superior
    stored = views_of(3, "RAS")
    np.testing.assert_array_equal(stored[0].cut(ras, 1), axial.cut(lps, 1))
    np.testing.assert_array_equal(stored[1].cut(ras, 4 - 1 - 2), coronal.cut(lps, 2))
    np.testing.assert_array_equal(stored[2].cut(ras, 5 - 1 - 3), sagittal.cut(lps, 3))
    assert [view.letters for view in stored] == [view.letters for view in views_of(3, "SPL")]
    assert all(view.letters == ("", "", "", "") for view in views_of(3))
    assert views_of(2, "PL")[0].letters == tuple("RLAP")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warped": np.zeros((24, 31))}, "warped must have the shape"),
        ({"displacement_voxels": np.zeros((24, 32, 2))}, "displacement_voxels must have the shape"),
        ({"moving_labels": np.zeros((2, 2), int)}, "moving_labels must have the shape"),
        ({"moving": np.zeros((2, 2, 2)), "moving_labels": None}, "fixed is 2-D but moving"),
        ({"spacing": (1.0,)}, "spacing must be 2 positive numbers"),
        ({"spacing": (1.0, 0.0)}, "spacing must be 2 positive numbers"),
        ({"orientation": "SPL"}, "orientation needs one letter"),
        ({"fixed": np.zeros(5)}, "2-D and 3-D"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_pair(**change)


@pytest.mark.parametrize("orientation", ["SPP", "XYZ", "SP"])
def test_an_orientation_names_three_directions(orientation: str) -> None:
    with pytest.raises(ValueError, match="one letter of"):
        a_pair((6, 7, 8), orientation=orientation)


@pytest.mark.parametrize(
    ("metrics", "level", "text"),
    [
        ({"folds_percent": NO_FOLDS}, "good", "No folds by any rule"),
        ({"folds_percent": {"ten": 0.0}}, "good", "No folds by the rule ten"),
        ({"folds_percent": {"forward": 0.0, "ten": 0.0}}, "good", "No folds by the rules forward, ten"),
        ({"folds_percent": {**NO_FOLDS, "ten": 0.02}}, "care", "Folds: 0.02 % of voxels (rule: ten)"),
        ({"folds_percent": {**NO_FOLDS, "any_of_eight": 0.2, "ten": 0.1}}, "bad", "(rule: any_of_eight)"),
        ({"inverse_consistency_voxels": {"mean": 0.5}}, "good", "Inverse consistency within ½ voxel on average (0.5"),
        ({"inverse_consistency_voxels": {"mean": 0.7}}, "care", "only within one voxel"),
        ({"inverse_consistency_voxels": {"mean": 1.2}}, "bad", "Not inverse consistent"),
        ({"inverse_consistency_voxels": {"mean": float("nan")}}, "bad", "not a number"),
        ({"dice": 0.8, "dice_before": 0.5}, "good", "Dice rose from 0.500 to 0.800"),
        ({"dice": 0.5, "dice_before": 0.8}, "bad", "Dice did not rise"),
        ({"similarity_before": 0.1, "similarity_after": 0.2}, "bad", "did not become more alike"),
    ],
)
def test_the_verdict(metrics: dict[str, Any], level: str, text: str) -> None:
    (finding,) = judge(a_pair(metrics=metrics, inverse_error=None))
    assert finding.level == level
    assert text in finding.text
    assert finding.threshold


def test_without_numbers_the_verdict_reads_the_maps() -> None:
    folded = np.zeros((24, 32), dtype=bool)
    folded[0, :24] = True
    findings = judge(a_pair(metrics={}, folded=folded, folded_rule="forward", inverse_error=np.full((24, 32), 0.25)))
    assert [f.text for f in findings] == [
        "Folds: 3.125 % of voxels (rule: forward)",
        "Inverse consistency within ½ voxel on average (0.25 voxels)",
    ]


def test_the_verdict_on_many_pairs_is_that_on_the_worst() -> None:
    good, bad = (
        judge(a_pair(metrics=m, inverse_error=None))
        for m in ({"folds_percent": NO_FOLDS}, {"folds_percent": {"ten": 9}})
    )
    assert overall([good]) == ("good", "Pass: every check")
    assert overall([good, bad, good, []]) == ("bad", "4 pairs: 2 passed every check, 1 failed a check, 1 not judged")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((0.0, "0"), (3, "3"), (-0.5, "−0.5"), (0.53412, "0.5341"), (0.0000312, "0.0000312"), (1234.56, "1234.6")),
        *((1e-9, "1.00e-09"), (float("inf"), "∞"), (float("nan"), "not a number"), ("cpu", "cpu"), (12.0, "12")),
    ],
)
def test_numbers_for_people(number: float | str, text: str) -> None:
    assert format_number(number) == text


def test_long_curves_keep_their_extremes() -> None:
    points = [(step, 1.0 + (step == 1234) * 5) for step in range(20_000)]
    curve = draw_curve("loss", points)
    assert curve is not None
    assert curve.high == "6"
    assert 1 < len(re.findall("[ML]", curve.path)) <= MOST_POINTS
    assert re.search(r" 0\.0[L$]", curve.path), "the spike reaches the top"


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_the_grid_for_papers(tmp_path: Path, suffix: str) -> None:
    pair = a_pair()
    path = tmp_path / f"grid.{suffix}"
    warped_grid_figure(pair.displacement_voxels, (1.0, 1.5), path, image=pair.warped)
    start = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[suffix]
    assert path.read_bytes().startswith(start)


def test_the_grid_follows_the_warped_image(tmp_path: Path) -> None:
    """A line of the moving image at row 8 lies where the grid's line of row 8 is drawn."""
    displacement = np.zeros((2, 40, 40))
    displacement[0] = 3 * np.sin(np.arange(40) / 6)
    moving = np.zeros((40, 40))
    moving[8] = 1.0
    warped = ndimage.map_coordinates(moving, np.indices((40, 40)) + displacement, order=1)
    path = tmp_path / "grid.png"
    warped_grid_figure(displacement, (1.0, 1.0), path, every=8, colour="red", width_inches=2.0)
    from matplotlib.image import imread

    picture = imread(path)
    red = (picture[..., 0] > 0.8) & (picture[..., 1] < 0.4)
    pixels = picture.shape[0] / 40
    column = 20  # between lines of columns, which are vertical at multiples of 8
    rows = np.flatnonzero(red[:, round((column + 0.5) * pixels)]) / pixels - 0.5
    expected = np.argmax(warped[:, column])
    assert np.abs(rows - expected).min() < 0.6


# The comparison of methods


def test_dots_lie_where_their_numbers_are() -> None:
    dots = dots_of({"one": {"front": 0.31, "back": 0.55}, "other": {"back": 0.5}})
    assert dots is not None
    assert [text for _, text in dots.ticks] == ["0.3", "0.4", "0.5", "0.6"]
    left, right = dots.ticks[0][0], dots.ticks[-1][0]
    found = {text: (left_of - left) / (right - left) for _, _, some in dots.rows for left_of, _, _, text in some}
    assert found == pytest.approx({"front, one: 0.310": 1 / 30, "back, one: 0.550": 5 / 6, "back, other: 0.500": 2 / 3})
    assert [name for name, _, _ in dots.rows] == ["front", "back"]
    assert dots_of({"one": {}}) is None
    assert dots_of({"one": {"all": 1.0}}) is not None


def test_a_comparison_is_one_page_that_says_everything(tmp_path: Path) -> None:
    tables = [
        Table("Scores", ["method", "Dice"], [["<one>", "0.5"]], "a note"),
        Table("Tests", ["methods"], [["1 - 2"]]),
    ]
    for dice in ({}, {"<one>": {"a & b": 0.4}}):
        write_comparison(tmp_path / "page.html", "Methods", tables, dice, {"command": "crossvalidate"})
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        for text in ("&lt;one&gt;", "0.5", "a note", "1 - 2", "crossvalidate", "Methods"):
            assert text in page
        assert ("a &amp; b, &lt;one&gt;: 0.400" in page) == bool(dice)
        assert "<one>" not in page
        assert "NaN" not in page


POSE = {
    **{"degrees": 90.0, "shift_mm": 12.0, "volume": 1.0, "score": 0.2, "start": 0.01, "chance": 0.05},
    **{"clear": 4.0, "mirrored": 0.7, "runner_up": 0.3, "overlap": 0.9},
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "Pass: every check"),
        ({"clear": 2.5}, "Look: It is not clear that the images are laid on each other: turned by 90.0° and shifted"),
        ({"clear": 1.2}, "Fail: No pose was found that lays the images on each other"),
        ({"mirrored": 1.4}, "Fail: The moving image may be mirrored: so it says 1.40 times as much"),
        ({"runner_up": 0.9}, "Look: Another pose is nearly as likely: it says 90% as much"),
        ({"overlap": 0.1}, "Look: The images have little in common: 10% of the smaller field of view"),
        ({"overlap": 0.1, "clear": 1.0}, "Fail: No pose was found"),
        ({"overlap": 0.1, "clear": 0.0, "mirrored": 0.0}, "Look: The images have little in common"),
    ],
)
def test_the_reason_comes_first(change, sentence) -> None:
    level, said = overall([judge_numbers({"pose": POSE | change})])
    assert said.startswith(sentence)
    assert named(level).capitalize() == said.split(":")[0]
