"""Fixtures of every test: one seed, the folder of real images."""

import os
from pathlib import Path

import pytest
import torch

REAL_DATA = Path(os.environ.get("FOLDLESS_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")).resolve()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real images: set FOLDLESS_DATA to their folder ({REAL_DATA} does not exist)")
    return REAL_DATA
