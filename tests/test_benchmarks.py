"""The benchmarks measure what they say: the same network, the same loss, the right exponent, lines that are plotted."""

import importlib.util
import json
import math
import pkgutil
import re
import runpy
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from samples import save_cases, save_image

import benchmarks
from benchmarks import beside, contestants, forces, operations, pair, results, scaling
from benchmarks.__main__ import Benchmarks, run
from benchmarks.beside import Beside, Row
from benchmarks.cycle_contestants import DenseLNCC, contestant, objective_of, plain_cycle
from benchmarks.cycle_step import NAMES
from benchmarks.results import Result
from benchmarks.slices import Slices
from benchmarks.training_step import in_turn
from foldless.networks import VoxelMorphUNet
from foldless.similarity import LNCC

TIMED = {name: (float(k), 10.0 * k) for k, name in enumerate(NAMES, start=1)}
SAME = 1e-4  # of a loss near 2: sums of 729 products in float32, in another order


@pytest.mark.parametrize("shape", [(20, 18), (16, 20, 18)])
def test_the_cycle_in_plain_torch_is_ours(shape):
    objective = objective_of(shape, "float32")
    x, y = torch.rand(2, 2, 1, *shape)
    with torch.no_grad():
        objective.registration.net.last.weight.normal_(std=0.1)
    learning = list(objective.parameters())
    ours = objective(x, y).total
    plain = plain_cycle(objective.registration.net, x, y, DenseLNCC())
    assert plain.item() == pytest.approx(ours.item(), abs=SAME)
    for a, b in zip(torch.autograd.grad(ours, learning), torch.autograd.grad(plain, learning), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3 * max(b.abs().max().item(), 1e-3))


def test_the_dense_lncc_is_ours():
    a, b = torch.rand(2, 1, 1, 14, 12, 13)
    assert DenseLNCC()(a, b).item() == pytest.approx(LNCC(window=9, squared=True)(a, b).item(), abs=SAME)


@pytest.mark.parametrize("name", NAMES)
def test_every_contestant_takes_a_step(name):
    contestant(name, (16, 16, 16), 1)()


def test_a_contestant_in_a_process_of_its_own():
    command = ("benchmarks.cycle_contestants", NAMES[0], "16x16x16", "1")
    ((name, (seconds, memory)),) = in_turn({NAMES[0]: command}, 1).items()
    assert name == NAMES[0]
    assert seconds > 0
    assert memory >= 0


def test_all_benchmarks_run_the_cycle(monkeypatch, tmp_path, capsys):
    """At the size asked for, three steps at most, with a line that is kept."""
    asked = []
    monkeypatch.setattr(
        "benchmarks.cycle_step.in_turn", lambda commands, steps: asked.append((commands, steps)) or TIMED
    )
    assert "cycle" in Benchmarks().run
    run(Benchmarks(run=("cycle",), output=tmp_path / "lines.jsonl", side=32))
    ((commands, steps),) = asked
    assert steps == 3
    assert commands[NAMES[0]] == ("benchmarks.cycle_contestants", NAMES[0], "32x32x32", "1")
    (line,) = map(json.loads, (tmp_path / "lines.jsonl").read_text().splitlines())
    assert [(r["contestant"], r["seconds"], r["mebibytes"]) for r in line["results"]] == [(n, *TIMED[n]) for n in NAMES]
    assert line["results"][0]["case"] == "cycle, 32 x 32 x 32, batch 1"
    assert "0.25" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:monai.networks.blocks.Warp:UserWarning")
@pytest.mark.parametrize("dim", [2, 3])
def test_monais_network_is_ours(dim):
    pytest.importorskip("monai")
    from benchmarks.monai_voxelmorph import VoxelMorph1

    ours, theirs = VoxelMorphUNet(dim).double(), VoxelMorph1(dim).double()
    shapes = [parameter.shape for parameter in ours.parameters()]
    assert [parameter.shape for parameter in theirs.parameters()] == shapes
    with torch.no_grad():
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            parameter.normal_(std=0.2)
            other.copy_(parameter)
    image_A, image_B = torch.rand(2, 2, 1, *[32] * dim, dtype=torch.float64)
    got = 31 * ours(image_A, image_B)  # in voxels
    torch.testing.assert_close(got, theirs(torch.cat([image_A, image_B], dim=1)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("task", ["icon", "gradicon", "voxelmorph", "inference"])
def test_foldless_takes_a_step_of_every_task(task):
    contestants.contestant(task, "foldless-float32", (16, 16), 2)()


def test_the_exponent_is_that_of_the_large_cubes():
    cubes = [
        Result(scaling.BY_VOXELS, f"gradicon, {n} x {n} x {n}, batch 1", "foldless", 2e-6 * n**3.3) for n in (64, 80)
    ]
    small = Result(scaling.BY_VOXELS, "gradicon, 48 x 48 x 48, batch 1", "foldless", 9.0)
    assert scaling.exponent_of([small, *cubes]) == pytest.approx(1.1)
    assert scaling.exponent_of([small]) is None


@pytest.mark.parametrize("shape", [(20,), (12, 14), (9, 10, 11)])
def test_the_certificate_is_timed_beside_the_fold_count_of_the_same_field(shape):
    (row,) = (row for row in operations.operations(shape) if row.name == "certificate")
    assert row.peer_name == "folds, rule of ten"
    certificate = row.ours()
    assert certificate.cells == math.prod(n + 1 for n in shape)
    assert certificate.proven <= (row.peer().item() == 0)


def test_lines_are_added_and_drawn(tmp_path):
    lines, picture = tmp_path / "lines.jsonl", tmp_path / "plot.svg"
    for seconds in (1.5, 1.0):
        results.write_line(
            lines, [Result("step", "32", "us", seconds, 10.0), Result("step", "32", "them", note="absent")]
        )
    runs = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [run["results"][0]["seconds"] for run in runs] == [1.5, 1.0]
    assert runs[0]["results"][1]["note"] == "absent"
    assert all(run["machine"] and "commit" in run for run in runs)
    results.draw(lines, picture)
    drawn = ElementTree.parse(picture).getroot()
    assert drawn.tag.endswith("svg")


def test_a_missing_peer_says_so(monkeypatch):
    monkeypatch.setattr(contestants, "find_spec", lambda name: None)
    assert contestants.missing("monai") == "not installed"
    assert contestants.missing("foldless-float32") == ""


@pytest.mark.parametrize("module", sorted(name for _, name, _ in pkgutil.iter_modules(benchmarks.__path__)))
def test_every_benchmark_answers_help(module, monkeypatch, capsys):
    """Modules that are no programs do nothing at all."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.setattr(subprocess, "Popen", None)
    name = f"benchmarks.{module}"
    source = Path(importlib.util.find_spec(name).origin).read_text(encoding="utf-8")
    if "import monai" in source or "from monai" in source:
        pytest.importorskip("monai")
    monkeypatch.delitem(sys.modules, name, raising=False)
    with suppress(SystemExit):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    said = capsys.readouterr().out
    assert ("usage:" in said) == ('__name__ == "__main__"' in source)
    assert "seconds a step" not in said


# Two checkouts in turn


def checkout(folder, rows, library="libfoldless.so"):
    """One whose operations do nothing for so many seconds each; None: it dies at the first turn."""
    for part in ("src/foldless/kernels", "benchmarks"):
        (folder / part).mkdir(parents=True)
    if library:
        (folder / "src/foldless/kernels" / library).touch()
    (folder / "benchmarks/__init__.py").touch()
    (folder / "benchmarks/operations.py").write_text(
        f"""import os, time
from types import SimpleNamespace
def call(seconds):
    return (lambda: os._exit(3)) if seconds is None else (lambda: time.sleep(seconds))
def operations(shape):
    return [SimpleNamespace(name=n, ours=call(s)) for n, s in {rows!r}.items()]
"""
    )
    return folder


def test_two_checkouts_take_turns_and_slower_rows_are_marked(tmp_path, monkeypatch, capsys):
    here = checkout(tmp_path / "here", {"slow": 0.03, "same": 0.02, "new": 0.0, "broken": None})
    there = checkout(tmp_path / "there", {"old": 0.0, "same": 0.02, "broken": 0.0, "slow": 0.02})
    options = Beside(there, run=("operations", "cycle"), size=(9, 8), turns=3, slower=20)
    options.check()
    rules = beside.HERE / "benchmarks/rows.py"
    monkeypatch.setattr(beside, "command", lambda *words: [sys.executable, "-P", str(rules), *words])
    monkeypatch.setattr(beside, "HERE", here)
    rows = {row.name: row for row in options.rows()}
    assert list(rows) == ["slow, 9x8", "same, 9x8", "new, 9x8", "broken, 9x8", "old, 9x8"]
    assert rows["slow, 9x8"].here > rows["slow, 9x8"].there >= 0.02
    assert rows["slow, 9x8"].ratio > 1.2
    notes = {name: row.note for name, row in rows.items() if row.ratio is None}
    assert notes == {"new, 9x8": "only here", "broken, 9x8": "died here", "old, 9x8": "only there"}
    assert [row.name for row in Beside(there, run=("operations",), only=("sam",), turns=1).rows()] == ["same, 96x96x96"]
    fixed = [Row("a", 1.0, 1.0, 1.051), Row("b", 1.0, 1.0, 1.049), Row("c", note="only here"), Row("d", 1.0, 2.0, 0.5)]
    capsys.readouterr()
    assert beside.show(fixed, there, 5.0) == 1
    said = capsys.readouterr().out
    assert "1 of 3 rows are slower here by more than 5 %" in said
    assert [line.split()[1] for line in said.splitlines() if "slower" in line and "│" in line] == ["a"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"other": "nowhere"}, "nowhere is no checkout"),
        ({"other": "bare"}, "no compiled kernels"),
        ({"other": beside.HERE}, "is this checkout"),
        ({"turns": 0}, "--turns is 1 or more; got 0"),
        ({"size": ()}, "--size"),
        ({"size": (96, 4)}, "--size is one to three numbers of 8 or more; got 96 4"),
        ({"slower": -1.0}, "--slower is 0 or more"),
    ],
)
def test_what_cannot_be_timed_is_refused_first(tmp_path, monkeypatch, options, says):
    checkout(tmp_path / "bare", {}, library="")
    monkeypatch.setattr(subprocess, "Popen", None)
    options = {"other": checkout(tmp_path / "there", {}), **options}
    options["other"] = tmp_path / options["other"]
    with pytest.raises(SystemExit, match=re.escape(says)):
        Beside(**options).check()


def test_the_rows_of_this_checkout_are_served():
    rows = beside.listed(beside.HERE, ["operations", "steps", "inference", "cycle"], (9, 10))
    assert {"certificate, 9x10", "NDV, 9x10", "step of icon, 28 x 28, batch 128, foldless"} <= set(rows)
    assert {words[0] for words in rows.values()} == {"operations", "steps", "cycle"}
    row = beside.in_turn("NDV", [(beside.HERE, rows["NDV, 9x10"])] * 2, 1)
    assert row.ratio > 0


# Pairs beside peers


def test_pairs_are_compared_and_kept(tmp_path, capsys):
    data = save_cases(tmp_path / "data", 2, (20, 22, 18))
    (tmp_path / "groups.csv").write_text("label,group\n1,1\n2,1\n")
    asked = pair.Compared(data, tmp_path / "out", pairs=2, contestants=("foldless",), groups=tmp_path / "groups.csv")
    asked.run()
    lines = [json.loads(line) for line in (tmp_path / "out/pairs.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        scores = line["scores"]
        assert list(scores["dice_per_label"]) == ["1"]
        assert 0 < scores["finding"] < scores["whole"]
        assert scores["mebibytes"] > 50
        assert scores["certificate"]["proven"] == 1
    asked.run()
    assert len((tmp_path / "out/pairs.jsonl").read_text().splitlines()) == 2
    assert "100%" in capsys.readouterr().out


def test_a_peer_that_fails_is_a_row_that_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pair, "OURS", {"foldless": ("--steps", "0")})
    pair.Compared(
        save_cases(tmp_path / "data", 2, (14, 15, 13)), tmp_path / "out", pairs=1, contestants=("foldless",)
    ).run()
    assert "--steps" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="contestants are"):
        pair.Compared(tmp_path, tmp_path / "out", contestants=("nobody",)).run()


def test_a_pair_by_forces_is_timed_by_voxels_and_threads(capsys):
    forces.ByForces(sides=(16, 24), threads=1, alone=16).run()
    said = capsys.readouterr().out
    assert "seconds grow as voxels^" in said
    assert "1 threads are 1.00 times" in said


def test_slices_are_axial_ones_whatever_the_axes(tmp_path):
    values = np.random.default_rng(0).integers(0, 200, (9, 8, 7)).astype(np.int16)
    sagittal = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)  # the file's x runs along z
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        save_image(values, tmp_path / "data" / folder / "a.nii.gz", spacing=(2.0, 1.0, 1.5), Direction=sagittal)
    (tmp_path / "data/split.json").write_text("{}")
    Slices(tmp_path / "data", tmp_path / "out").run()
    for folder in ("images", "labels"):
        found = sitk.ReadImage(str(tmp_path / "out" / folder / "a.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(found), values[:, :, 3])
        assert found.GetSpacing() == (1.0, 1.5)
    assert (tmp_path / "out/split.json").exists()
