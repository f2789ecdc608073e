"""Experiments explain themselves without extras, and tell what was run."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import blob, save_image

ROOT = Path(__file__).parents[1]


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


def test_help_needs_no_extras():
    command = [sys.executable, "-m", "experiments.kuang_table1", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "published beside measured" in " ".join(done.stdout.replace("│", " ").split())


def test_a_fold_of_kuangs_table(brains, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    table = importlib.import_module("experiments.kuang_table1")
    table.Table1(brains, tmp_path / "out", methods=("baseline",), folds=("B",), steps=1, pairs=1).run()
    lines = (tmp_path / "out/table.md").read_text().splitlines()
    assert len(lines) == 3
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells[:3] == ["baseline", "B", "1.97 ± 0.73"]
    assert 0 < float(cells[6]) <= 1
    assert (tmp_path / "out/data/groups.csv").read_text().split()[1:] == [
        f"{1000 + k},{'ABC'[k % 3]}" for k in range(6)
    ]
    assert (tmp_path / "out/data/regions.csv").read_text().split()[1:] == ["1,front", "2,back"]
