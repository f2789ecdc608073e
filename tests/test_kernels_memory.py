"""What a kernel that finds no memory, or fails, comes to: an exception in Python, never the end of the process."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foldless import kernels
from foldless.cli.failures import lacks_memory
from foldless.kernels import library

TESTS = Path(__file__).parent
KERNELS = TESTS.parent / "src" / "foldless" / "kernels"

pytestmark = pytest.mark.skipif(
    not kernels.native_status()[0], reason=f"no compiled kernel: {kernels.native_status()[1]}"
)


def test_every_request_for_memory_may_be_refused(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("requests are refused by what g++ compiles and Linux loads before the C++ library")
    scarce = tmp_path / "scarce.so"
    source = TESTS / "scarce.cpp"
    subprocess.run([compiler, "-std=c++17", "-O1", "-shared", "-fPIC", str(source), "-o", str(scarce)], check=True)
    command = [sys.executable, str(TESTS / "memory_cases.py"), str(scarce)]
    environment = {**os.environ, "LD_PRELOAD": str(scarce)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = {name: int(count) for name, count in map(str.split, done.stdout.splitlines())}
    allocate = (
        "certify",
        "consistency",
        "correlate",
        "judge",
        "norm_reduce",
        "sample_backward",
        "square_backward",
        "thin",
    )
    for kernel in allocate:
        assert any(kernel in name and count for name, count in refused.items()), (kernel, refused)


class Failing:
    def __init__(self, status):
        self.foldless_kernel = lambda *_: status


@pytest.mark.parametrize(("status", "error"), [(1, MemoryError), (2, RuntimeError)])
def test_a_status_becomes_an_exception(status, error, monkeypatch):
    monkeypatch.setattr(library, "library", lambda: (Failing(status), ""))
    with pytest.raises(error, match="the compiled kernel 'kernel'") as raised:
        library.call("kernel")
    assert lacks_memory(raised.value) == (error is MemoryError)


def test_done_is_no_exception(monkeypatch):
    monkeypatch.setattr(library, "library", lambda: (Failing(0), ""))
    library.call("kernel")


def test_nothing_is_thrown_out_of_c():
    """Functions with a C interface, but those that cannot throw, return a status, which only one function makes."""
    if not KERNELS.is_dir():
        pytest.skip("the sources are read from a checkout")
    text = "".join(path.read_text() for path in sorted(KERNELS.glob("*.cpp")))
    found = re.findall(r'extern "C" (\w+) (foldless_\w*)[^{]*\{([^}]*)', text)
    assert len(found) == text.count('extern "C" ')
    plain = {"foldless_version", "foldless_lanes"}
    assert {name for kind, name, _ in found if kind != "Status"} == plain
    for _, name, body in found:
        assert name in plain or body.strip(" \\\n").startswith("return status_of("), name
