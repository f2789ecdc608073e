"""A file is whole or as it was, and on disk before its name is."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from foldless.errors import InputError
from foldless.io import Geometry, write_volume, write_warp
from foldless.io.files import half_written, write_whole


@pytest.fixture
def events(monkeypatch):
    """What is asked of the system, in order: (what, the file or folder)."""
    found = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        found.append((kind, os.fstat(handle).st_size if kind == "file" else os.fstat(handle).st_ino))
        fsync(handle)

    def replaced(source, target):
        found.append(("replaced", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return found


def test_bytes_are_on_disk_before_the_name_and_the_name_before_it_returns(tmp_path, events):
    write_whole(tmp_path / "a.txt", lambda file: file.write_text("whole"))
    assert events == [("file", 5), ("replaced", "a.txt"), ("folder", tmp_path.stat().st_ino)]
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("sitk::ERROR: no such format")])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    (tmp_path / "a.txt").write_text("before")

    def fail(file):
        file.write_text("half")
        raise error

    with pytest.raises(InputError, match=r"a\.txt cannot be written: [Nn]o s"):
        write_whole(tmp_path / "a.txt", fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "before")]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.png", "a.tif", "w.nii.gz"])
def test_an_image_of_which_a_full_disk_took_a_part(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("before")
    write, lattice = sitk.WriteImage, Geometry((50, 40), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 2)).astype(np.uint8)

    def cut_short(image, file, **more):
        write(image, file, **more)
        os.truncate(file, os.path.getsize(file) * 2 // 3)

    monkeypatch.setattr(sitk, "WriteImage", cut_short)
    warp = (write_warp, noise.astype(np.float32))
    write_it, what = warp if name.startswith("w") else (write_volume, noise[..., 0])
    with pytest.raises(InputError, match="cannot be written"):
        write_it(what, lattice, tmp_path / name)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "before")]


def test_a_disk_that_fails_to_keep_the_bytes_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("before")

    def fail(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="Input/output error"):
        write_whole(tmp_path / "a.txt", lambda file: file.write_text("after"))
    assert (tmp_path / "a.txt").read_text() == "before"


def test_names_as_long_as_the_system_takes(tmp_path):
    name = "x" * 248 + ".nii.gz"
    write_whole(tmp_path / name, lambda file: file.write_text("whole"))
    assert [path.name for path in tmp_path.iterdir()] == [name]


KILLED = """
import os, signal, sys
from pathlib import Path
from foldless.io.files import write_whole

def die(file):
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

write_whole(Path(sys.argv[1]), die)
"""


@pytest.mark.skipif(os.name != "posix", reason="no such signal")
def test_what_a_kill_leaves_is_found(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("a.nii.gz", "below/b", ".new-hidden"):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], timeout=60, check=False)
    for mine in ("a.new-00000000", ".a.new-words", ".a.old-00000000"):
        (tmp_path / mine).touch()
    found = half_written(tmp_path)
    assert len(found) == 3
    assert not any((tmp_path / name).exists() for name in ("a.nii.gz", "below/b"))
    assert {file.read_text() for file in found} == {"half"}
