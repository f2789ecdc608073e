"""Folders of volumes: one lattice, intensities in [0, 1], labels that lie where their image lies, fair splits."""

import json
import shutil
from dataclasses import asdict
from hashlib import sha256

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from samples import blob, save_case, save_cases, save_image

from foldless.data.folder import (
    case_names,
    fitting_preparation,
    folder_split,
    label_file,
    read_images,
    split_names,
)
from foldless.data.prepare import Preparation
from foldless.errors import InputError
from foldless.io import Geometry, read_volume, reoriented

FLOAT32 = 1e-5  # arithmetic of intensities about 1
HIPPOCAMPI = ("001", "003", "004", "006", "007", "008", "033")


@pytest.fixture
def hippocampi(tmp_path, real_data):
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for number in HIPPOCAMPI:
            file = real_data / "hippocampus" / part / f"hippocampus_{number}.nii.gz"
            (tmp_path / "data" / part / file.name).symlink_to(file)
    return tmp_path / "data"


# Real images


def test_a_real_folder_becomes_one_lattice(hippocampi):
    split, preparation = folder_split(hippocampi)
    names = list(case_names(hippocampi))
    types = {sitk.ReadImage(str(hippocampi / "images" / f"{n}.nii.gz")).GetPixelIDTypeAsString() for n in names}
    shapes = {read_volume(hippocampi / "images" / f"{n}.nii.gz").geometry.shape for n in names}
    assert len(shapes) > 1
    assert len(types) > 1, "uint8 and float32 on purpose"
    assert all(n % 16 == 0 for n in preparation.lattice)
    assert preparation.spacing == (1.0, 1.0, 1.0)
    for part in (split.train, split.val, split.test):
        assert part.images.min() == 0
        assert part.images.max() == 1
        assert part.labels.shape == (len(part), *preparation.lattice)
        assert set(part.labels.unique().tolist()) == {0, 1, 2}
        assert all(image.max() == 1 and image.min() == 0 for image in part.images)
    assert [*split.train.names, *split.val.names, *split.test.names] == names


def test_the_lattice_of_the_whole_set_of_hippocampi(real_data):
    shapes = []
    for path in case_names(real_data / "hippocampus").values():
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        shapes.append(reader.GetSize())
    identity = tuple(np.eye(3).ravel())
    geometries = [Geometry(size, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), identity) for size in shapes]
    assert fitting_preparation(geometries).lattice[::-1] == (48, 64, 48)


def test_centre_placement_shifts_by_whole_voxels(hippocampi):
    """Every voxel of the image is found again, value for value, and its label with it."""
    split, preparation = folder_split(hippocampi)
    for image, labels, name in zip(split.train.images, split.train.labels, split.train.names, strict=True):
        volume = reoriented(read_volume(hippocampi / "images" / f"{name}.nii.gz"))
        mask = reoriented(read_volume(hippocampi / "labels" / f"{name}.nii.gz", labels=True)).array
        low, high = np.percentile(volume.array, (1, 99))
        wanted = np.clip((volume.array - low) / (high - low), 0, 1)
        box = tuple(
            slice((m - n) // 2, (m - n) // 2 + n) for m, n in zip(preparation.lattice, wanted.shape, strict=True)
        )
        assert np.abs(image[0][box].numpy() - wanted).max() < FLOAT32
        assert np.array_equal(labels[box].numpy(), mask)
        sides = [(s.start, m - s.stop) for s, m in zip(box, preparation.lattice, strict=True)]
        assert np.abs(image[0].numpy() - np.pad(wanted, sides, mode="edge")).max() < FLOAT32  # the border continues


# Synthetic folders


def test_mixed_types_ranges_and_formats(tmp_path):
    labels = blob((10, 12, 14), 0)
    save_image((labels * 100).astype(np.uint8), tmp_path / "images/a.nii.gz")
    save_image((labels * 9e5).astype(np.float32), tmp_path / "images/b.mha")
    save_image((labels * -300).astype(np.int16), tmp_path / "images/c.NRRD")
    split, preparation = folder_split(tmp_path)
    assert preparation.lattice == (16, 16, 16)
    assert split.train.names == ("a", "b", "c")
    a, b, c = split.train.images
    assert torch.allclose(a, b, atol=1e-6)
    inner = (slice(None), slice(3, 13), slice(2, 14), slice(1, 15))  # outside lies the minimum, which differs
    assert torch.allclose(a[inner], 1 - c[inner], atol=1e-6)
    assert split.train.labels is None


def test_world_placement_reads_the_headers(tmp_path):
    """One object at one place in the world, seen by two crops: prepared, it lies at one place."""
    whole = blob((20, 20, 20), 3).astype(np.float32) * 100
    direction = (-1.0, 0, 0, 0, -1, 0, 0, 0, 1)
    save_image(whole[:, :, :], tmp_path / "images/a.nii.gz", (2.0, 2.0, 2.0), Origin=(10.0, 20.0, 30.0))
    crop = whole[3:19, 2:18, 1:18][:, ::-1, ::-1]
    origin = (10 + 2 * 17.0, 20 + 2 * 17.0, 30 + 2 * 3.0)
    save_image(crop, tmp_path / "images/b.nii.gz", (2.0, 2.0, 2.0), Origin=origin, Direction=direction)
    split, preparation = folder_split(tmp_path, "world", (0.0, 100.0))
    assert preparation.placement == "world"
    assert preparation.lattice == (32, 32, 32)
    a, b = split.train.images[:, 0]
    assert torch.allclose(a, b, atol=1e-5)
    centred, _ = folder_split(tmp_path, "centre", (0.0, 100.0))
    assert not torch.allclose(centred.train.images[0], centred.train.images[1], atol=0.1)


@pytest.mark.parametrize("placement", ["centre", "world"])
def test_anisotropic_spacing_stays_on_its_axis(tmp_path, placement):
    """Voxels of 1 x 2 x 3 mm in x, y, z are 3, 2, 1 on the array's axes; on its own lattice an image stays as it is."""
    array = blob((16, 32, 48), 1).astype(np.float32)
    for name in "ab":
        save_image(array, tmp_path / f"images/{name}.mha", (1.0, 2.0, 3.0))
    split, preparation = folder_split(tmp_path, placement, (0.0, 100.0))
    assert preparation.spacing == (3.0, 2.0, 1.0)
    assert preparation.lattice == array.shape
    assert torch.allclose(split.train.images[0, 0], torch.from_numpy(array / array.max()), atol=1e-5)
    geometry = preparation.geometry(read_volume(tmp_path / "images/a.mha").geometry)
    assert geometry.spacing == (1.0, 2.0, 3.0)


def test_median_spacing_and_resampling(tmp_path):
    for name, spacing in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        save_image(blob((12, 12), 0).astype(np.float32), tmp_path / f"images/{name}.mha", (spacing, spacing))
    split, preparation = folder_split(tmp_path)
    assert preparation.spacing == (1.0, 1.0)
    assert preparation.lattice == (32, 32)  # 11 intervals of 2 mm are 23 nodes
    assert split.train.images.shape == (3, 1, 32, 32)


def test_percentiles_of_an_image_that_is_nearly_all_background(tmp_path):
    array = np.zeros((16, 16), np.float32)
    array[3, 3] = 5
    save_image(array, tmp_path / "images/a.mha")
    save_image(blob((16, 16), 1).astype(np.float32), tmp_path / "images/b.mha")
    split, _ = folder_split(tmp_path)
    assert split.train.images[0].max() == 1
    assert split.train.images[0].sum() == 1


def test_pictures(tmp_path):
    for k in range(2):
        save_image((blob((20, 24), k) * 100).astype(np.uint8), tmp_path / f"images/p{k}.png")
    split, preparation = folder_split(tmp_path)
    assert preparation.lattice == (32, 32)
    assert split.train.images.shape == (2, 1, 32, 32)


# Names


def test_natural_order_and_hidden_files(tmp_path):
    save_cases(tmp_path, 11, (8, 8), ".mha")
    (tmp_path / "images/._case_1.mha").write_bytes(b"what macOS leaves in archives")
    (tmp_path / "images/notes.txt").write_text("no image")
    assert list(case_names(tmp_path)) == [f"case_{k}" for k in range(1, 12)]


def test_natural_order_of_figures_that_are_no_decimals(tmp_path):
    """A superscript is a digit to Python, but no number."""
    for name in ("case²", "case1²", "case²1", "case٢", "case_1"):
        save_image(blob((8, 8), 1).astype(np.float32), tmp_path / f"images/{name}.mha")
    names = list(case_names(tmp_path))
    assert sorted(names) == sorted(["case²", "case1²", "case²1", "case٢", "case_1"])
    assert names.index("case1²") < names.index("case٢")


def test_two_images_of_one_name(tmp_path):
    save_cases(tmp_path, 2, (8, 8), ".mha")
    shutil.copy(tmp_path / "images/case_1.mha", tmp_path / "images/case_1.nrrd")
    with pytest.raises(InputError, match="two images of one name"):
        case_names(tmp_path)


def test_labels_in_another_format(tmp_path):
    save_cases(tmp_path, 2, (8, 8), ".mha")
    image = save_image(blob((8, 8), 1).astype(np.float32), tmp_path / "images/x.png.mha")
    assert label_file(tmp_path, tmp_path / "images/case_1.nrrd") == tmp_path / "labels/case_1.mha"
    assert label_file(tmp_path, image) is None


# Splits


@pytest.mark.parametrize("count", [2, 3, 5, 6, 7, 12, 29, 40, 200])
def test_default_split_is_blocks_that_can_all_be_paired(tmp_path, count):
    names = [f"case_{k}" for k in range(count)]
    parts = split_names(tmp_path, names)
    assert all(len(part) >= 2 for part in parts.values())
    if count < 6:
        assert all(part == names for part in parts.values())
    else:
        assert parts["train"] + parts["val"] + parts["test"] == names
    if count == 200:
        assert [len(part) for part in parts.values()] == [160, 10, 30]


def test_split_file(tmp_path):
    save_cases(tmp_path, 7, (8, 8), ".mha")
    (tmp_path / "images/case_7.mha").write_bytes(b"broken, but nobody asks for it")
    content = {"train": ["case_2", "case_1"], "val": ["case_3", "case_4"], "test": ["case_5", "case_6"]}
    (tmp_path / "split.json").write_text(json.dumps(content))
    split, _ = folder_split(tmp_path)
    assert {part: list(getattr(split, part).names) for part in content} == content


def test_parts_of_the_same_cases_are_prepared_once(tmp_path, monkeypatch):
    save_cases(tmp_path, 4, (16, 16))
    read, prepared = Preparation.image, []
    monkeypatch.setattr(Preparation, "image", lambda self, volume: prepared.append(volume.path) or read(self, volume))
    cases = ["case_1", "case_2"]
    split, _ = folder_split(tmp_path, parts={"train": cases, "val": cases, "test": ["case_3", "case_2"]})
    assert [file.name[:6] for file in prepared] == ["case_1", "case_2", "case_3", "case_2"]
    assert split.val.names == split.train.names == tuple(cases)
    assert split.test.names == ("case_3", "case_2")


def test_split_file_without_val_and_test(tmp_path):
    (tmp_path / "split.json").write_text('{"train": ["a", "b"]}')
    assert set(map(tuple, split_names(tmp_path, "abc").values())) == {("a", "b")}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "must hold"),
        ("[]", "must hold"),
        ('{"train": "ab"}', "not a list"),
        ('{"train": ["a", "b", "z"]}', "names z under train"),
        ('{"train": ["a"]}', "two at least"),
        ("{}", "two at least"),
        ('{"train": ["a", "b"], "val": ["c"]}', "one case under val"),
        ('{"train": ["a", "b"], "test": ["c"]}', "one case under test"),
        (b"\xff\xfe\x00", "must hold"),
    ],
)
def test_malformed_split_file(tmp_path, text, says):
    (tmp_path / "split.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=says):
        split_names(tmp_path, "abcd")


# Refusals


def test_labels_on_another_lattice(tmp_path):
    save_cases(tmp_path, 3, (16, 16, 16))
    save_image(blob((16, 16, 15), 1).astype(np.uint8), tmp_path / "labels/case_2.nii.gz")
    with pytest.raises(InputError, match=r"labels .*case_2.* lattice"):
        folder_split(tmp_path)


def test_labels_in_another_order_of_voxels(tmp_path):
    """Some tools write their label maps in an orientation of their own."""
    save_cases(tmp_path, 3, (16, 18, 20))
    expected, _ = folder_split(tmp_path)
    file = str(tmp_path / "labels/case_2.nii.gz")
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(file), "SAR"), file)
    split, _ = folder_split(tmp_path)
    assert torch.equal(split.train.labels, expected.train.labels)


def test_labels_shifted_in_the_world(tmp_path):
    save_cases(tmp_path, 3, (16, 16, 16))
    save_image(blob((16, 16, 16), 1).astype(np.uint8), tmp_path / "labels/case_2.nii.gz", Origin=(3.0, 0, 0))
    with pytest.raises(InputError, match="lattice"):
        folder_split(tmp_path)


def test_dimensions_mixed(tmp_path):
    save_case(tmp_path, "flat", (16, 16), 0)
    save_case(tmp_path, "deep", (16, 16, 16), 1)
    with pytest.raises(InputError, match=r"mixes \[2, 3\]"):
        read_images(tmp_path, case_names(tmp_path))


def test_one_image_no_image_no_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        folder_split(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no folder images/"):
        folder_split(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        folder_split(tmp_path)
    save_case(tmp_path, "lonely", (8, 8), 0)
    with pytest.raises(InputError, match="one image only"):
        folder_split(tmp_path)


# Going on with a run


def test_other_labels_are_other_data_and_earlier_records_hold(foldless, tmp_path):
    save_cases(tmp_path / "data", 4, (12, 12))
    tiny = ("--widths", 4, 8, "--widths-up", 4, 4, "--levels", 1, "--batch", 2, "--steps", 1, "--precision", "float32")
    assert foldless("train", "--data", tmp_path / "data", *tiny, "--output", tmp_path / "run")[0] == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    images = folder_split(tmp_path / "data")[0].train.images
    record["data_sha256"] = dict.fromkeys(("train", "val", "test"), sha256(images.numpy().tobytes()).hexdigest())
    (tmp_path / "earlier").mkdir()
    for file in (tmp_path / "run").glob("*.*"):
        shutil.copy(file, tmp_path / "earlier")
    (tmp_path / "earlier/run.json").write_text(json.dumps(record))
    save_image(blob((12, 12), 9).astype(np.uint8), tmp_path / "data/labels/case_2.nii.gz")
    assert foldless("train", "--resume", tmp_path / "earlier")[0] == 0, "its record knows of images only"
    code, _, complained = foldless("train", "--resume", tmp_path / "run")
    assert code == 2
    assert "are not those that" in complained


# The description that a model keeps


def test_preparation_survives_as_plain_values():
    given = Preparation((16, 32), (1.0, 2.0), "world", (3.0, 4.0), (0.0, 100.0), (-1.0, 1.0))
    assert Preparation.from_dict(json.loads(json.dumps(asdict(given)))) == given


@pytest.mark.parametrize(
    "wrong",
    [
        {"lattice": [16, 0]},
        {"lattice": [16.5, 16]},
        {"lattice": ["16", 16]},
        {"lattice": 16},
        {"spacing": [1.0]},
        {"spacing": [1.0, -1.0]},
        {"spacing": [1.0, float("nan")]},
        {"placement": "somewhere"},
        {"origin": [1.0]},
        {"percentiles": [1.0]},
        {"percentiles": None},
        {"intensities": [0.0, 0.0]},
        {"intensities": [1.0, 0.0]},
        {"strange": 1},
    ],
)
def test_a_preparation_that_makes_no_sense(wrong):
    with pytest.raises((InputError, TypeError)):
        Preparation.from_dict({"lattice": [16, 16], "spacing": [1.0, 1.0], **wrong})
