"""Mindboggle-101 on a synthetic folder of its layout, sizes and label numbers; numpy's slices are the judge."""

import nibabel
import numpy as np
import pytest

from foldless.crossvalidation import read_groups, read_regions
from foldless.data.folder import case_names
from foldless.data.mindboggle import IMAGE, LABELS, REGIONS, prepare_mindboggle
from foldless.errors import InputError

SUBJECT = "NKI-RS-22-10"
AFFINE = np.array([[-1.0, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])  # MNI152's 1 mm grid
ROUNDED = 1e-6  # float32


def brain():
    """Stripes in every direction, and labels of both hemispheres in blocks."""
    x, y, z = np.ogrid[:182, :218, :182]
    image = ((x * y + 3 * z) % 200).astype(np.int16)
    labels = np.zeros((182, 218, 182), dtype=np.int16)
    numbers = [side + k for side in (1000, 2000) for ks in REGIONS.values() for k in ks]
    for place, number in enumerate(numbers):
        labels[25 + 2 * place : 27 + 2 * place, 30:190, 30:150] = number
    return image, labels


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mindboggle")
    for name in (SUBJECT, "MMRR-21-1"):
        (folder / "volumes" / f"{name.rpartition('-')[0]}_volumes" / name).mkdir(parents=True)
    (folder / "volumes/MMRR-21_volumes/MMRR-21-1" / IMAGE).touch()  # of no subset that is used, so never read
    for array, file in zip(brain(), (IMAGE, LABELS), strict=True):
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), folder / "volumes/NKI-RS-22_volumes" / SUBJECT / file)
    prepare_mindboggle(folder / "volumes", folder / "ready")
    return folder


def test_brains_are_divided_by_their_maximum_and_cropped_about_their_centre(cohort):
    crop = (slice(19, 163), slice(19, 199), slice(19, 163))
    image, labels = brain()
    ready, marked = (nibabel.load(cohort / "ready" / part / f"{SUBJECT}.nii.gz") for part in ("images", "labels"))
    assert ready.shape == (144, 180, 144)
    np.testing.assert_allclose(ready.get_fdata(), image[crop] / 199, rtol=0, atol=ROUNDED)
    np.testing.assert_array_equal(np.asarray(marked.dataobj), labels[crop])
    first = AFFINE @ [19, 19, 19, 1]
    np.testing.assert_allclose(ready.affine[:, 3], first, rtol=0, atol=1e-4)


def test_only_the_three_subsets_take_part(cohort):
    assert list(case_names(cohort / "ready")) == [SUBJECT]
    assert read_groups(cohort / "ready/groups.csv", [SUBJECT]) == {SUBJECT: "NKI-RS-22"}


def test_regions_are_kuangs(cohort):
    regions = read_regions(cohort / "ready/regions.csv")
    assert len(regions) == 50, "25 a hemisphere"
    assert regions[1035] == regions[2002] == "cingulate"
    assert regions[2034] == "temporal"


def test_what_is_ready_is_not_made_again(cohort):
    file = cohort / "ready/images" / f"{SUBJECT}.nii.gz"
    before = file.stat().st_mtime_ns
    assert prepare_mindboggle(cohort / "volumes", cohort / "ready") == [SUBJECT]
    assert file.stat().st_mtime_ns == before


def test_the_command(foldless, cohort):
    code, said, complained = foldless("prepare", "mindboggle101", cohort / "volumes", "--output", cohort / "ready")
    assert (code, complained) == (0, "")
    assert "1 subjects" in said
    assert f"foldless crossvalidate --data {cohort / 'ready'}" in said


def test_folders_that_are_not_the_cohort(tmp_path):
    with pytest.raises(InputError, match="unpack"):
        prepare_mindboggle(tmp_path, tmp_path / "out")
    home = tmp_path / "OASIS-TRT-20-1"
    home.mkdir()
    nibabel.save(
        nibabel.Nifti1Image(np.eye(20, dtype=np.int16)[..., None] * np.ones(6, np.int16), AFFINE), home / IMAGE
    )
    with pytest.raises(InputError, match="holds no labels"):
        prepare_mindboggle(tmp_path, tmp_path / "out")
    nibabel.save(
        nibabel.Nifti1Image(np.eye(20, dtype=np.int16)[..., None] * np.ones(6, np.int16), AFFINE), home / LABELS
    )
    with pytest.raises(InputError, match="182, 218, 182"):
        prepare_mindboggle(tmp_path, tmp_path / "out")
