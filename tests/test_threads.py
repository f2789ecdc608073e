"""No two threads of a kernel touch the same memory: the compiler's thread sanitizer watches them."""

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
KERNELS = TESTS.parent / "src" / "foldless" / "kernels"
SOURCES = [
    TESTS / "threads.cpp",
    *(path for path in sorted(KERNELS.glob("*.cpp")) if path.stem != "version"),
]
FOUND = 66  # the sanitizer's exit status


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A program that calls every threaded kernel, compiled for the sanitizer."""
    compiler = shutil.which("g++")
    if compiler is None or not KERNELS.is_dir():
        pytest.skip("the kernels' threads are watched with g++, from a checkout")
    folder = tmp_path_factory.mktemp("threads")
    flags = ["-std=c++17", "-Og", "-g1", "-fsanitize=thread", "-Wno-psabi"]
    jobs = []
    for source in SOURCES:  # compiled with OpenMP, linked without: threads.cpp has what they call of it
        command = [compiler, *flags, "-fopenmp", "-c", str(source), "-o", str(folder / f"{source.stem}.o")]
        jobs.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    complaints = "".join(job.communicate()[1] for job in jobs)
    program = folder / "threads"
    objects = [str(folder / f"{source.stem}.o") for source in SOURCES]
    linked = subprocess.run(
        [compiler, *flags, *objects, "-pthread", "-o", str(program)], capture_output=True, text=True
    )
    if linked.returncode != 0 and "tsan" in linked.stderr:
        pytest.skip("the compiler has no thread sanitizer")
    assert linked.returncode == 0, complaints + linked.stderr
    return program


def run(program, *arguments):
    # Without randomised addresses, which the sanitizer of some systems cannot place its shadow among.
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    return subprocess.run([*fixed, str(program), *arguments], capture_output=True, text=True, check=False)


def test_the_sanitizer_finds_a_planted_race(watched):
    done = run(watched, "planted")
    assert done.returncode == FOUND, done.stderr
    assert "data race" in done.stderr


def test_the_sanitizer_finds_no_race_in_the_kernels(watched):
    done = run(watched)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
