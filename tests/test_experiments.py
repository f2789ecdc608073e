"""The experiments run, resume and keep their tables; what they measure is in experiments/RESULTS.md."""

import json
import os
import pickle
import re
import runpy
import shutil
import sys
from dataclasses import MISSING, fields, replace
from functools import partial
from importlib import import_module
from itertools import combinations
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from samples import blob, run_folder, save_image
from scipy.stats import wilcoxon

from experiments.brains import UnderWeights, axial_slice, lay_out, mean_over_folds, most
from experiments.command import begin
from experiments.drawing import panels
from experiments.icon_fig2 import Fig2 as IconsFig2
from experiments.icon_fig5 import Fig5
from experiments.icon_fig6 import Fig6 as IconsFig6
from experiments.icon_table1 import PUBLISHED, Table1
from experiments.icon_table2 import Table2, alone, trained_by
from experiments.kuang_fig2 import Fig2
from experiments.kuang_fig5 import Fig5 as KuangsFig5
from experiments.kuang_fig6 import Fig6 as KuangsFig6
from experiments.kuang_sweep import Point, Sweep, draw_curves, percent_at
from experiments.kuang_table1 import COLUMNS, against, judge_synquick
from experiments.kuang_table1 import Table1 as KuangsTable1
from experiments.results import markdown, write_section
from experiments.tools import CHOSEN, TOOLS, nothing
from experiments.two_heads import TwoHeads, head
from foldless.errors import InputError
from foldless.io import read_volume
from foldless.methods import method_recipe
from foldless.model import Model
from foldless.recipe import Recipe
from foldless.registering import register_volumes

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    file.stem
    for file in (ROOT / "experiments").glob("*.py")
    if '__name__ == "__main__"' in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_every_experiment_explains_itself(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
    assert not ended.value.code
    assert "--output" in capsys.readouterr().out


def test_the_picture_of_two_heads(tmp_path):
    TwoHeads(output=tmp_path, size=48).run()
    assert (tmp_path / "pair.png").read_bytes().startswith(b"\x89PNG")
    first, again, other = head(1, 48), head(1, 48), head(2, 48)
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.3


def test_sections_replace_themselves_only(tmp_path):
    file = tmp_path / "RESULTS.md"
    write_section("One", "    a command\n\nfirst", file)
    write_section("Two", "second", file)
    before = file.read_text()
    write_section("One", "    a command\n\nfirst", file)
    assert file.read_text() == before
    write_section("One", markdown(("a", "b"), [("1", "2")]), file)
    assert file.read_text().split("\n## ")[1] == "One\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert file.read_text().split("\n## ")[2] == before.split("\n## ")[2]


def files_of(*folders):
    return {file: file.read_bytes() for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Stand-ins for experiments/RESULTS.md and docs/pictures."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "RESULTS.md").write_text("# Results\n")
    monkeypatch.setattr("experiments.places.RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr("experiments.places.DOCS", tmp_path / "pictures")
    return tmp_path


def test_a_trial_leaves_what_is_published_and_says_so(published, tmp_path, monkeypatch, capsys):
    words = ["icon_fig2", "--nodes", "20", "--output", str(tmp_path / "trial")]
    monkeypatch.setattr(sys, "argv", words)
    before = files_of(published / "pictures"), (published / "RESULTS.md").read_bytes()
    begin(IconsFig2)
    assert (files_of(published / "pictures"), (published / "RESULTS.md").read_bytes()) == before
    assert {file.name for file in (tmp_path / "trial").iterdir()} == {"RESULTS.md", "icon_fig2.svg"}
    assert "![Fig. 2](icon_fig2.svg)" in (tmp_path / "trial/RESULTS.md").read_text()
    said = capsys.readouterr().out
    assert "Not the default settings (--nodes)" in said
    assert str(tmp_path / "trial/RESULTS.md") in said


def test_the_default_settings_are_published(published, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["icon_fig2", "--output", str(tmp_path / "other")])
    begin(IconsFig2)
    assert "![Fig. 2](pictures/icon_fig2.svg)" in (published / "RESULTS.md").read_text()
    assert (published / "pictures/icon_fig2.svg").is_file()
    assert not (tmp_path / "other").exists()
    assert "default settings" not in capsys.readouterr().out


def test_a_trial_goes_where_it_is_told_to(published, tmp_path):
    IconsFig2(nodes=20, results=tmp_path / "a/R.md", pictures=tmp_path / "b").run()
    assert "(../b/icon_fig2.svg)" in (tmp_path / "a/R.md").read_text()
    assert (tmp_path / "b/icon_fig2.svg").is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_experiment_knows_a_trial(published, tmp_path, name):
    """Whichever option is changed; places and what must be given are no settings."""
    module = import_module(f"experiments.{name}")
    (kind,) = (kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__
               and hasattr(kind, "run"))  # fmt: skip
    needed = {f.name: tmp_path / f.name for f in fields(kind) if f.default is MISSING}
    options = kind(**{**needed, "output": tmp_path / "out"})
    assert options.section_file == published / "RESULTS.md"
    assert options.notice() == ""
    for option in fields(kind):
        if option.name in needed or "Path" in option.type:
            continue
        trial = replace(options, **{option.name: "another"})
        assert trial.section_file == tmp_path / "out/RESULTS.md", option.name
        assert f"(--{option.name.replace('_', '-')})" in trial.notice()
        if hasattr(trial, "picture_folder"):
            assert trial.picture_folder == tmp_path / "out"


def test_no_experiment_writes_but_by_the_rule():
    """`write_section` and the folder of the published pictures are known to one file."""
    for name in ("write_section", "DOCS"):
        files = {f.name for f in (ROOT / "experiments").glob("*.py") if name in f.read_text(encoding="utf-8")}
        assert files <= {"places.py", "results.py", "drawing.py"}


def test_table_1_keeps_its_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.icon_table1.PAIRS", 3)
    options = {"output": tmp_path / "runs", "results": tmp_path / "RESULTS.md", "steps": 2, "networks": ("conv-only",)}
    monkeypatch.setitem(PUBLISHED, "shapes", {64: PUBLISHED["shapes"][64], 128: PUBLISHED["shapes"][128]})
    Table1(weights=(64,), **options).run()
    cell = next((tmp_path / "runs").glob("*/cell.json"))
    written = cell.stat().st_mtime_ns
    assert "0.97 / 12.57 → **0." in (tmp_path / "RESULTS.md").read_text()
    Table1(weights=(64, 128), **options).run()
    assert cell.stat().st_mtime_ns == written
    assert (tmp_path / "RESULTS.md").read_text().count("**0.") == 2
    shorter = tmp_path / "runs/another/cell.json"
    shorter.parent.mkdir()
    shorter.write_text(cell.read_text().replace('"steps": 2', '"steps": 1').replace('"dice": 0.', '"dice": 7.'))
    IconsFig6(tmp_path / "runs", pictures=tmp_path, results=tmp_path / "F.md").run()
    rows = [line for line in (tmp_path / "F.md").read_text().splitlines() if line.startswith("| conv-only")]
    assert [row.split(" | ")[1:4] for row in rows] == [["64", "2", "0.0001"], ["128", "2", "0.0001"]]
    assert (tmp_path / "icon_fig6.svg").stat().st_size > 0


class InThisProcess(ThreadPool):
    """Quicker than another one; what goes there is packed all the same."""

    def apply(self, call, words):
        return super().apply(*pickle.loads(pickle.dumps((call, words))))


@pytest.fixture
def together(monkeypatch):
    monkeypatch.setattr("experiments.icon_table2.alone", lambda: InThisProcess(1))


def test_table_2_has_a_process_for_each_method():
    with alone() as pool:
        assert pool.apply(os.getpid) != os.getpid()


@pytest.mark.usefixtures("together")
def test_table_2_judges_what_is_there(tmp_path, monkeypatch):
    """Centres apart by hand: doing nothing lays them on each other, so Dice is 1 and nothing folds."""
    for name in ("a", "b"):
        array = blob((16, 17, 18), 3)
        origin = (0.0, 0.0, 0.0) if name == "a" else (40.0, -3.0, 5.0)
        save_image((array * 50).astype("float32"), tmp_path / f"in/images/{name}.nii.gz", Origin=origin)
        save_image(array.astype("uint8"), tmp_path / f"in/labels/{name}.nii.gz", Origin=origin)
    monkeypatch.setenv("PATH", "")
    options = {"data": tmp_path / "in", "output": tmp_path / "out", "results": tmp_path / "R.md", "pairs": 2}
    run = run_folder(tmp_path / "run", 3)
    Table2(
        **options, untrained=("nothing", "NiftyReg"), runs=(f"ours={run}",), tuned=(f"ours={run}",), tuning_rate=1e-3
    ).run()
    table = (tmp_path / "R.md").read_text()
    assert "| nothing | 1.000 | 1.000 | 0.00 | 0.0000 | 0.000 |" in table
    assert "install NiftyReg" in table
    dice = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ours")]
    assert len(set(dice)) == 2, "the row of the tuned maps is another one"
    assert "- ours: no record" in table
    with pytest.raises(InputError, match="no method 'SyN'; there are nothing, Demons"):
        Table2(**options, untrained=("SyN",)).run()


def apart(folder, count=6):
    """Cases that are alike, their centres a few millimetres apart."""
    for k in range(count):
        array, origin = blob((16, 17, 18), 3), (4.0 * k, -3.0 * (k % 2), 5.0)
        save_image((array * 50).astype("float32"), folder / f"images/{k}.nii.gz", Origin=origin)
        save_image(array.astype("uint8"), folder / f"labels/{k}.nii.gz", Origin=origin)
    return folder


def shifted(moving, fixed, scratch, millimetres):
    there, back = nothing(moving, fixed, scratch)
    return there + np.float32(millimetres), back - np.float32(millimetres)


@pytest.mark.usefixtures("together")
def test_table_2_chooses_settings_on_cases_that_judge_nothing(tmp_path, monkeypatch):
    tools = {f"by {mm:g} mm": partial(shifted, millimetres=mm) for mm in (6.0, 1.0, 3.0)}
    monkeypatch.setattr("experiments.icon_table2.CHOSEN", {"shift": tools})
    apart(tmp_path / "in")
    (tmp_path / "in/split.json").write_text('{"train": ["0", "1"], "val": ["2", "3"], "test": ["4", "5"]}')
    options = {"data": tmp_path / "in", "results": tmp_path / "R.md", "pairs": 2, "choosing": 2}
    Table2(output=tmp_path / "out", untrained=("shift", "nothing"), **options).run()
    table = (tmp_path / "R.md").read_text()
    assert re.search(r"- shift: by 1 mm, by mean Dice of 2 pairs of cases that judge nothing: by 6 mm 0\.", table)
    by_names = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")}
    assert by_names["shift"]["settings"]["millimetres"] == 1.0
    assert {name for pair in by_names["shift"]["settings"]["pairs"] for name in pair} == {"4", "5"}
    for name in tools:
        settings = by_names[f"shift {name}".replace(" ", "-")]["settings"]
        assert {case for pair in settings["pairs"] for case in pair} == {"2", "3"}
    best = by_names["shift-by-1-mm"]["scores"]
    assert np.mean([one["dice"] for one in best]) > np.mean([s["dice"] for s in by_names["shift-by-3-mm"]["scores"]])
    (tmp_path / "in/split.json").unlink()
    Table2(output=tmp_path / "all", untrained=("shift",), **{**options, "pairs": 30}).run()
    assert "| shift | all cases judge; its setting is chosen on two others or more |" in (tmp_path / "R.md").read_text()
    with pytest.raises(InputError, match="got --choosing 0"):
        Table2(output=tmp_path / "none", **{**options, "choosing": 0}).run()


def test_greedy_is_given_its_smoothing_its_seed_and_its_precision(tmp_path, monkeypatch):
    said = []

    class Greedy3D:
        def execute(self, words):
            said.append(words)
            if "-rc" in words:
                out = words.split("-rc ")[1].split()[0]
                sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.float32), isVector=True), out)

    monkeypatch.setitem(sys.modules, "picsl_greedy", SimpleNamespace(Greedy3D=Greedy3D))
    image = read_volume(save_image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), tmp_path / "image.nii.gz"))
    there, back = TOOLS["greedy (picsl-greedy)"](image, image, tmp_path)
    (swept,) = CHOSEN.values()
    for name, tool in swept.items():
        tool(image, image, tmp_path)
        assert name in said[-3], "the words are those that the table names"
    assert there.shape == back.shape == (3, 4, 5, 3)
    assert [words.split()[2] for words in said] == ["-a", "-m", "-rf", "-rf"] * (1 + len(swept))
    assert all("-wp 0 -seed 1" in words for words in said)
    assert "-s 1.732vox 0.7071vox" in said[1]


def test_table_2_says_how_a_run_was_trained(tmp_path):
    """From its record, without the folders of whoever ran it."""
    record = {"arguments": ["train", "--data", "/home/me", "--output", str(tmp_path), "--stages", "3"]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    said = trained_by(f"three steps={tmp_path / 'stage-2.safetensors'}")
    assert said == "- three steps: `foldless train --data FOLDER --output RUN --stages 3`, its stage-2"


def test_fig_5_says_the_networks_error_beside_the_noise(tmp_path):
    """The number in the sentence is the table's, and that is the mean of the maps there and back in pixels."""
    options = {"size": 16, "network_size": 16, "steps": 2, "network_steps": 2, "network_rate": 1e-2}
    Fig5(tmp_path / "out", pictures=tmp_path, results=tmp_path / "R.md", **options).run()
    text = (tmp_path / "R.md").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| U-Net"))
    error = json.loads((tmp_path / "out/U-Net.json").read_text())["inverse"]
    assert error > 0
    assert row.split("|")[4].strip() == f"{error:.3f}"
    assert f"inverse-consistency error, {error:.3f} pixels, is {8 * error:.2f} times the 1/8 pixel" in text


@pytest.fixture
def brains(tmp_path):
    """Six subjects in the layout of the real ones."""
    for k in range(6):
        labels = blob((16, 16, 16), k)
        save_image((labels * 50.0).astype(np.float32), tmp_path / "brains/affine2mm" / f"{1000 + k}_t1.nii.gz")
        save_image(labels.astype(np.uint8), tmp_path / "brains/affine2mm" / f"{1000 + k}_seg.nii.gz")
    rows = ["label,name,tissue,group,group_name", "1,One,GM,1,front", "2,Two,GM,2,back", "3,Three,GM,0,"]
    (tmp_path / "brains/labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "brains"


def without_labels_csv(brains):
    (brains / "labels.csv").unlink()
    return "labels.csv does not exist"


def without_a_column(brains):
    (brains / "labels.csv").write_text("label,name\n1,One\n")
    return "label and group_name"


def without_a_segmentation(brains):
    (brains / "affine2mm/1003_seg.nii.gz").unlink()
    return "1003_seg.nii.gz does not exist"


def without_an_image(brains):
    (brains / "affine2mm/1003_t1.nii.gz").unlink()
    return "holds 5 subjects and 6 are needed: .*affine2mm/ID_t1.nii.gz"


def without_anything(brains):
    shutil.rmtree(brains)
    return "holds 0 subjects and 6 are needed: .*affine2mm/ID_t1.nii.gz"


@pytest.mark.parametrize("experiment", [KuangsTable1, Sweep, Fig2])
@pytest.mark.parametrize(
    "damage", [without_labels_csv, without_a_column, without_a_segmentation, without_an_image, without_anything]
)
def test_brains_that_are_not_there(brains, tmp_path, experiment, damage):
    says = damage(brains)
    with pytest.raises(InputError, match=says):
        experiment(brains, tmp_path / "out", results=tmp_path / "R.md").run()
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_used_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep", "--data", str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        begin(Sweep)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("foldless: ")
    assert said.count("\n") == 1


def test_brains_that_moved_are_linked_anew_and_others_are_refused(brains, tmp_path):
    lay_out(brains, tmp_path / "out/data")
    brains = brains.rename(tmp_path / "moved")
    link = tmp_path / "out/data/images/1000.nii.gz"
    assert not link.exists()
    lay_out(brains, tmp_path / "out/data")
    assert link.resolve() == brains / "affine2mm/1000_t1.nii.gz"
    others = shutil.copytree(brains, tmp_path / "others")
    with pytest.raises(InputError, match="choose another --output"):
        lay_out(others, tmp_path / "out/data")
    assert link.resolve() == brains / "affine2mm/1000_t1.nii.gz"


def test_a_pair_that_does_not_judge_is_refused_first(brains, tmp_path):
    with pytest.raises(InputError, match="1001 is not among the brains of the fold A: 1000, 1003"):
        Fig2(brains, tmp_path / "out", pair=("1000", "1001"), results=tmp_path / "R.md").run()
    assert not list((tmp_path / "out").glob("A-*"))


def test_a_fold_of_kuangs_table(brains, tmp_path):
    options = {"methods": ("baseline",), "folds": ("B",), "steps": 1, "pairs": 1}
    KuangsTable1(brains, tmp_path / "out", results=tmp_path / "RESULTS.md", **options).run()
    (line,) = (row for row in (tmp_path / "RESULTS.md").read_text().splitlines() if row.startswith("| baseline"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:5] == ["baseline", "1.97 ± 0.73", "1 x 1, 0.0005, pool 2", "B", "1"]
    assert 0 < float(cells[9]) <= 1
    assert (tmp_path / "out/data/groups.csv").read_text().split()[1:] == [
        f"{1000 + k},{'ABC'[k % 3]}" for k in range(6)
    ]
    assert (tmp_path / "out/data/regions.csv").read_text().split()[1:] == ["1,front", "2,back"]


@pytest.fixture
def crossed(brains, tmp_path):
    """One fold of the baseline and the cycle, one step each."""
    options = {"methods": ("baseline", "cycle"), "folds": ("A",), "steps": 1, "pairs": 2}
    KuangsTable1(brains, tmp_path / "out", results=tmp_path / "RESULTS.md", **options).run()
    return tmp_path / "out"


def test_kuangs_table_says_what_was_not_run_and_has_regions(crossed, tmp_path):
    text = (tmp_path / "RESULTS.md").read_text()
    assert "--methods baseline cycle --folds A --steps 1 --pairs 2" in text
    assert "| gradicon |  |  | not run |" in text
    rows = json.loads((crossed / "results/A/cycle/pairs.json").read_text())["pairs"]
    (line,) = (row for row in text.splitlines() if row.startswith("| front"))
    assert line.split(" | ")[2].rstrip(" |") == f"{np.mean([row['dice_per_label']['1'] for row in rows]):.3f}"
    (line,) = (row for row in text.splitlines() if row.startswith("| cycle | 0.13"))
    assert float(line.split("|")[6]) == pytest.approx(np.mean([r["folds_percent"]["forward"] for r in rows]), rel=1e-3)


def test_kuangs_table_tests_methods_against_the_baseline(tmp_path):
    """scipy's p on the pairs that both have; the sign is the method's side; no baseline, no table."""
    random = np.random.default_rng(0)
    scores = {method: random.uniform(size=(2, 12)) for method in ("baseline", "cycle", "synquick")}
    for method, (dice, percent) in scores.items():
        rows = [
            {"moving": "m", "fixed": str(k), "dice": d, "folds_percent": {"forward": p}}
            for k, (d, p) in enumerate(zip(dice, percent, strict=True))
        ]
        (tmp_path / f"A/{method}").mkdir(parents=True)
        kept = rows[4:] if method == "synquick" else rows[::-1]
        (tmp_path / f"A/{method}/pairs.json").write_text(json.dumps({"pairs": kept}))
    lines = against(tmp_path).splitlines()
    for method, first in (("cycle", 0), ("synquick", 4)):
        (line,) = (line for line in lines if line.startswith(f"| {method} |"))
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        assert cells[:2] == [str(12 - first), "1"]
        for k in range(2):
            one, other = scores[method][k, first:], scores["baseline"][k, first:]
            expected = f"{(one - other).mean():.3g}", f"{wilcoxon(one, other).pvalue:.2g}", "1 of 1"
            assert tuple(cells[2 + 3 * k : 5 + 3 * k]) == expected
    assert "folds here: 1" in lines[-2]
    shutil.rmtree(tmp_path / "A/baseline")
    assert against(tmp_path) == ""


def test_every_row_of_kuangs_table_says_its_own_training(crossed, brains, tmp_path):
    options = {"methods": ("refinement",), "folds": ("A",), "steps": 10, "pairs": 2, "rate": 1e-3}
    KuangsTable1(brains, crossed, results=tmp_path / "RESULTS.md", **options).run()
    text = (tmp_path / "RESULTS.md").read_text()
    commands = [line.strip().partition("--output RUNS ")[2] for line in text.splitlines() if line.startswith("    ")]
    assert commands == [
        "--methods baseline cycle --folds A --steps 1 --pairs 2",
        "--methods refinement --folds A --steps 10 --rate 0.001 --pairs 2",
    ]
    assert "| baseline | 1.97 ± 0.73 | 1 x 1, 0.0005, pool 2 | A |" in text
    assert "| refinement | 0.20 ± 0.02 | 24 x 1, 0.001, pool 2 | A |" in text


def test_kuangs_pictures_are_the_same_twice(crossed, tmp_path):
    written = {"pictures": tmp_path / "pictures", "results": tmp_path / "RESULTS.md", "formats": ("svg", "pdf")}
    names = {f"kuang_fig{k}.{suffix}" for k in (5, 6) for suffix in ("svg", "pdf")}
    found = []
    for _ in range(2):
        KuangsFig5(crossed, **written).run()
        KuangsFig6(crossed, **written).run()
        found.append({file.name: file.read_bytes() for file in (tmp_path / "pictures").iterdir()})
    assert found[0] == found[1]
    assert set(found[0]) == names
    assert "baseline 2, cycle 2" in (tmp_path / "RESULTS.md").read_text()


def test_pictures_of_nothing(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/regions.csv").write_text("label,region\n1,front\n")
    for picture in (KuangsFig5, KuangsFig6):
        with pytest.raises(InputError, match="cross-validate"):
            picture(tmp_path, results=tmp_path / "R.md", pictures=tmp_path).run()


def test_a_slice_shows_the_folds_of_the_map(crossed):
    """As numpy finds them in the displacement of a model whose maps fold."""
    model = Model.load(crossed / "results/A/baseline/last.safetensors")
    with torch.no_grad():
        model.registration.inner.net.last.weight.normal_()
    model.save(crossed / "folding.safetensors")
    files = [crossed / "data/images" / f"{name}.nii.gz" for name in ("1000", "1003")]
    field = register_volumes(model, *map(read_volume, files)).forward[..., ::-1]  # array order; spacing is 1 mm
    nodes = field + np.moveaxis(np.indices(field.shape[:3]), 0, -1)
    corner = nodes[:-1, :-1, :-1]
    slopes = [nodes[1:, :-1, :-1] - corner, nodes[:-1, 1:, :-1] - corner, nodes[:-1, :-1, 1:] - corner]
    expected = np.linalg.det(np.stack(slopes, -1))
    found = axial_slice(crossed / "folding.safetensors", crossed / "data", "1000", "1003")
    assert (expected < 0).any()
    assert found.percent == pytest.approx(100 * (expected < 0).mean(), rel=1e-3)
    assert found.at == (expected < 0).sum((1, 2)).argmax()
    np.testing.assert_allclose(found.determinant, expected[found.at], atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(found.nodes, np.moveaxis(nodes[found.at], -1, 0)[1:], atol=1e-3)


def test_the_slice_with_the_most_folds():
    negative = np.zeros((5, 3, 3), dtype=bool)
    assert most(negative) == 2
    negative[1, 0], negative[4, 0, 0] = True, True
    assert most(negative) == 1


def test_kuangs_fig_2_trains_once(brains, tmp_path):
    options = {"steps": 1, "pairs": 1, "pictures": tmp_path / "pictures", "results": tmp_path / "RESULTS.md"}
    Fig2(brains, tmp_path / "out", weights=(1.0, 4.0), **options).run()
    picture = (tmp_path / "pictures/kuang_fig2.svg").read_bytes()
    trained = {file: file.read_bytes() for file in (tmp_path / "out").glob("A-*/last.safetensors")}
    assert len(trained) == 2
    Fig2(brains, tmp_path / "out", weights=(1.0, 4.0), **options).run()
    assert {file: file.read_bytes() for file in trained} == trained
    assert (tmp_path / "pictures/kuang_fig2.svg").read_bytes() == picture
    assert "1000 onto 1003" in (tmp_path / "RESULTS.md").read_text()


def test_the_sweep_goes_on_and_compares_at_equal_dice(brains, tmp_path):
    options = {"folds": ("A",), "steps": 1, "pairs": 1, "pictures": tmp_path / "p", "results": tmp_path / "RESULTS.md"}
    Sweep(brains, tmp_path / "out", factors=(1.0,), **options).run()
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*/pairs.json")}
    assert len(done) == 2
    Sweep(brains, tmp_path / "out", factors=(1.0, 2.0), **options).run()
    assert {file: file.stat().st_mtime_ns for file in done} == done
    table = (tmp_path / "RESULTS.md").read_text()
    assert [table.count(f"| {method} | {weight} |") for method in ("baseline", "cycle") for weight in (1, 2)] == [
        1,
        1,
        2,
        2,
    ]
    assert (tmp_path / "p/kuang_sweep.svg").is_file()


def test_a_training_is_taken_for_no_other(brains, tmp_path):
    """Not where an image or a label map differs, nor of another seed, nor where nothing says what it is of."""
    options = {"weights": (1.0,), "steps": 1, "pairs": 1, "pictures": tmp_path, "results": tmp_path / "R.md"}
    Fig2(brains, tmp_path / "out", **options).run()
    Fig2(brains, tmp_path / "out", seed=1, **options).run()
    first, other = sorted((tmp_path / "out").glob("A-*"))
    assert first.name == "A-baseline-1-1x1-0.0005-pool2-1pairs"
    assert other.name == first.name + "-seed1"
    one, two = (Model.load(folder / "last.safetensors").registration.state_dict() for folder in (first, other))
    assert not all(torch.equal(one[name], two[name]) for name in one)
    record = (first / "run.json").read_bytes()
    (first / "run.json").unlink()
    with pytest.raises(InputError, match=r"no run\.json"):
        Fig2(brains, tmp_path / "out", **options).run()
    (first / "run.json").write_bytes(record)
    Fig2(brains, tmp_path / "out", **options).run()
    before = (first / "pairs.json").stat().st_mtime_ns
    save_image(blob((16, 16, 16), 99).astype(np.uint8), brains / "affine2mm/1004_seg.nii.gz")
    with pytest.raises(InputError, match="other data"):
        Fig2(brains, tmp_path / "out", **options).run()
    assert (first / "pairs.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("method", ["bidirectional", "icon", "gradicon", "refinement", "three-images"])
def test_the_sweep_takes_every_method(brains, tmp_path, method):
    """Its weights far below and above its own, in any order and named twice."""
    options = {"folds": ("A",), "steps": 1, "pairs": 1, "pictures": tmp_path / "p", "results": tmp_path / "RESULTS.md"}
    sweep = Sweep(brains, tmp_path / "out", methods=("baseline", method, method), factors=(16.0, 0.05), **options)
    sweep.run()
    assert len(list((tmp_path / "out").glob("A-*/pairs.json"))) == 4
    table = (tmp_path / "RESULTS.md").read_text().partition("At equal Dice")[0]
    rows = [line.split(" | ")[:2] for line in table.splitlines() if line.startswith(f"| {method} ")]
    own = method_recipe(method, Recipe()).weight
    assert rows == [[f"| {method}", f"{factor * own:g}"] for factor in (0.05, 16)]


def test_five_curves_are_told_apart():
    """By names and colours, at their own ends; no two labels lie on each other where nothing folds."""
    methods = ("baseline", "bidirectional", "icon", "gradicon", "refinement")
    curves = {m: [Point(w, 0.5, p, 0, 0, 0) for w, p in ((0.05, 10.0**-k), (16.0, 0.0))] for k, m in enumerate(methods)}
    figure, [[axes]] = panels(1, 1, width=8.5, height=5.5)
    draw_curves(axes, curves)
    figure.draw_without_rendering()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(methods)
    names = {text.get_text(): text for text in axes.texts if text.get_text() in methods}
    assert [names[m].get_color() for m in methods] == [line.get_color() for line in axes.lines]
    assert len({line.get_color() for line in axes.lines}) == len({line.get_marker() for line in axes.lines}) == 5
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text() == "16"]
    assert len(boxes) == 5
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_options_that_no_training_takes_are_refused_first(brains, tmp_path):
    for options, says in (({"pairs": 0}, "one pair or more"), ({"factors": (-1.0,)}, "weight"), ({"pool": 0}, "pool")):
        with pytest.raises(InputError, match=says):
            Sweep(brains, tmp_path / "out", results=tmp_path / "R.md", **options).run()
    assert not (tmp_path / "out").exists()


def test_percent_at_equal_dice():
    """numpy's own interpolation, nothing beyond the ends, and the better of two weights that come to the same Dice."""
    dice, percent = [0.7, 0.6, 0.5], [1.0, 0.3, 0.1]
    points = [Point(k, d, p, 0, 0, 0) for k, (d, p) in enumerate(zip(dice, percent, strict=True))]
    too_weak = Point(-1, 0.55, 9, 0, 0, 0)
    for wanted in (0.5, 0.52, 0.6, 0.68, 0.7):
        expected = np.interp(wanted, dice[::-1], percent[::-1])
        assert percent_at(points, wanted) == pytest.approx(expected)
        assert percent_at([*points, too_weak], wanted) == pytest.approx(expected)
    assert percent_at(points, 0.49) is None
    assert percent_at(points, 0.71) is None


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_factor_weighs_every_phase(factor, tmp_path):
    options = UnderWeights(tmp_path, tmp_path, steps=100, batch=2, rate=1e-3, pool=2, pairs=1)
    phases = options.recipe("refinement", factor)
    weights = [phases.of_stage(stage).weight for stage in phases.plan]
    assert weights == [factor, 4 * factor] * 4
    assert {stage.level for stage in phases.plan} == {2}
    assert phases.ends()[-1] == 8 * 30
    icon = options.recipe("icon", factor)
    assert (icon.weight, icon.steps, icon.batch, icon.rate) == (1000 * factor, 100, 2, 1e-3)


def test_synquick_on_the_same_pairs(crossed, monkeypatch):
    """Its rows have every column of the table, and what is there is not computed again."""
    pytest.importorskip("ants", reason="takes antspyx")
    judge_synquick(crossed / "data", crossed / "results", "cycle")
    files = (crossed / f"results/A/{method}/pairs.json" for method in ("cycle", "synquick"))
    like, rows = (json.loads(file.read_text())["pairs"] for file in files)
    assert [(row["moving"], row["fixed"]) for row in rows] == [(row["moving"], row["fixed"]) for row in like]
    assert set(COLUMNS) <= set(mean_over_folds({"A": rows}))
    # Images of a few voxels, and a program whose threads make it differ from run to run.
    assert all(0 <= row["dice"] <= 1 and 0 <= row["inverse_consistency_voxels"]["mean"] < 5 for row in rows)
    monkeypatch.setattr("experiments.kuang_table1.synquick_scores", None)
    judge_synquick(crossed / "data", crossed / "results", "cycle")
