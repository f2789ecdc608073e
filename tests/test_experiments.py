"""The experiments run, resume and keep their tables; what they measure is in experiments/RESULTS.md."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import blob, save_image

from experiments.icon_fig5 import Fig5
from experiments.icon_table1 import PUBLISHED, Table1
from experiments.icon_table2 import Table2
from experiments.kuang_table1 import Table1 as KuangsTable1
from experiments.results import markdown, write_section

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    file.stem
    for file in (ROOT / "experiments").glob("*.py")
    if '__name__ == "__main__"' in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_experiment_explains_itself(name):
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "--output" in done.stdout


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


def test_table_2_judges_what_is_there(tmp_path, monkeypatch):
    """Centres apart by hand: doing nothing lays them on each other, so Dice is 1 and nothing folds."""
    for name in ("a", "b"):
        array = blob((16, 17, 18), 3)
        origin = (0.0, 0.0, 0.0) if name == "a" else (40.0, -3.0, 5.0)
        save_image((array * 50).astype("float32"), tmp_path / f"in/images/{name}.nii.gz", Origin=origin)
        save_image(array.astype("uint8"), tmp_path / f"in/labels/{name}.nii.gz", Origin=origin)
    monkeypatch.setenv("PATH", "")
    options = {"data": tmp_path / "in", "output": tmp_path / "out", "results": tmp_path / "R.md", "pairs": 2}
    Table2(**options, tools=("nothing", "NiftyReg")).run()
    table = (tmp_path / "R.md").read_text()
    assert "| nothing | 1.000 | 0.00 | 0.0000 | 0.000 |" in table
    assert "install NiftyReg" in table


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


def test_a_fold_of_kuangs_table(brains, tmp_path):
    options = {"methods": ("baseline",), "folds": ("B",), "steps": 1, "pairs": 1}
    KuangsTable1(brains, tmp_path / "out", results=tmp_path / "RESULTS.md", **options).run()
    (line,) = (row for row in (tmp_path / "RESULTS.md").read_text().splitlines() if row.startswith("| baseline"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:3] == ["baseline", "B", "1.97 ± 0.73"]
    assert 0 < float(cells[6]) <= 1
    assert (tmp_path / "out/data/groups.csv").read_text().split()[1:] == [
        f"{1000 + k},{'ABC'[k % 3]}" for k in range(6)
    ]
    assert (tmp_path / "out/data/regions.csv").read_text().split()[1:] == ["1,front", "2,back"]
