"""Numbers that make no sense are refused before anything is computed, by every command and for every option."""

import typing
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from samples import blob, run_folder, save_cases, save_image

from foldless.cli import COMMANDS
from foldless.io import Geometry, write_warp

FIRST = {
    "demo": ("--output", "out"),
    "train": ("--data", "data", "--output", "out", "--levels", 1),
    "register": ("a.nii.gz", "b.nii.gz", "--output", "out"),
    "evaluate": ("--model", "run", "--data", "data", "--output", "out"),
    "certify": ("warp.nii.gz",),
    "repair": ("warp.nii.gz", "--output", "out.nii.gz"),
    "apply": ("warp.nii.gz", "a.nii.gz", "--reference", "a.nii.gz", "--output", "out.nii.gz"),
    "crossvalidate": ("--data", "data", "--output", "out", "--methods", "baseline"),
}
BESIDE = {("evaluate", "--rate"): ("--steps", 2)}
"""What an option needs beside it to mean anything."""


def number_in(hint):
    """float or int if an option takes numbers, one or several; None otherwise."""
    kinds = {hint, *typing.get_args(hint)}
    return float if float in kinds else int if int in kinds else None


def numeric_options(kind):
    hints = typing.get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        if is_dataclass(hint):
            yield from numeric_options(hint)
        elif number := number_in(hint):
            option = "--" + field.name.replace("_", "-")
            count = 2 if field.name in ("percentiles", "widths", "widths_up") else 1
            yield option, number, count


CASES = [
    (command, option, [value] * count)
    for command, kind in COMMANDS.items()
    for option, number, count in numeric_options(kind)
    for value in ((-1, "nan", "inf", "-inf", "1e300") if number is float else (-1, 10**30))
    if (option, value) != ("--fill", -1)  # an intensity like any
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("numbers")
    for seed, name in ((1, "a"), (2, "b")):
        save_image((blob((12, 12), seed) * 50.0).astype(np.float32), home / f"{name}.nii.gz")
    save_cases(home / "data", 6, (12, 12))
    lattice = Geometry((12, 12), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    write_warp(np.zeros((12, 12, 2), np.float32), lattice, home / "warp.nii.gz")
    (home / "data/groups.csv").write_text("case,group\n" + "".join(f"case_{k},{'ab'[k % 2]}\n" for k in range(1, 7)))
    run_folder(home / "run", 2)
    return home


def test_every_command_with_numbers_is_tried():
    assert {command for command, *_ in CASES} == set(FIRST)
    assert len(CASES) > 60


@pytest.mark.parametrize(
    ("command", "option", "values"), CASES, ids=[" ".join(map(str, (c, o, *v))) for c, o, v in CASES]
)
def test_a_number_without_sense_is_refused(foldless, home, monkeypatch, command, option, values):
    monkeypatch.chdir(home)
    before = sorted(home.rglob("*"))
    code, said, complained = foldless(command, *FIRST[command], *BESIDE.get((command, option), ()), option, *values)
    assert code == 2, said + complained
    assert complained.startswith("foldless: ")
    assert complained.count("\n") == 1
    assert any(word in complained for word in (option.strip("-").partition("-")[0], "too large", "pixels a side"))
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize("rate", ["1e4", "1e30", "1e38"])
def test_a_rate_far_too_large_ends_in_a_sentence(foldless, home, monkeypatch, rate):
    monkeypatch.chdir(home)
    before = sorted(home.rglob("*"))
    code, _, complained = foldless("register", "a.nii.gz", "b.nii.gz", "--output", "out", "--rate", rate)
    assert code in (1, 2)
    assert complained.startswith("foldless: ")
    assert complained.count("\n") == 1
    assert "rate" in complained or "too large" in complained
    assert sorted(home.rglob("*")) == before
