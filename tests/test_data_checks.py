"""No file of a folder is passed over without a word: links, names, labels, headers gone wrong."""

import json
import warnings

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from samples import blob, save_cases, save_image

from foldless.data.folder import case_names, folder_split, label_file, split_names
from foldless.data.prepare import Preparation
from foldless.errors import InputError
from foldless.io import read_volume
from foldless.io.volumes import through


def notes(call):
    """What is warned of, and what comes."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = call()
    return [str(one.message) for one in said], result


def renamed(folder, images, labels):
    """Cases under other tools' names, by functions of the case number."""
    for part, name in (("images", images), ("labels", labels)):
        for k in range(1, 9):
            (folder / part / f"case_{k}.nii.gz").rename(folder / part / (name(k) + ".nii.gz"))
    return folder


# Links


def test_links_to_nowhere_are_named(tmp_path):
    save_cases(tmp_path, 8, (12, 12))
    for k in (2, 5):
        file = tmp_path / f"images/case_{k}.nii.gz"
        file.unlink()
        file.symlink_to("../.git/annex/objects/not/here.nii.gz")
    with pytest.raises(InputError, match=r"2 links whose files are missing \(case_2.nii.gz, case_5.nii.gz\)"):
        case_names(tmp_path)


@pytest.mark.parametrize("name", ["labels/case_3.nii.gz", "split.json"])
def test_a_label_or_a_split_that_is_a_link_to_nowhere(tmp_path, name):
    save_cases(tmp_path, 8, (12, 12))
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("elsewhere")
    with pytest.raises(InputError, match="1 links whose files are missing"):
        folder_split(tmp_path)


def test_links_that_lead_somewhere_are_files(tmp_path):
    save_cases(tmp_path / "there", 2, (12, 12))
    (tmp_path / "images").symlink_to("there/images")
    assert list(case_names(tmp_path)) == ["case_1", "case_2"]


# Names


def test_entries_that_are_no_images_by_their_names(tmp_path):
    save_cases(tmp_path, 2, (12, 12))
    (tmp_path / "images/case_1.json").write_text("{}")
    assert notes(lambda: case_names(tmp_path))[0] == []
    (tmp_path / "images/case_3.mgz").write_bytes(b"FreeSurfer's")
    (tmp_path / "images/case_4").mkdir()
    said, names = notes(lambda: case_names(tmp_path))
    assert list(names) == ["case_1", "case_2"]
    assert len(said) == 1
    assert "2 entries are left out" in said[0]
    assert "case_3.mgz, case_4" in said[0]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (lambda k: f"c{k}_0000", lambda k: f"c{k}"),
        (lambda k: f"sub-{k}_T1w", lambda k: f"sub-{k}_dseg"),
        (lambda k: f"sub-{k}_ses-1_space-MNI_FLAIR", lambda k: f"sub-{k}_ses-1_space-MNI_dseg"),
        (lambda k: f"sub-{k}_T1w", lambda k: f"sub-{k}_T1w_dseg"),
    ],
)
def test_names_of_nnunet_and_bids(tmp_path, images, labels):
    expected = folder_split(save_cases(tmp_path / "plain", 8, (12, 12)))[0]
    said, found = notes(lambda: folder_split(renamed(save_cases(tmp_path / "a", 8, (12, 12)), images, labels)))
    assert said == []
    assert found[0].train.labels.equal(expected.train.labels)
    file = label_file(tmp_path / "a", tmp_path / "a/images" / f"{images(3)}.nii.gz")
    assert file == tmp_path / "a/labels" / f"{labels(3)}.nii.gz"


def test_its_own_name_comes_first(tmp_path):
    save_cases(tmp_path, 2, (12, 12))
    for name in ("c_0000", "c"):
        save_image(blob((12, 12), 1).astype(np.uint8), tmp_path / f"labels/{name}.mha")
    assert label_file(tmp_path, tmp_path / "images/c_0000.nii.gz") == tmp_path / "labels/c_0000.mha"
    assert label_file(tmp_path, tmp_path / "images/c_1000.nii.gz") == tmp_path / "labels/c.mha"
    assert label_file(tmp_path, tmp_path / "images/c_100.nii.gz") is None


def test_label_maps_by_no_image_s_name_get_a_note(tmp_path):
    renamed(save_cases(tmp_path, 8, (12, 12)), lambda k: f"a{k}", lambda k: f"b{k}")
    said, (split, _) = notes(lambda: folder_split(tmp_path))
    assert split.train.labels is None
    assert len(said) == 1
    assert "8 label maps (b1.nii.gz, b2.nii.gz, b3.nii.gz, b4.nii.gz, b5.nii.gz, …), but none" in said[0]


def test_one_missing_label_costs_one_case_its_dice(tmp_path):
    save_cases(tmp_path, 8, (12, 12))
    expected = folder_split(tmp_path)[0].train.labels
    (tmp_path / "labels/case_2.nii.gz").unlink()
    said, (split, _) = notes(lambda: folder_split(tmp_path))
    assert len(said) == 1
    assert "lacks 1 of 8 cases (case_2)" in said[0]
    assert split.train.labels[1].max() == 0, "background alone"
    assert split.train.labels[[0, 2, 3]].equal(expected[[0, 2, 3]])


def test_pairs_with_a_missing_label_have_no_dice(tmp_path):
    from foldless.maps import Identity
    from foldless.overlap import mean_overlap

    save_cases(tmp_path, 4, (12, 12))
    (tmp_path / "labels/case_2.nii.gz").unlink()
    images = notes(lambda: folder_split(tmp_path))[1][0].train
    scores = np.array([[mean_overlap(Identity(2), images, i, j) for j in range(4)] for i in range(4)])
    bare = np.array([[1 in (i, j) for j in range(4)] for i in range(4)])
    np.testing.assert_array_equal(np.isnan(scores), bare)


# Headers gone wrong


@pytest.mark.parametrize("placement", ["centre", "world"])
def test_one_header_of_a_thousand_millimetres_is_named(tmp_path, placement):
    save_cases(tmp_path, 8, (20, 24, 22))
    save_image(blob((20, 24, 22), 1).astype(np.float32), tmp_path / "images/case_3.nii.gz", (1000.0, 1000.0, 1000.0))
    (tmp_path / "labels/case_3.nii.gz").unlink()
    with pytest.raises(InputError, match=r"the case case_3 measures .* the median image 22 x 24 x 20 mm"):
        folder_split(tmp_path, placement)


@pytest.mark.parametrize("case", [1, 8])
def test_an_image_far_off_in_the_world_is_named(tmp_path, case):
    save_cases(tmp_path, 8, (12, 12, 12))
    array = blob((12, 12, 12), 1).astype(np.float32)
    for part, kind in (("images", np.float32), ("labels", np.uint8)):
        save_image(array.astype(kind), tmp_path / f"{part}/case_{case}.nii.gz", Origin=(0, 0, 5000))
    with pytest.raises(InputError, match=rf"the case case_{case} .* lies off the training images: .* 5\d+ mm apart"):
        folder_split(tmp_path, "world")
    assert folder_split(tmp_path, "centre")[1].lattice == (16, 16, 16)


def test_a_held_out_image_inside_the_lattice_is_welcome_in_the_world(tmp_path):
    save_cases(tmp_path, 8, (12, 12, 12))
    for part, kind in (("images", np.float32), ("labels", np.uint8)):
        small = blob((4, 4, 4), 1).astype(kind)
        save_image(small, tmp_path / f"{part}/case_8.nii.gz", Origin=(7, 7, 7))
    assert folder_split(tmp_path, "world")[0].test.names == ("case_7", "case_8")


def picture(path, side, dpi=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).integers(0, 255, (side, side)).astype(np.uint8)
    Image.fromarray(array).save(path, **({"dpi": (dpi, dpi)} if dpi else {}))
    return path


@pytest.mark.parametrize(
    ("name", "dpi", "count"), [("a.tif", 300, 1), ("a.jpg", 300, 1), ("a.png", 300, 0), ("a.tif", 50, 0)]
)
def test_resolution_tags_that_make_a_picture_tiny(tmp_path, name, dpi, count):
    volume = read_volume(picture(tmp_path / name, 128, dpi))
    said, _ = notes(lambda: Preparation((128, 128), (1.0, 1.0)).image(volume))
    assert len(said) == count
    assert all(f"{name} measures 10.8 x 10.8 mm" in one and "128 x 128 mm" in one for one in said)


def test_a_thin_slab_is_no_fault_of_units(tmp_path):
    volume = read_volume(save_image(blob((4, 40, 40), 1).astype(np.float32), tmp_path / "a.nii.gz"))
    assert notes(lambda: Preparation((64, 64, 64), (1.0, 1.0, 1.0)).image(volume))[0] == []


def test_an_image_of_metres_gets_a_note(tmp_path):
    array = blob((12, 12, 12), 1).astype(np.float32)
    volume = read_volume(save_image(array, tmp_path / "a.nii.gz", (0.001, 0.001, 0.001)))
    said, _ = notes(lambda: Preparation((16, 16, 16), (1.0, 1.0, 1.0)).image(volume))
    assert len(said) == 1
    assert "measures 0.012 x 0.012 x 0.012 mm" in said[0]


def test_a_lattice_beyond_memory_is_a_memory_error(tmp_path):
    volume = read_volume(save_image(blob((12, 12, 12), 1).astype(np.float32), tmp_path / "a.nii.gz"))
    huge = Preparation((2**20, 2**20, 2**20), (1.0, 1.0, 1.0)).geometry(volume.geometry)
    with pytest.raises(MemoryError, match="does not fit in memory"):
        through(sitk.Transform(3, sitk.sitkIdentity), volume, huge, 0)


def test_a_split_names_cases_as_before(tmp_path):
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a", "b"]}))
    assert split_names(tmp_path, "abc")["train"] == ["a", "b"]
