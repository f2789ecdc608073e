"""The experiment on proofs: what it counts of a pair, and the lines that it makes of many."""

from functools import partial

from samples import save_cases

from experiments.proofs import ALONE, Proofs, alone, held_row, judge, row_of


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
