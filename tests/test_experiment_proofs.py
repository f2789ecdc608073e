"""The experiment on proofs: what it counts of a pair, and the lines that it makes of many."""

from functools import partial

import numpy as np
import pytest
import torch
from samples import save_cases

from experiments.proofs import ALONE, Proofs, alone, held_row, judge, row_of
from experiments.unseen_folds import UnseenFolds, constructed, determinants, unseen, worst_of


def test_a_pair_is_judged_as_found_repaired_and_brought_home(tmp_path):
    data = save_cases(tmp_path / "data", 2, (18, 16))
    files = [data / f"images/case_{k}.nii.gz" for k in (1, 2)]
    score = judge(partial(alone, {"optimiser": "adam", "steps": 4}), data, *files, tolerances=(0.2,))
    assert score["proven_repaired"] == score["proven_0.2"] == 1
    assert score["error_0.2"] <= 0.2
    assert score["seconds"] <= score["seconds_repaired"] <= score["seconds_0.2"]
    assert 0 < score["dice"] <= 1
    assert score["failing_repaired"] == 0


def test_lines_are_means_shares_and_extremes():
    scores = [
        {
            "proven": k, "failing": 0.5 * k, "proven_repaired": 1.0, "dice": 0.5, "dice_repaired": 0.6, "seconds": 2.0,
            "largest_move_repaired": 0.3 + k, "error_repaired": 0.3, "error_0.2": 0.15 + 0.1 * k, "proven_0.2": 1.0,
            "dice_0.2": 0.7, "seconds_0.2": 3.0 + k,
        }
        for k in (0, 1)
    ]  # fmt: skip
    assert row_of("x", scores) == ("x", "2", "50 %", "25.0000", "100 %", "0.5000", "0.6000", "1.30")
    assert held_row(0.2, scores) == ("0.2", "50 %", "0 %", "100 %", "0.250", "0.7000", "1.75", "2.00")
    assert row_of("x", [])[2] == "not installed"


def test_only_the_defaults_are_held_to_tolerances(tmp_path):
    methods = Proofs(data=tmp_path, output=tmp_path)._methods()
    held = {name: tolerances for name, (_, _, tolerances) in methods.items() if tolerances}
    assert held == {next(iter(ALONE)): (0.5, 0.25, 0.1)}
    assert list(Proofs(data=tmp_path, output=tmp_path, methods=("the pair alone, Adam, ICON",))._methods()) == [
        "the pair alone, Adam, ICON"
    ]


def test_cells_that_fold_unseen_are_found_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.unseen_folds.TRIALS", 60)
    u = constructed()
    assert unseen(u) == [(1, 1, 1)]
    spot = worst_of(u)
    assert spot.at_corners >= 0.19
    assert spot.least < 0
    assert determinants(u, np.array([spot.where]))[0] == pytest.approx(spot.least)
    assert unseen(torch.zeros(3, 4, 4, 4)) == []
    monkeypatch.setattr(UnseenFolds, "_found", lambda self: u)
    UnseenFolds(tmp_path, tmp_path / "runs", pictures=tmp_path, results=tmp_path / "R.md").run()
    assert (tmp_path / "unseen_folds.svg").stat().st_size > 0
    assert "| constructed | 4 × 4 × 4 | 0 | 1 | 1 |" in (tmp_path / "R.md").read_text()
