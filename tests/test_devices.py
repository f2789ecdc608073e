"""Maps, networks, losses and metrics stay on the device of their tensors, which takes no GPU to see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import foldless
from foldless.grid import sample

CASES = Path(__file__).parent / "device_cases.py"
CONTROLS = {"sum of two devices", "points of another device"}


@pytest.fixture(scope="module")
def wrong():
    """What is wrong with each case of `device_cases.py`."""
    source = str(Path(foldless.__file__).parents[1])
    paths = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, str(CASES)], capture_output=True, text=True, env=environment, check=False)
    if "has no attribute '_setup_privateuseone" in done.stderr or "_DummyBackendModule" in done.stderr:
        pytest.skip("this torch pretends no device")
    assert done.returncode == 0, done.stderr
    if torch.__version__ < "2.13" and "'aten::empty_strided' with arguments from the 'pretended'" in done.stdout:
        pytest.skip("this torch allocates on the pretended device, as 2.11 does")
    return json.loads(done.stdout)


def test_everything_follows_its_tensors(wrong):
    assert {name: why for name, why in wrong.items() if why and name not in CONTROLS} == {}
    assert len(wrong) > 25


@pytest.mark.parametrize("name", sorted(CONTROLS))
def test_mixing_devices_is_found(wrong, name):
    assert "pretended" in wrong[name]


def test_values_and_points_share_a_device():
    with pytest.raises(ValueError, match="values on meta cannot be read at points on cpu; move one of them"):
        sample(torch.rand(1, 1, 4, 4, device="meta"), torch.rand(1, 2, 5))
