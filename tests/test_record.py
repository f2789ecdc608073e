"""The record of a run says how to do it again."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from foldless.errors import InputError
from foldless.record import file_digest, installed_version, read_record, run_record, write_json


def test_a_record_holds_arguments_versions_data_and_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["foldless", "train", "--data", "shapes"])
    record = run_record("train", {"recipe": {"seed": 3}}, {"train": "ab12"})
    write_json(record, tmp_path / "run.json")
    read = read_record(tmp_path)
    assert read == read_record(tmp_path / "run.json") == json.loads(json.dumps(record))
    assert read["command"] == "train"
    assert read["arguments"] == ["train", "--data", "shapes"]
    assert read["settings"]["recipe"]["seed"] == 3
    assert read["data_sha256"] == {"train": "ab12"}
    for package in ("foldless", "torch", "numpy", "SimpleITK", "python"):
        assert read["versions"][package][0].isdigit()
    root = Path(__file__).parents[1]
    if (root / ".git").exists():
        head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert read["commit"].startswith(head.stdout.strip())


def test_digest_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"foldless")
    assert file_digest(tmp_path / "file") == hashlib.sha256(b"foldless").hexdigest()


def test_json_has_no_nan_and_knows_paths(tmp_path):
    write_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("d") / "e", 3: (1,)}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5], "c": "d/e", "3": [1]}


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"settings": 3}', b"\xff\xfe", b""])
def test_a_damaged_record(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError, match="not the record of a run"):
        read_record(tmp_path)


def test_no_record(tmp_path):
    with pytest.raises(InputError, match=r"run\.json"):
        read_record(tmp_path)
    assert installed_version("no-such-package") == "not installed"
