"""Bad input: exit code 2, one plain sentence, nothing written; the table of the issue."""

import pickle
import shutil

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from safetensors.torch import save_file
from samples import blob, run_folder, save_case, save_cases, save_image
from test_model import Malicious

HERE = (-7.0, -8.0, -6.0)
"""An origin, without which a note is due."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One good and many bad inputs, in one folder."""
    home = tmp_path_factory.mktemp("whole")
    shape = (14, 15, 16)
    image = (blob(shape, 0) * 50.0).astype(np.float32)
    save_image(image, home / "a.nii.gz", Origin=HERE)
    save_image(np.flip(image, 1).copy(), home / "b.nii.gz", Origin=HERE)
    save_image(blob(shape, 0).astype(np.uint8), home / "a_seg.nii.gz", Origin=HERE)
    save_image(blob((14, 15, 17), 0).astype(np.uint8), home / "other_seg.nii.gz", Origin=HERE)
    save_image(blob(shape, 0).astype(np.float32) / 2, home / "half_seg.nii.gz", Origin=HERE)
    save_image(image[7], home / "flat.nii.gz", Origin=HERE[:2])
    two = sitk.JoinSeries([sitk.GetImageFromArray(image)] * 2)
    sitk.WriteImage(two, str(home / "two_volumes.nii.gz"))
    save_image(np.where(image > 60, np.nan, image).astype(np.float32), home / "nan.nii.gz")
    save_image(np.where(image > 60, np.nan, image).astype(np.float32), home / "nan.mha")
    save_image(np.full(shape, 7, np.uint8), home / "constant.nii.gz")
    (home / "text.nii.gz").write_text("this is no image")
    (home / "cut.nii.gz").write_bytes((home / "a.nii.gz").read_bytes()[:-40])
    run_folder(home / "run", 3)
    run_folder(home / "run2d", 2)
    weights = home / "run/best.safetensors"
    (home / "cut.safetensors").write_bytes(weights.read_bytes()[:-10])
    save_file({"w": torch.zeros(2)}, home / "foreign.safetensors")
    (home / "pickle.pt").write_bytes(pickle.dumps(Malicious(home / "it-ran")))
    torch.save({"w": torch.zeros(2)}, home / "torch.pt")
    (home / "empty_run").mkdir()
    (home / "taken").mkdir()
    (home / "taken/thesis.txt").write_text("years of work")
    save_cases(home / "data", 4, (12, 12, 12))
    (home / "no_images/images").mkdir(parents=True)
    (home / "no_folder").mkdir()
    save_case(home / "one", "lonely", (12, 12, 12), 0)
    save_cases(home / "nan_data", 3, (12, 12, 12))
    shutil.copy(home / "nan.nii.gz", home / "nan_data/images/case_2.nii.gz")
    save_cases(home / "bad_labels", 3, (12, 12, 12))
    save_image(blob((12, 12, 11), 0).astype(np.uint8), home / "bad_labels/labels/case_3.nii.gz")
    save_cases(home / "mixed", 3, (12, 12, 12))
    save_case(home / "mixed", "flat", (12, 12), 0)
    return home


GOOD = {"moving": "a.nii.gz", "fixed": "b.nii.gz", "--model": "run", "--output": "out"}
REGISTER = {
    "missing": ({"moving": "nowhere.nii.gz"}, "nowhere.nii.gz does not exist"),
    "a folder": ({"fixed": "data"}, "is a folder"),
    "no image": ({"fixed": "text.nii.gz"}, "cannot be read"),
    "cut off": ({"fixed": "cut.nii.gz"}, "cut.nii.gz"),
    "4-D": ({"moving": "two_volumes.nii.gz"}, "2 volumes"),
    "2-D for a 3-D model": ({"moving": "flat.nii.gz", "fixed": "flat.nii.gz"}, "3-D"),
    "2-D onto 3-D": ({"moving": "flat.nii.gz"}, "2-D"),
    "model of another dimension": ({"--model": "run2d"}, "2-D"),
    "NaN": ({"moving": "nan.nii.gz"}, "NaN"),
    "NaN, not NIfTI": ({"fixed": "nan.mha"}, "NaN"),
    "constant": ({"fixed": "constant.nii.gz"}, "7 in every voxel"),
    "labels elsewhere": (
        {"--moving-labels": "a_seg.nii.gz", "--fixed-labels": "other_seg.nii.gz"}, "other_seg.nii.gz",
    ),
    "moving labels elsewhere": (
        {"--moving-labels": "other_seg.nii.gz", "--fixed-labels": "a_seg.nii.gz"}, "other_seg.nii.gz",
    ),
    "labels missing": ({"--moving-labels": "a_seg.nii.gz", "--fixed-labels": "no_seg.nii.gz"}, "no_seg.nii.gz"),
    "labels of halves": ({"--moving-labels": "half_seg.nii.gz", "--fixed-labels": "a_seg.nii.gz"}, "whole numbers"),
    "one label file": ({"--moving-labels": "a_seg.nii.gz"}, "both --moving-labels and --fixed-labels"),
    "the other label file": ({"--fixed-labels": "a_seg.nii.gz"}, "both --moving-labels and --fixed-labels"),
    "no model": ({"--model": "nowhere"}, "nowhere does not exist"),
    "no finished run": ({"--model": "empty_run"}, "best.safetensors"),
    "weights cut off": ({"--model": "cut.safetensors"}, "not a safetensors file"),
    "foreign weights": ({"--model": "foreign.safetensors"}, "not written by foldless"),
    "a pickle": ({"--model": "pickle.pt"}, "never loaded"),
    "torch's own": ({"--model": "torch.pt"}, "never loaded"),
    "an image as a model": ({"--model": "a.nii.gz"}, "not a safetensors file"),
    "output exists": ({"--output": "taken"}, "taken exists"),
    "output is a file": ({"--output": "text.nii.gz"}, "is a file"),
    "output below a file": ({"--output": "text.nii.gz/out"}, "text.nii.gz"),
    "output in the model": ({"--output": "run/out"}, "within each other"),
    "output holds the inputs": ({"--output": "."}, "within each other"),
}  # fmt: skip
DATA = {
    "no data": ("nowhere", "does not exist"),
    "no images/": ("no_folder", "images/"),
    "no images": ("no_images", "holds no image"),
    "one image": ("one", "one image only"),
    "NaN": ("nan_data", "NaN"),
    "labels elsewhere": ("bad_labels", "case_3"),
    "mixed dimensions": ("mixed", "flat"),
}


def refused(foldless, home, monkeypatch, says, *words):
    monkeypatch.chdir(home)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    code, said, complained = foldless(*words)
    assert code == 2, complained
    assert says in complained
    assert complained.startswith("foldless: ")
    assert complained.count("\n") == 1
    assert "Traceback" not in said + complained
    assert "sitk::ERROR" not in complained
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    assert not (home / "it-ran").exists()


def spelled(options):
    words = [options["moving"], options["fixed"]] if "moving" in options else []
    return words + [word for name, value in options.items() if name.startswith("--") for word in (name, value)]


@pytest.mark.parametrize("name", REGISTER)
def test_register_refuses(foldless, whole, monkeypatch, name):
    changes, says = REGISTER[name]
    refused(foldless, whole, monkeypatch, says, "register", *spelled({**GOOD, **changes}))


@pytest.mark.parametrize("name", DATA)
def test_train_refuses(foldless, whole, monkeypatch, name):
    folder, says = DATA[name]
    refused(foldless, whole, monkeypatch, says, "train", "--data", folder, "--output", "out", "--steps", 1)


@pytest.mark.parametrize("name", DATA)
def test_evaluate_refuses(foldless, whole, monkeypatch, name):
    folder, says = DATA[name]
    if name == "one image":
        says = "a pair takes two"
    refused(foldless, whole, monkeypatch, says, "evaluate", "--model", "run", "--data", folder, "--output", "out")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train",), "train needs --data"),
        (("train", "--data", "data"), "train needs --data"),
        (("train", "--data", "data", "--output", "taken"), "taken exists"),
        (("train", "--data", "data", "--output", "taken", "--overwrite"), "will not be deleted"),
        (("train", "--data", "data", "--output", "data/run"), "within each other"),
        (("train", "--data", "data", "--output", "."), "within each other"),
        (("train", "--data", "data", "--output", "text.nii.gz/run"), "text.nii.gz"),
        (("train", "--data", "mnist:nowhere", "--output", "out"), "train-images-idx3-ubyte"),
        (("train", "--resume", "nowhere"), "nowhere"),
        (("train", "--resume", "empty_run"), "run.json"),
        (("train", "--config", "nowhere"), "nowhere"),
        (("train", "--config", "text.nii.gz"), "not the record of a run"),
        (("evaluate", "--model", "run", "--data", "data", "--output", "taken"), "taken exists"),
        (("evaluate", "--model", "run2d", "--data", "data", "--output", "out"), "2-D"),
        (("evaluate", "--model", "run", "--data", "shapes", "--output", "out"), "(16, 16, 16)"),
        (("evaluate", "--model", "foreign.safetensors", "--data", "data", "--output", "out"), "not written"),
        (("evaluate", "--model", "run", "--data", "data", "--pairs", "no.csv", "--output", "out"), "no.csv"),
        (("evaluate", "--model", "run2d", "--data", "shapes", "--pairs", "no.csv", "--output", "out"), "--pairs"),
        (("demo", "--output", "taken"), "taken exists"),
        (("demo", "--output", "taken", "--overwrite"), "will not be deleted"),
        (("demo", "--output", "out", "--steps", -1), "steps"),
        (("apply", "a.nii.gz", "a.nii.gz", "--reference", "b.nii.gz", "--output", "o.nii.gz"), "displacement"),
        (("demo", "--output", "text.nii.gz/demo", "--steps", 1), "text.nii.gz"),
        (("apply", "nowhere", "a.nii.gz", "--reference", "b.nii.gz", "--output", "o.nii.gz"), "nowhere"),
    ],
)
def test_other_commands_refuse(foldless, whole, monkeypatch, words, says):
    refused(foldless, whole, monkeypatch, says, *words)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("trian",),
        ("train", "--data", "shapes", "--size", 3, "--output", "out"),
        ("train", "--unknown", 1),
        ("train", "--rate", "fast"),
        ("register", "a"),
        ("train", "--data"),
    ],
)
def test_unknown_words(foldless, whole, monkeypatch, words):
    monkeypatch.chdir(whole)
    before = sorted(whole.rglob("*"))
    code, _, complained = foldless(*words)
    assert code == 2
    assert complained
    assert "Traceback" not in complained
    assert sorted(whole.rglob("*")) == before


def test_a_record_of_something_else_is_not_ours_to_delete(foldless, whole, monkeypatch, tmp_path):
    monkeypatch.chdir(whole)
    for content in ("{}", '{"versions": {"torch": "2"}}', "[]", "x"):
        (tmp_path / "run.json").write_text(content)
        words = ("register", *spelled({**GOOD, "--output": tmp_path}), "--overwrite")
        code, _, complained = foldless(*words)
        assert code == 2
        assert "will not be deleted" in complained
        assert (tmp_path / "run.json").read_text() == content


def test_overwriting_replaces_all(foldless, whole, monkeypatch, tmp_path):
    monkeypatch.chdir(whole)
    words = ("register", *spelled({**GOOD, "--output": tmp_path / "new" / "out"}))
    assert foldless(*words, "--warp-format", "h5")[0] == 0
    assert foldless(*words)[0] == 2
    assert (tmp_path / "new/out/warp.h5").exists()
    assert foldless(*words, "--overwrite")[0] == 0
    assert not (tmp_path / "new/out/warp.h5").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_an_empty_folder_may_be_filled(foldless, whole, monkeypatch, tmp_path):
    monkeypatch.chdir(whole)
    (tmp_path / "out").mkdir()
    assert foldless("register", *spelled({**GOOD, "--output": tmp_path / "out"}))[0] == 0


@pytest.mark.parametrize("earlier", [False, True])
def test_a_failure_half_way_leaves_what_was_there(foldless, whole, monkeypatch, tmp_path, earlier):
    import foldless.report as report
    from foldless.errors import InputError

    def fail(*_, **__):
        raise InputError("the disk is full")

    monkeypatch.chdir(whole)
    words = ("register", *spelled({**GOOD, "--output": tmp_path / "deep" / "out"}), "--overwrite")
    if earlier:
        assert foldless(*words)[0] == 0
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(report, "write_report", fail)
    assert foldless(*words)[0] == 2
    assert sorted(tmp_path.rglob("*")) == before
