"""Transform files that are not what they seem, and what formats cannot hold: a sentence each, nothing written."""

import pytest
import SimpleITK as sitk  # noqa: N813
from test_io_formats import EULER, afni
from transform_cases import geometry, transform, wave

from foldless.errors import InputError
from foldless.io import Spaces, read_transform, write_transform


def picture(path):
    sitk.WriteImage(sitk.Image([3, 3, 3], sitk.sitkUInt8), str(path))
    return path


def raw(path, text):
    path.write_text(text)
    return path


BAD = {
    "missing": (lambda d: d / "no.h5", None, "does not exist"),
    "folder": (lambda d: d, None, "is a folder"),
    "another kind": (lambda d: raw(d / "a.docx", "hello"), None, "no transform of a format"),
    "text h5": (lambda d: raw(d / "a.h5", "hello"), None, "cannot be read as an ITK"),
    "4 x 4": (lambda d: raw(d / "a.mat", "1 0 0 0\n" * 4), None, "FSL, NiftyReg and greedy write alike"),
    "not affine": (lambda d: raw(d / "a.mat", "1 0 0 0\n" * 4), "greedy-affine", "the last 0 0 0 1"),
    "words": (lambda d: raw(d / "a.txt", "hello"), None, "more than numbers"),
    "singular": (lambda d: raw(d / "a.mat", "0 0 0 0\n" * 3 + "0 0 0 1"), "flirt", "singular"),
    "no images": (lambda d: raw(d / "a.mat", "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1"), "flirt-alone", "give both images"),
    "several rows": (lambda d: raw(d / "a.1D", ("1 " * 12 + "\n") * 2), None, "2 matrices, one a volume"),
    "lta of two": (
        lambda d: raw(d / "a.lta", "type = 1\nnxforms = 2\n1 4 4\n" + "1 0 0 0\n" * 4),
        None,
        "2 transforms",
    ),
    "lta cut": (lambda d: raw(d / "a.lta", "type = 1\nnxforms = 1\n1 4 4\n1 0"), None, "no matrix"),
    "elastix weird": (lambda d: raw(d / "a.txt", EULER.replace("EulerTr", "WeirdTr")), None, "not known"),
    "elastix short": (lambda d: raw(d / "a.txt", EULER.replace("0.1 0.2", "")), None, "6 parameters; got 4"),
    "elastix away": (lambda d: raw(d / "a.txt", EULER.format(before="no.txt")), None, "which is not there"),
    "elastix ring": (lambda d: raw(d / "a.txt", EULER.format(before="a.txt")), None, "name each other"),
    "no array": (lambda d: raw(d / "a.npy", "hello"), "voxelmorph", "cannot be read as .npy"),
    "an image": (lambda d: afni(d / "a.nii.gz"), "fsl-relative", "shape"),
    "an image of FreeSurfer's": (lambda d: raw(d / "a.mgh", "\0" * 400), None, "has 0 frames"),
    "mgz cut": (lambda d: raw(d / "a.mgz", "hello"), None, "damaged"),
    "an mha image": (lambda d: picture(d / "a.mha"), None, "1 numbers a voxel"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_a_sentence(tmp_path, name):
    make, kind, says = BAD[name]
    fixed = geometry("oblique")
    spaces = Spaces() if kind == "flirt-alone" else Spaces(fixed, fixed)
    with pytest.raises(InputError, match=says):
        read_transform(make(tmp_path), spaces, kind and kind.removesuffix("-alone"))


REFUSED = {
    "affine only": ("smooth warp", "a.lta", None, "holds an affine map only"),
    "AFNI, oblique": ("smooth warp", "a.nii.gz", "afni-field", "oblique"),
    "fields as text": ("smooth warp", "a.tfm", None, "as text"),
    "whose": ("rotation", "a.txt", None, "say whose"),
    "unknown suffix": ("rotation", "a.docx", None, "no transform's name"),
    "unknown format": ("rotation", "a.h5", "x5", "there is no format x5"),
    "another's suffix": ("rotation", "a.h5", "lta", "end in .lta"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_format_cannot_hold_is_said(tmp_path, name):
    kind, file, word, says = REFUSED[name]
    with pytest.raises(InputError, match=says):
        write_transform(transform(kind, geometry("oblique")), tmp_path / file, None, word)
    assert not list(tmp_path.iterdir())


def test_a_field_of_niftyreg_is_no_field_of_itk(tmp_path):
    fixed = geometry("oblique")
    write_transform(transform("smooth warp", fixed), tmp_path / "n.nii.gz", name="niftyreg-disp")
    from foldless.io import read_warp

    with pytest.raises(InputError, match="NiftyReg's, in RAS"):
        read_warp(tmp_path / "n.nii.gz")


def test_a_ras_nrrd_is_refused(tmp_path):
    image = sitk.GetImageFromArray(wave(geometry("axis-aligned")), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "w.nrrd"))
    text = (tmp_path / "w.nrrd").read_bytes().replace(b"left-posterior-superior", b"right-anterior-superior")
    (tmp_path / "w.nrrd").write_bytes(text)
    with pytest.raises(InputError, match="RAS space"):
        read_transform(tmp_path / "w.nrrd")
