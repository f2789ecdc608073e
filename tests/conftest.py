"""Fixtures of every test: one seed, the folder of real images."""

import os
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
import typed

typed.install()  # before anything of foldless is imported

os.environ.pop("COLUMNS", None)  # which processes of pytest-xdist have, and rich would keep for good

REAL_DATA = Path(os.environ.get("FOLDLESS_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")).resolve()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real images: set FOLDLESS_DATA to their folder ({REAL_DATA} does not exist)")
    return REAL_DATA


@pytest.fixture
def foldless(monkeypatch, capsys):
    """The command line, in this process: (exit code, what was said, what was complained about).

    Where no --device is given it computes on the CPU, on which results are the same bits, whatever else there is.
    """
    from foldless.cli import main

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("foldless.machine._finds_gpu", lambda: False)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        arguments = [str(word) for word in words]
        monkeypatch.setattr(sys, "argv", ["foldless", *arguments])
        try:
            code = main(arguments)
        except SystemExit as left:  # tyro's way of refusing
            code = int(left.code or 0)
        return code, *capsys.readouterr()

    return run
