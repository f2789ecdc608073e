"""`foldless evaluate`: many pairs, the same numbers as `register` one by one."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from samples import PREPARED, SMALL, blob, lively_model, run_folder, save_cases, save_image

from foldless.data.folder import case_names
from foldless.data.images import ordered_pairs
from foldless.data.prepare import Preparation
from foldless.errors import InputError
from foldless.evaluation import Judged, drawing_worst, flat, folder_pairs, mean_scores, worst_first

ROUNDED = 1e-5  # evaluate keeps what register writes and reads again: headers are float32


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    save_cases(folder / "data", 5, (14, 15, 13))
    run_folder(folder / "run", 3)
    return folder


def evaluate(foldless, cohort, output, *more):
    return foldless("evaluate", "--model", cohort / "run", "--data", cohort / "data", "--output", output, *more)


def pairs_file(path, *pairs, header="moving,fixed"):
    path.write_text("\n".join([header, *(",".join(pair) for pair in pairs)]) + "\n")
    return path


def assert_close(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for name in one.keys() - {"seconds"}:
        assert one[name] == pytest.approx(other[name], rel=ROUNDED, abs=ROUNDED), name


def test_numbers_are_those_of_register(foldless, cohort, tmp_path):
    chosen = [("case_1", "case_4"), ("case_4", "case_1"), ("case_3", "case_2")]
    file = pairs_file(tmp_path / "pairs.csv", *chosen)
    code, said, complained = evaluate(foldless, cohort, tmp_path / "out", "--pairs", file)
    assert (code, complained) == (0, "")
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    assert [(row.pop("moving"), row.pop("fixed")) for row in content["pairs"]] == chosen
    images, labels = cohort / "data/images", cohort / "data/labels"
    for (moving, fixed), scores in zip(chosen, content["pairs"], strict=True):
        moving, fixed, single = f"{moving}.nii.gz", f"{fixed}.nii.gz", tmp_path / f"{moving}-{fixed}"
        words = ("--moving-labels", labels / moving, "--fixed-labels", labels / fixed)
        foldless("register", images / moving, images / fixed, "--model", cohort / "run", "--output", single, *words)
        assert_close(scores, json.loads((single / "metrics.json").read_text()))
    assert "case_1 → case_4" in said


def test_means_table_and_record(foldless, cohort, tmp_path):
    code, said, _ = evaluate(foldless, cohort, tmp_path / "out")
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "metrics.json", "pairs.csv", "run.json", "report.html",
    }  # fmt: skip
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    assert set(content) == {"mean", "pairs"}
    assert [(row["moving"], row["fixed"]) for row in content["pairs"]] == [
        (f"case_{i + 1}", f"case_{j + 1}") for i, j in ordered_pairs(5, 100)
    ]
    with (tmp_path / "out/pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(content["pairs"]) == 20
    for name, value in flat(content["mean"]).items():
        assert value == pytest.approx(np.mean([float(row[name]) for row in rows])), name
    assert {"dice", "dice_before", "folds_forward", "ndv_percent", "sdlogj", "similarity_after"} <= set(rows[0])
    assert "… and 8 more in pairs.csv" in said
    assert all(len(line) <= 80 for line in said.splitlines() if "│" in line)
    assert len(json.loads((tmp_path / "out/run.json").read_text())["data_sha256"]) == 1


def test_the_worst_pairs_are_drawn_and_the_mean_is_of_all(foldless, cohort, tmp_path):
    code, said, _ = evaluate(foldless, cohort, tmp_path / "out")
    assert code == 0
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    names = {f"{row['moving']} → {row['fixed']}": row for row in content["pairs"]}
    worst = sorted(names, key=lambda name: names[name]["dice"])
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2>(case.*?)</h2>", page) == worst[:3]
    mean = f"{content['mean']['dice']:.3f}"
    assert re.search(rf"<dt>Dice</dt><dd>{mean}</dd>", page)
    assert re.search(rf"mean of all 20</th><td>[^<]*</td><td>{mean}</td>", page)
    assert [line.split(" │")[0].strip() for line in said.splitlines() if line.startswith("case")] == worst[:12]
    lost = [name for name in worst if names[name]["dice"] < names[name]["dice_before"]]
    sentence = f"Dice is lower than without registration in {len(lost) or 'none'} of 20 pairs"
    assert sentence in " ".join(page.split())
    assert sentence.replace("none", "0") in said
    assert all(name in said.split(sentence.replace("none", "0"))[1] for name in lost[:12])


def test_pairs_without_labels_come_last_and_numbers_that_are_none_first():
    def judged(name, **scores):
        return Judged(name, "b", scores, lambda: pytest.fail("nothing is drawn before all are judged"))

    pairs = [
        *(judged("alike", similarity_after=0.1), judged("good", dice=0.9), judged("unlike", similarity_after=0.7)),
        *(judged("broken", dice=float("nan")), judged("poor", dice=0.1)),
    ]
    assert [pair.moving for pair in worst_first(pairs)] == ["broken", "poor", "good", "unlike", "alike"]
    told = []
    kept = drawing_worst(pairs, 2, told.append)
    assert told == pairs
    assert [(pair.moving, pair.draw is not None) for pair in kept] == [
        *(("alike", False), ("good", False), ("unlike", False), ("broken", True), ("poor", True))
    ]


def test_a_wide_table_in_a_narrow_terminal(foldless, cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "46")
    _, said, _ = evaluate(foldless, cohort, tmp_path / "out")
    rows = [line for line in said.splitlines() if "→" in line and ("│" in line or "┃" in line)]
    assert len(rows) == 13, "a line a pair, and the head"
    assert all(len(line) <= 46 for line in rows)
    assert any("…" in line for line in rows)


def test_generated_images(foldless, tmp_path):
    run_folder(tmp_path / "run", 2)
    words = ("evaluate", "--model", tmp_path / "run", "--data", "shapes", "--output", tmp_path / "out")
    code, _, complained = foldless(*words)
    assert (code, complained) == (0, "")
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    assert len(content["pairs"]) == 100
    assert content["pairs"][0]["moving"].startswith("test-")
    assert {"dice", "dice_before", "inverse_consistency_voxels", "similarity_before"} <= set(content["mean"])


def test_which_pairs(tmp_path):
    save_cases(tmp_path, 7, (8, 8))
    model = replace(lively_model(2), trained_on=("case_1", "case_2", "case_3", "case_4"))
    assert {name for pair in folder_pairs(model, tmp_path, None) for name in pair} == {"case_5", "case_6", "case_7"}
    everything = replace(model, trained_on=tuple(case_names(tmp_path)))
    with pytest.warns(UserWarning, match="7 of the 7 cases to judge by were seen in training"):
        assert len(folder_pairs(everything, tmp_path, None)) == 42
    (tmp_path / "split.json").write_text('{"train": ["case_1", "case_2"], "test": ["case_3", "case_6"]}')
    with pytest.warns(UserWarning, match="1 of the 2 cases"):
        assert set(folder_pairs(model, tmp_path, None)) == {("case_3", "case_6"), ("case_6", "case_3")}
    spreadsheet = tmp_path / "pairs.csv"
    spreadsheet.write_bytes("\ufefffixed,moving\r\ncase_1,case_7\r\n".encode())
    assert folder_pairs(model, tmp_path, spreadsheet) == [("case_7", "case_1")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "first line"),
        (b"a,b\n1,2\n", "first line"),
        (b"moving,fixed\n", "0 rows"),
        (b"moving,fixed\ncase_1,case_99\n", "case_99"),
        (b"moving,fixed\ncase_1\n", "no such case"),
        (b"\x89PNG\r\n\xff\xfe", "CSV"),
    ],
)
def test_malformed_pairs(foldless, cohort, tmp_path, content, says):
    (tmp_path / "pairs.csv").write_bytes(content)
    code, _, complained = evaluate(foldless, cohort, tmp_path / "out", "--pairs", tmp_path / "pairs.csv")
    assert code == 2
    assert says in complained
    assert complained.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_broken_case_is_known_before_computing(foldless, cohort, tmp_path, monkeypatch):
    import foldless.registering as registering

    save_cases(tmp_path / "data", 4, (14, 14, 14))
    (tmp_path / "data/images/case_4.nii.gz").write_bytes(b"broken")
    monkeypatch.setattr(registering, "predict", lambda *_: pytest.fail("computing began"))
    words = ("evaluate", "--model", cohort / "run", "--data", tmp_path / "data", "--output", tmp_path / "out")
    code, _, complained = foldless(*words)
    assert code == 2
    assert "case_4.nii.gz" in complained
    assert not (tmp_path / "out").exists()


def test_missing_scores_do_not_count():
    means = mean_scores([{"dice": 0.5, "n": {"a": 1.0}}, {"n": {"a": 3.0, "b": 2}}, {"dice": None, "n": {}}])
    assert means == {"dice": 0.5, "n": {"a": 2.0, "b": 2.0}}
    assert mean_scores([{"dice": None}]) == {"dice": None}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_not_left_out_of_the_mean(wrong):
    mean = mean_scores([{"n": {"a": 1.0}}, {"n": {"a": wrong}}])["n"]["a"]
    assert mean == wrong or (mean != mean and wrong != wrong)


def test_a_model_for_another_lattice(foldless, tmp_path):
    lively_model(2, SMALL, replace(PREPARED[2], lattice=(16, 20))).save(tmp_path / "m.safetensors")
    words = ("evaluate", "--model", tmp_path / "m.safetensors", "--data", "shapes", "--output", tmp_path / "out")
    code, _, complained = foldless(*words)
    assert code == 2
    assert "(16, 20)" in complained


@pytest.mark.parametrize("trouble", ["a header", "apart"])
def test_headers_are_judged_before_computing(foldless, tmp_path, monkeypatch, trouble):
    import foldless.evaluation as evaluation
    import foldless.registering as registering

    world = Preparation((16, 16, 16), (1.0, 1.0, 1.0), "world", (0.0, 0.0, 0.0))
    (tmp_path / "run").mkdir()
    lively_model(3, preparation=world).save(tmp_path / "run/best.safetensors")
    save_cases(tmp_path / "data", 3, (14, 14, 14))
    if trouble == "apart":
        labels = blob((14, 14, 14), 3)
        save_image(labels.astype(np.float32), tmp_path / "data/images/case_3.nii.gz", Origin=(500.0, 0.0, 0.0))
        (tmp_path / "data/labels/case_3.nii.gz").unlink()
    else:

        def refuse(volume):
            raise InputError(f"{volume.path}: no order of its axes gives a right-handed direction")

        monkeypatch.setattr(evaluation, "reoriented", refuse)
    monkeypatch.setattr(registering, "predict", lambda *_: pytest.fail("computing began"))
    words = ("evaluate", "--model", tmp_path / "run", "--data", tmp_path / "data", "--output", tmp_path / "out")
    code, _, complained = foldless(*words)
    assert code == 2
    assert ("do not overlap" if trouble == "apart" else "right-handed") in complained
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("default:.*lacks:UserWarning")
def test_cases_without_labels_are_named(foldless, cohort, tmp_path):
    shutil.copytree(cohort / "data", tmp_path / "data")
    (tmp_path / "data/labels/case_2.nii.gz").unlink()
    shutil.copytree(cohort / "run", tmp_path / "run")
    file = pairs_file(tmp_path / "pairs.csv", ("case_1", "case_2"), ("case_1", "case_3"))
    code, _, complained = evaluate(foldless, tmp_path, tmp_path / "out", "--pairs", file)
    assert code == 0
    assert "lacks 1 of 3 cases (case_2)" in " ".join(complained.split())
    dice = [row.get("dice") for row in json.loads((tmp_path / "out/metrics.json").read_text())["pairs"]]
    assert dice[0] is None
    assert 0 < dice[1] < 1
