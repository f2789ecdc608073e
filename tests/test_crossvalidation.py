"""Cross-validation: who trains and who judges, going on after a kill, and numbers that numpy and scipy agree with."""

import json
import re
import shutil

import numpy as np
import pytest
import scipy.stats
import torch
from samples import save_case, save_cases

from foldless.crossvalidation import (
    compared,
    dice_by_region,
    folds_of,
    lost_dice,
    read_groups,
    read_regions,
    summarised,
    with_regions,
)
from foldless.errors import InputError
from foldless.model import Model

CASES = [f"case_{k}" for k in range(1, 7)]
QUICK = ("--steps", 2, "--batch", 1, "--precision", "float32", "--methods", "baseline", "refinement")
TRAINED = [(fold, method) for fold in "ab" for method in ("baseline", "refinement")]


def groups_file(path, groups=("a", "a", "b", "b", "c", "c")):
    rows = [f"{case},{group}" for case, group in zip(CASES, groups, strict=True)]
    path.write_text("\n".join(["case,group", *rows]) + "\n")
    return path


def rows_of(*scores):
    return [
        {"moving": f"m{k}", "fixed": f"f{k}", "dice": s, "folds_percent": {"forward": 1 - s}}
        for k, s in enumerate(scores)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four cases in two groups."""
    folder = save_cases(tmp_path_factory.mktemp("cross") / "data", 4, (16, 16))
    (folder / "groups.csv").write_text("case,group\ncase_1,a\ncase_2,b\ncase_3,b\ncase_4,a\n")
    return folder


# Folds


def test_every_group_judges_once_and_never_trains_for_itself(tmp_path):
    folds = folds_of(read_groups(groups_file(tmp_path / "groups.csv"), CASES))
    assert [fold.name for fold in folds] == ["a", "b", "c"]
    assert [case for fold in folds for case in fold.test] == CASES
    assert all(
        set(fold.train) | set(fold.test) == set(CASES) and not set(fold.train) & set(fold.test) for fold in folds
    )


def test_kuangs_three_subsets():
    """1722 training pairs and 380 to judge by, or 1560 and 462."""
    sizes = {"NKI-RS-22": 22, "NKI-TRT-20": 20, "OASIS-TRT-20": 20}
    folds = folds_of({f"{name}-{k}": name for name, size in sizes.items() for k in range(size)})
    pairs = {f.name: (len(f.train) * (len(f.train) - 1), len(f.test) * (len(f.test) - 1)) for f in folds}
    assert pairs == {"NKI-RS-22": (1560, 462), "NKI-TRT-20": (1722, 380), "OASIS-TRT-20": (1722, 380)}


@pytest.mark.parametrize("groups", [("a",) * 6, ("a", "a", "a", "a", "a", "b"), ("a", "b", "b", "b", "b", "b")])
def test_groups_that_cannot_judge(tmp_path, groups):
    with pytest.raises(InputError):
        folds_of(read_groups(groups_file(tmp_path / "groups.csv", groups), CASES))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("case,group\nnobody,a\n", "no such case"),
        ("case,group\ncase_1,a\ncase_1,b\n", "twice"),
        ("case,group\ncase_1,../a\n", "folder's name"),
        ("case,group\ncase_1,..\n", "folder's name"),
        ("case,group\ncase_1,\n", "folder's name"),
        ("name,kind\ncase_1,a\n", "columns case,group"),
        ("", "columns case,group"),
    ],
)
def test_groups_that_cannot_be_read(tmp_path, text, says):
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_groups(tmp_path / "groups.csv", CASES)
    with pytest.raises(InputError, match="does not exist"):
        read_groups(tmp_path / "none.csv", CASES)
    (tmp_path / "latin.csv").write_bytes("case,group\ncase_1,ä\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_groups(tmp_path / "latin.csv", CASES)


# Numbers


def test_means_and_both_deviations():
    folds = {"a": rows_of(0.1, 0.3), "b": rows_of(0.5), "c": rows_of(0.2, 0.4, 0.9)}
    score = summarised({"baseline": folds})["baseline"]["dice"]
    assert score["folds"] == pytest.approx({"a": 0.2, "b": 0.5, "c": 0.5})
    assert score["mean"] == pytest.approx(0.4)
    assert score["sd_n"] == pytest.approx(np.sqrt(0.02))
    assert score["sd_n_minus_1"] == pytest.approx(np.sqrt(0.03))
    alone = summarised({"baseline": {"a": folds["a"]}})["baseline"]["folds_percent.forward"]
    assert alone["sd_n_minus_1"] is None
    assert alone["sd_n"] == 0


def test_a_pair_without_a_number_is_in_the_mean_and_in_the_test():
    """As pairs.json has it, null; a score that is not there at all is no such pair."""
    rows = {name: rows_of(0.1, 0.3, 0.5) for name in ("first", "second")}
    rows["second"][1]["dice"] = None
    del rows["second"][2]["dice"]
    results = {name: {"a": some} for name, some in rows.items()}
    assert summarised(results)["first"]["dice"]["mean"] == pytest.approx(0.3)
    assert np.isnan(summarised(results)["second"]["dice"]["mean"])
    (row,) = compared(results, ["dice"])
    assert row["pairs"] == 2
    assert np.isnan(row["difference"])
    assert np.isnan(row["p"])


def test_methods_are_tested_pair_by_pair():
    random = np.random.default_rng(0)
    one, other = random.uniform(size=(2, 3, 8))
    other = 0.7 * one + 0.3 * other - 0.05
    results = {
        name: {fold: rows_of(*values) for fold, values in zip("abc", table, strict=True)}
        for name, table in (("first", one), ("second", other))
    }
    (row,) = compared(results, ["dice"])
    assert (row["first"], row["second"], row["pairs"], row["folds"]) == ("first", "second", 24, 3)
    assert row["p"] == pytest.approx(scipy.stats.wilcoxon(one.ravel(), other.ravel()).pvalue)
    assert row["difference"] == pytest.approx((one - other).mean())
    signs = np.sign((one - other).mean(1))
    assert row["folds_agreeing"] == (signs == np.sign((one - other).mean())).sum()
    backwards = {name: {fold: rows[::-1] for fold, rows in table.items()} for name, table in results.items()}
    backwards["first"] = results["first"]
    (again,) = compared(backwards, ["dice"])
    assert again["p"] == row["p"], "pairs are matched by name"


def test_a_method_is_no_different_from_itself():
    results = {name: {"a": rows_of(0.1, 0.2, 0.4)} for name in ("first", "second")}
    assert {row["p"] for row in compared(results)} == {1.0}


def test_a_region_is_the_mean_of_its_labels(tmp_path):
    (tmp_path / "regions.csv").write_text("label,region\n1,front\n2,front\n3,back\n4,\n")
    regions = read_regions(tmp_path / "regions.csv")
    rows = [{"dice_per_label": {"1": 0.5, "2": 0.7, "3": 0.1, "4": 0.9, "5": 0.2}}, {"dice": 0.3}]
    first, second = with_regions(rows, regions)
    assert first["dice_region"] == pytest.approx({"front": 0.6, "back": 0.1})
    assert second == {"dice": 0.3}
    (tmp_path / "regions.csv").write_text("label,name\n1,front\n")
    with pytest.raises(InputError, match="label,region"):
        read_regions(tmp_path / "regions.csv")


def test_dice_by_region_and_by_label():
    rows = {"a": [{"dice_per_label": {"1": 0.5, "10": 0.7, "3": None}}], "b": [{"dice_per_label": {"1": 0.1}}]}
    results = {"one": rows, "other": {"a": [{"dice": 0.4}]}}
    assert dice_by_region(results) == {"one": pytest.approx({"label 1": 0.3, "label 10": 0.7}), "other": {}}
    assert dice_by_region(results, {10: "front", 1: "front"}) == {"one": pytest.approx({"front": 0.35}), "other": {}}


def test_pairs_that_lost_dice_are_known_by_fold():
    def row(moving, **scores):
        return {"moving": moving, "fixed": "z", **scores}

    worse, none = row("x", dice=0.3, dice_before=0.4), row("y", dice=None, dice_before=0.4)
    results = {
        "one": {"a": [worse, row("z", dice=0.5, dice_before=0.4)], "b": [none]},
        "other": {"a": [row("x", dice=0.4, dice_before=0.4)]},
        "bare": {"a": [row("x")]},
    }
    assert lost_dice(results) == {"one": (["a: x → z", "b: y → z"], 3), "other": ([], 1)}


# The command


def crossvalidate(foldless, data, output, *more):
    return foldless("crossvalidate", "--data", data, "--output", output, *QUICK, *more)


def test_the_command_trains_judges_and_compares_and_goes_on_where_it_was_stopped(foldless, data, tmp_path, monkeypatch):
    from foldless.cli.watch import Watch

    (tmp_path / "regions.csv").write_text("label,region\n1,left\n2,right\n")
    code, said, complained = crossvalidate(foldless, data, tmp_path / "out", "--regions", tmp_path / "regions.csv")
    assert (code, complained) == (0, "")
    content = json.loads((tmp_path / "out/results.json").read_text())
    assert set(content["methods"]) == {"baseline", "refinement"}
    assert set(content["methods"]["baseline"]["dice"]["folds"]) == {"a", "b"}
    assert {"dice_region.left", "dice_region.right", "folds_percent.ten"} <= set(content["methods"]["refinement"])
    assert {row["pairs"] for row in content["compared"]} == {4}
    assert "folds here: 2" in content["caveat"]
    assert "folds here: 2" in " ".join(said.split())
    assert set(Model.load(tmp_path / "out/b/baseline").trained_on) == {"case_1", "case_4"}
    page = (tmp_path / "out/report.html").read_text()
    assert content["caveat"] in page
    assert set(content["lost_dice"]) == {"baseline", "refinement"}
    for method, lost in content["lost_dice"].items():
        counted = f'<th scope="row">{method}</th><td>{len(lost)} of 4</td><td>{", ".join(lost)}</td>'
        assert counted in page
        assert re.search(rf"{method} *│ *{len(lost)} of 4", said)
    dice = content["methods"]["refinement"]["dice_region.left"]["mean"]
    assert f"<title>left, refinement: {dice:.3f}</title>" in page
    assert "http" not in page.replace("http-equiv", "")
    judged = json.loads((tmp_path / "out/b/baseline/pairs.json").read_text())["pairs"]
    assert sorted((r["moving"], r["fixed"]) for r in judged) == [("case_2", "case_3"), ("case_3", "case_2")]

    on_step, count = Watch.on_step, []

    def interrupt(self, step, terms):
        count.append(step)
        if len(count) == 15:  # amid the second fold, in a phase of the refinement
            raise KeyboardInterrupt
        on_step(self, step, terms)

    monkeypatch.setattr(Watch, "on_step", interrupt)
    assert crossvalidate(foldless, data, tmp_path / "killed")[0] == 130
    monkeypatch.undo()
    first = (tmp_path / "killed/a/baseline/pairs.json").stat().st_mtime_ns
    assert not (tmp_path / "killed/b/refinement/pairs.json").exists()
    assert crossvalidate(foldless, data, tmp_path / "killed")[0] == 0
    assert (tmp_path / "killed/a/baseline/pairs.json").stat().st_mtime_ns == first, "what is done is not done again"
    for fold, method in TRAINED:
        one, other = (
            Model.load(tmp_path / run / fold / method / "last.safetensors").registration.state_dict()
            for run in ("out", "killed")
        )
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_more_methods_join_and_other_settings_do_not(foldless, data, tmp_path):
    data = shutil.copytree(data, tmp_path / "data")
    words = ("crossvalidate", "--data", data, "--output", tmp_path / "out", "--steps", 1, "--precision", "float32")
    assert foldless(*words, "--methods", "baseline", "--folds", "b")[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["b"]
    assert foldless(*words, "--methods", "baseline", "--folds", "c")[0] == 2
    assert foldless(*words, "--methods", "baseline", "cycle")[0] == 0
    assert set(json.loads((tmp_path / "out/results.json").read_text())["methods"]) == {"baseline", "cycle"}
    code, _, complained = foldless(*words, "--methods", "baseline", "--seed", 1)
    assert code == 2
    assert "other settings" in complained
    save_case(data, "case_2", (16, 16), seed=99)
    code, _, complained = foldless(*words, "--methods", "baseline")
    assert code == 2
    assert "are not those" in complained


def test_methods_of_other_lengths_say_so(foldless, data, tmp_path):
    words = ("crossvalidate", "--data", data, "--output", tmp_path / "out", "--precision", "float32", "--folds", "a")
    assert foldless(*words, "--methods", "baseline", "--steps", 1, "--batch", 2)[0] == 0
    code, said, _ = foldless(*words, "--methods", "refinement", "--steps", 3, "--batch", 1, "--pool", 2)
    assert code == 0
    trainings = {"baseline": "1 x 2, 0.0001", "refinement": "8 x 1, 0.0001, pool 2"}
    assert json.loads((tmp_path / "out/results.json").read_text())["trainings"] == trainings
    rows = [[cell.strip() for cell in line.split("│")][:2] for line in said.splitlines()]
    assert ["baseline", "1"] in rows
    assert ["refinement", "8"] in rows


def test_a_later_call_keeps_what_earlier_ones_found(foldless, data, tmp_path):
    words = ("crossvalidate", "--data", data, "--output", tmp_path / "out", "--steps", 1, "--precision", "float32")
    for method, fold, folds in (("baseline", "a", 1), ("baseline", "b", 2), ("cycle", "a", 2)):
        assert foldless(*words, "--methods", method, "--folds", fold)[0] == 0
        found = json.loads((tmp_path / "out/results.json").read_text())
        assert f"folds here: {folds}" in found["caveat"]
    assert set(found["methods"]["baseline"]["dice"]["folds"]) == {"a", "b"}
    assert set(found["methods"]["cycle"]["dice"]["folds"]) == {"a"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--legacy",), "of volumes"),
        (("--pairs", 0), "one pair or more"),
        (("--pairs", -1), "one pair or more"),
        (("--methods", "baseline", "three-images"), "3 are needed"),
        (("--pool", 16), "16 x 16 voxels pooled by 16 are a single node; pool them by 15"),
    ],
)
def test_what_a_later_fold_would_refuse_is_refused_first(foldless, data, tmp_path, words, says):
    code, _, complained = foldless("crossvalidate", "--data", data, "--output", tmp_path / "out", *words)
    assert code == 2
    assert says in complained
    assert not (tmp_path / "out").exists()


def test_the_legacy_determinant_on_request(foldless, tmp_path):
    save_cases(tmp_path / "data", 4, (16, 16, 16))
    (tmp_path / "groups.csv").write_text("case,group\ncase_1,a\ncase_2,a\ncase_3,b\ncase_4,b\n")
    words = ("crossvalidate", "--data", tmp_path / "data", "--groups", tmp_path / "groups.csv", "--methods", "baseline")
    code, _, _ = foldless(*words, "--steps", 1, "--legacy", "--output", tmp_path / "out")
    assert code == 0
    scores = json.loads((tmp_path / "out/results.json").read_text())["methods"]["baseline"]
    assert {"folds_percent_kuang_legacy", "folds_percent.forward"} <= set(scores)
