"""`foldless certify` and `repair`, and the certificate that `register` and `evaluate` leave."""

import io
import json
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from samples import blob, save_image

from foldless.io import Geometry, read_warp, write_warp
from foldless.proofs import certify_warp

SHAPE = (9, 10, 11)


def warp_file(path, fold=False, dim=3):
    """A warp at rest, in which one node is carried beyond its neighbours if it is to fold."""
    shape = SHAPE[-dim:]
    field = np.zeros((*shape, dim), np.float32)
    if fold:
        field[tuple(n // 2 for n in shape)] = 1.7
    write_warp(field, Geometry.of(sitk.GetImageFromArray(np.zeros(shape, np.float32))), path)
    return path


@pytest.mark.parametrize("name", ["warp.nii.gz", "warp.h5"])
@pytest.mark.parametrize("dim", [2, 3])
def test_certify_tells_proven_from_refuted(foldless, tmp_path, name, dim):
    sound, torn = warp_file(tmp_path / name, dim=dim), warp_file(tmp_path / f"torn_{name}", fold=True, dim=dim)
    code, said, complained = foldless("certify", sound)
    assert (code, complained) == (0, "")
    assert "proven fold-free" in said
    code, said, complained = foldless("certify", sound, torn)
    assert code == 3
    assert "refuted" in said
    assert f"torn_{name}" in complained
    assert "repair" in complained


def test_certify_writes_what_it_found(foldless, tmp_path):
    torn = warp_file(tmp_path / "torn.nii.gz", fold=True)
    out = tmp_path / "new" / "found.json"
    assert foldless("certify", torn, "--output", out)[0] == 3
    found = json.loads(out.read_text())
    one = found["warps"][str(torn)]
    assert one["state"] == "refuted"
    assert one["determinant"] <= 0
    assert len(one["witness"]) == 3
    assert found["run"]["command"] == "certify"
    code, _, complained = foldless("certify", torn, "--output", out)
    assert code == 2
    assert "--overwrite" in complained
    assert foldless("certify", torn, "--output", tmp_path / "found.txt")[0] == 2


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 2, 3, 0)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_certify_reads_learn2reg(foldless, tmp_path, order, dtype):
    field = np.zeros((3, *SHAPE), dtype)
    field[:, 4, 5, 5] = 1.5
    np.savez_compressed(tmp_path / "disp.npz", field.transpose(order))
    assert foldless("certify", tmp_path / "disp.npz")[0] == 3
    assert foldless("certify", tmp_path / "disp.npz", "--apart", 8)[0] == 0


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"a": np.zeros((3, 4, 5, 6), np.float32), "b": np.zeros(3)}, "(3,)"),
        ({"a": np.zeros((4, 4, 5, 6), np.float32)}, "(4, 4, 5, 6)"),
        ({"a": np.zeros((3, 4, 5, 6), np.int32)}, "(3, 4, 5, 6)"),
        ({"a": np.full((3, 4, 5, 6), np.nan, np.float32)}, "not finite"),
        ({"a": np.array([{"a": 1}], dtype=object)}, "cannot be read"),
        ({"a": np.zeros((3, 0, 5, 6), np.float32)}, "(3, 0, 5, 6)"),
    ],
)
def test_certify_refuses_other_arrays(foldless, tmp_path, arrays, says):
    np.savez(tmp_path / "disp.npz", **arrays)
    code, said, complained = foldless("certify", tmp_path / "disp.npz")
    assert (code, said) == (2, "")
    assert says in complained


def as_bare_array(whole):
    file = io.BytesIO()
    np.save(file, np.zeros((3, 4, 5, 6), np.float32))
    return file.getvalue()


def with_bytes(at, *values):
    def changed(whole):
        return whole[:at] + bytes(values) + whole[at + len(values) :]

    return changed


def promising_much(whole):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arr_0.npy", _array_file().replace(b"4, 5, 6", b"4444444, 55555, 66666"))
    return file.getvalue()


def with_a_text(whole):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arr_0.npy", _array_file())
        archive.writestr("readme.txt", "hello")
    return file.getvalue()


def _array_file():
    file, header = io.BytesIO(), {"descr": "<f4", "fortran_order": False, "shape": (3, 4, 5, 6)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(4 * 3 * 4 * 5 * 6)


DAMAGED = {
    "an array without an archive": as_bare_array,
    "a broken stream": with_bytes(300, *range(60)),
    "an unknown compression": lambda whole: whole.replace(b"\x08\x00\x00\x00!\x00", b"\x63\x00\x00\x00!\x00"),
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "more than there is": promising_much,
    "a text beside": with_a_text,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_certify_refuses_damaged_archives(foldless, tmp_path, name):
    whole = io.BytesIO()
    np.savez_compressed(whole, np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32))
    damaged = DAMAGED[name](whole.getvalue())
    assert damaged != whole.getvalue()
    (tmp_path / "disp.npz").write_bytes(damaged)
    code, said, complained = foldless("certify", tmp_path / "disp.npz")
    assert (code, said) == (2, "")
    assert "cannot be read as .npz" in complained


def test_certify_evaluates_an_affine_transform_where_it_is_told(foldless, tmp_path):
    affine = sitk.AffineTransform(3)
    affine.SetMatrix([1.2, 0.1, 0, 0, 0.9, 0, 0, 0, 1.1])
    sitk.WriteTransform(affine, str(tmp_path / "affine.h5"))
    image = save_image(blob(SHAPE, 0), tmp_path / "a.nii.gz")
    code, _, complained = foldless("certify", tmp_path / "affine.h5")
    assert code == 2
    assert "AffineTransform" in complained
    assert foldless("certify", tmp_path / "affine.h5", "--reference", image)[0] == 0


@pytest.mark.parametrize("name", ["warp.nii.gz", "warp.h5"])
def test_repair_writes_a_proven_warp(foldless, tmp_path, name):
    torn = warp_file(tmp_path / f"torn_{name}", fold=True)
    image = save_image(blob(SHAPE, 0), tmp_path / "a.nii.gz")
    code, said, complained = foldless("repair", torn, "--image", image, "--output", tmp_path / "new" / name)
    assert (code, complained) == (0, "")
    assert "repaired" in said
    assert certify_warp(*read_warp(tmp_path / "new" / name)).proven
    code, _, complained = foldless("repair", torn, "--output", tmp_path / "new" / name)
    assert code == 2
    assert "--overwrite" in complained


def test_repair_says_what_it_cannot_mend_and_writes_nothing(foldless, tmp_path):
    field = np.zeros((6, 6, 2), np.float32)
    field[..., 0] = -2 * np.arange(6)
    write_warp(field, Geometry.of(sitk.GetImageFromArray(np.zeros((6, 6), np.float32))), tmp_path / "mirror.nii.gz")
    code, _, complained = foldless("repair", tmp_path / "mirror.nii.gz", "--output", tmp_path / "out.nii.gz")
    assert code == 3
    assert "not repaired" in complained
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--output", "torn.nii.gz", "--overwrite"), "one of the inputs"),
        (("--output", "out.tfm"), "give .h5 or .nii.gz"),
        (("--output", "out.nii.gz", "--margin", "2"), "--margin"),
        (("--output", "out.nii.gz", "--image", "other.nii.gz"), "other.nii.gz is not on the lattice"),
    ],
)
def test_repair_refuses(foldless, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    warp_file(tmp_path / "torn.nii.gz", fold=True)
    save_image(blob((5, 6, 7), 0), tmp_path / "other.nii.gz")
    code, said, complained = foldless("repair", "torn.nii.gz", *words)
    assert code == 2
    assert says in complained
    assert "repaired" not in said


def test_register_leaves_proven_maps_and_their_certificates(foldless, tmp_path):
    a, b = (save_image(blob((16, 17, 18), seed), tmp_path / f"{seed}.nii.gz") for seed in (0, 1))
    words = (
        "register",
        a,
        b,
        "--optimiser",
        "adam",
        "--steps",
        12,
        "--weight",
        0.0,
        "--rate",
        0.05,
        "--placement",
        "centre",
    )
    code, said, _ = foldless(*words, "--output", tmp_path / "out")
    assert code == 0
    assert said.count("proven fold-free") == 2
    found = json.loads((tmp_path / "out" / "certificate.json").read_text())
    for name in ("warp", "inverse_warp"):
        assert found[name]["state"] == "proven"
        field, geometry = read_warp(tmp_path / "out" / f"{name}.nii.gz")
        assert certify_warp(field, geometry).digest == found[name]["digest"]
    assert sum(found[name]["repair"]["failed"] for name in found) > 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["certificate"]["proven"] == 1
    assert metrics["folds_percent"]["ten"] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Proven fold-free in both directions" in page
    assert "least volume" in page.lower()
    code, _, complained = foldless(*words, "--output", tmp_path / "kept", "--keep-folds")
    assert code == 3
    assert "not proven" in complained
    assert (tmp_path / "kept" / "warp.nii.gz").is_file()
    assert "Not proven fold-free" in (tmp_path / "kept" / "report.html").read_text()
