"""Files from elsewhere: a pickle that would run code is refused in a sentence, and nothing of it runs."""

import io
import os
import pickle
import re
import tarfile
import tomllib
from pathlib import Path

import pytest
import torch
from samples import SMALL, lively_model

from foldless.errors import InputError
from foldless.model import Model
from foldless.published import load_published
from foldless.training.checkpoints import load_checkpoint


class Bait:
    """Makes a folder when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def as_zip(content, file):
    torch.save(content, file)


def as_legacy(content, file):
    torch.save(content, file, _use_new_zipfile_serialization=False)


def as_bare_pickle(content, file):
    file.write_bytes(pickle.dumps(content))


def as_tar(content, file):
    """torch's format of 2016, by which `weights_only` was got around until torch 2.6."""
    with tarfile.open(file, "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(content if name == "pickle" else 0) if name != "sys_info" else pickle.dumps({})
            if name in ("storages", "tensors"):
                data = pickle.dumps(1) + pickle.dumps(content)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def resume(file):
    file.rename(file.with_name("resume.pt"))
    load_checkpoint(SMALL, lively_model(2).registration, file.parent)


@pytest.mark.parametrize("read", [load_published, Model.load, resume])
@pytest.mark.parametrize("save", [as_zip, as_legacy, as_bare_pickle, as_tar])
@pytest.mark.parametrize("name", ["w.trch", "w.safetensors"])
def test_nothing_that_a_file_brings_is_run(tmp_path, read, save, name):
    witness = tmp_path / "it-ran"
    save({"net.lastConv.weight": torch.zeros(2), "extra": Bait(witness)}, tmp_path / name)
    with pytest.raises(InputError) as refused:
        read(tmp_path / name)
    assert not witness.exists()
    assert re.search("never (run|loaded)|cannot be resumed", str(refused.value))
    assert "\n" not in str(refused.value)


def test_the_bait_is_live(tmp_path):
    as_bare_pickle(Bait(tmp_path / "it-ran"), tmp_path / "w.trch")
    pickle.loads((tmp_path / "w.trch").read_bytes())
    assert (tmp_path / "it-ran").exists()


def test_only_versions_of_torch_that_keep_to_weights_are_installed():
    """CVE-2025-32434: before 2.6, `torch.load(weights_only=True)` could be made to run code."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    (torch_,) = (d for d in tomllib.loads(text)["project"]["dependencies"] if d.startswith("torch>"))
    assert tuple(map(int, torch_.removeprefix("torch>=").split("."))) >= (2, 6)
