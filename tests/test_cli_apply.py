"""`foldless apply`: types and formats of what it writes, what may be a reference, labels that nobody named."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from samples import blob, save_image
from scipy.ndimage import gaussian_filter

from foldless.errors import InputError
from foldless.io import Geometry, check_format, read_geometry, stored_dtype, write_warp
from foldless.io.plain import mapped

SHAPE = {2: (14, 15), 3: (9, 10, 11)}
INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32)


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def still(path, dim, shift=0.0):
    """A warp that moves everything by `shift` mm along x."""
    field = np.zeros((*SHAPE[dim], dim), np.float32)
    field[..., 0] = shift
    geometry = Geometry.of(sitk.GetImageFromArray(np.zeros(SHAPE[dim], np.float32)))
    write_warp(field, geometry, path)
    return path


def noisy(dim, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 120, SHAPE[dim]).astype(dtype)


@pytest.fixture
def warps(tmp_path):
    return {dim: still(tmp_path / f"warp{dim}.nii.gz", dim, shift=0.5) for dim in (2, 3)}


def apply(foldless, warp, image, output, *more, reference=None):
    return foldless("apply", warp, image, "--reference", reference or image, "--output", output, *more)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_whole_numbers_stay_whole_and_of_their_type(foldless, warps, tmp_path, dtype):
    array = noisy(3, dtype)
    image = save_image(array, tmp_path / "a.nii.gz")
    code, _, complained = apply(foldless, warps[3], image, tmp_path / "b.nii.gz")
    assert (code, complained) == (0, "")
    found = read(tmp_path / "b.nii.gz")
    assert found.dtype == dtype
    between = (array[..., :-1].astype(float) + array[..., 1:]) / 2
    assert np.abs(found[..., :-1] - between).max() <= 0.5


@pytest.mark.parametrize("dtype", [*INTEGERS, np.int64, np.uint64])
def test_labels_keep_their_type_and_their_numbers(foldless, warps, tmp_path, dtype):
    labels = np.zeros(SHAPE[3], dtype)
    labels[1:3, 2:, 1:] = 100
    save_image(labels, tmp_path / "a.mha")
    still(tmp_path / "still.nii.gz", 3)
    code, _, complained = apply(foldless, tmp_path / "still.nii.gz", tmp_path / "a.mha", tmp_path / "b.mha", "--labels")
    assert (code, complained) == (0, "")
    found = read(tmp_path / "b.mha")
    assert found.dtype == dtype
    assert np.array_equal(found, labels)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_ends_of_a_type_do_not_wrap_around(foldless, warps, tmp_path, dtype):
    ends = np.iinfo(dtype)
    image = noisy(3, dtype)
    image[0], image[1] = ends.max, ends.min
    save_image(image, tmp_path / "a.mha")
    assert apply(foldless, still(tmp_path / "still.nii.gz", 3), tmp_path / "a.mha", tmp_path / "b.mha")[0] == 0
    off = read(tmp_path / "b.mha").astype(float) - image
    assert np.abs(off).max() <= float(ends.max) * np.finfo(np.float32).eps


def test_real_numbers_stay_real(foldless, warps, tmp_path):
    image = save_image(noisy(3, np.float64) / 7, tmp_path / "a.nii.gz")
    assert apply(foldless, warps[3], image, tmp_path / "b.nrrd")[0] == 0
    assert read(tmp_path / "b.nrrd").dtype == np.float64


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".tif", ".nii.gz", ".mha"])
@pytest.mark.parametrize("colour", [False, True])
def test_pictures_come_out_as_pictures(foldless, warps, tmp_path, suffix, colour):
    grey = noisy(2)
    array = np.stack([grey] * 3, -1) if colour else grey
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=colour), str(tmp_path / "a.png"))
    code, _, complained = apply(foldless, still(tmp_path / "still.h5", 2), tmp_path / "a.png", tmp_path / f"b{suffix}")
    assert (code, complained) == (0, "")
    found = read(tmp_path / f"b{suffix}")
    assert found.dtype == np.uint8
    if suffix != ".jpg":
        many = found.ndim > 2  # .bmp has colours always
        assert many >= colour
        assert np.array_equal(found, np.stack([grey] * 3, -1) if many else grey)


def test_labels_keep_their_type(foldless, warps, tmp_path):
    labels = blob(SHAPE[2], 0).astype(np.uint8)
    image = save_image(labels, tmp_path / "a.png")
    code, _, complained = apply(foldless, warps[2], image, tmp_path / "b.png", "--labels")
    assert (code, complained) == (0, "")
    assert read(tmp_path / "b.png").dtype == np.uint8
    assert set(np.unique(read(tmp_path / "b.png"))) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("dtype", "dim", "name", "more", "says"),
    [
        (np.float32, 2, "b.png", (), "holds uint8 or uint16, but the image is of float32"),
        (np.int16, 2, "b.png", (), "int16"),
        (np.uint16, 2, "b.jpg", (), "uint16"),
        (np.uint8, 2, "b.jpg", ("--labels",), "does not give labels back"),
        (np.uint8, 2, "b.bmp", ("--labels",), "does not give labels back"),
        (np.uint8, 3, "b.png", (), "2-D picture"),
    ],
)
def test_formats_that_cannot_hold_the_result(foldless, warps, tmp_path, dtype, dim, name, more, says):
    image = save_image(noisy(dim, dtype), tmp_path / "a.nii.gz")
    code, _, complained = apply(foldless, warps[dim], image, tmp_path / "new" / name, *more)
    assert code == 2
    assert says in complained
    assert complained.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_the_folder_of_the_output_is_made(foldless, warps, tmp_path):
    image = save_image(noisy(3), tmp_path / "a.nii.gz")
    assert apply(foldless, warps[3], image, tmp_path / "new/deep/b.nii.gz")[0] == 0
    assert [path.name for path in (tmp_path / "new/deep").iterdir()] == ["b.nii.gz"]


def references(folder):
    """By name: files that have the lattice of the 3-D images here, and something else wrong with them."""
    plain = sitk.GetImageFromArray(noisy(3, np.float32))
    plain.SetSpacing((1.0, 2.0, 1.5))
    plain.SetOrigin((3.0, -4.0, 5.0))
    plain.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    blank = plain * 0
    holes = sitk.GetArrayFromImage(plain)
    holes[0] = np.nan
    nan = sitk.GetImageFromArray(holes)
    nan.CopyInformation(plain)
    images = {
        "plain": plain,
        "constant": blank,
        "nan": nan,
        "many volumes": sitk.JoinSeries([plain, plain, plain]),
        "vectors": sitk.Compose([plain, plain]),
    }
    for name, image in images.items():
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    sitk.WriteImage(nan, str(folder / "nan.mha"))
    return Geometry.of(plain)


@pytest.mark.parametrize("name", ["constant.nii.gz", "nan.nii.gz", "nan.mha", "many volumes.nii.gz", "vectors.nii.gz"])
def test_only_the_lattice_of_a_reference_counts(foldless, tmp_path, warps, name):
    lattice = references(tmp_path)
    assert read_geometry(tmp_path / name).fits(lattice)
    image = save_image(noisy(3), tmp_path / "a.nii.gz")
    for reference, output in (("plain.nii.gz", "one"), (name, "other")):
        words = (warps[3], image, tmp_path / f"{output}.mha")
        assert apply(foldless, *words, reference=tmp_path / reference)[0] == 0
    assert np.array_equal(read(tmp_path / "one.mha"), read(tmp_path / "other.mha"))


def test_what_is_no_reference(tmp_path):
    (tmp_path / "text.nii.gz").write_text("no image")
    for name, says in (("text.nii.gz", "cannot be read"), ("none.nii.gz", "does not exist")):
        with pytest.raises(InputError, match=says):
            read_geometry(tmp_path / name)


def test_a_reference_that_lies_nowhere(tmp_path):
    save_image(noisy(3), tmp_path / "a.nii")
    file = bytearray((tmp_path / "a.nii").read_bytes())
    for offset in (268, 292):  # where the qform and the sform say that x begins
        file[offset : offset + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "a.nii").write_bytes(file)
    with pytest.raises(InputError, match="expected finite numbers"):
        read_geometry(tmp_path / "a.nii")


def test_no_header_is_read_that_might_end_the_process(tmp_path, monkeypatch):
    save_image(noisy(3), tmp_path / "a.nrrd")
    file = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(file.replace(b"kinds: ", b"kinds: " + b"domain" * 1000 + b" "))
    monkeypatch.setattr(sitk, "ImageFileReader", None)
    with pytest.raises(InputError, match="its header is damaged"):
        read_geometry(tmp_path / "a.nrrd")
    assert stored_dtype(tmp_path / "a.nrrd") == np.float32


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_note_where_labels_are_interpolated(foldless, warps, tmp_path, dtype):
    labels = save_image(blob(SHAPE[3], 0).astype(dtype), tmp_path / "labels.nii.gz")
    code, _, complained = apply(foldless, warps[3], labels, tmp_path / "b.nii.gz")
    assert code == 0
    assert "add --labels" in complained
    assert complained.count("\n") == 1
    assert apply(foldless, warps[3], labels, tmp_path / "c.nii.gz", "--labels") == (
        0,
        f"{tmp_path / 'c.nii.gz'}: 11 x 10 x 9 voxels on the lattice of {labels}\n",
        "",
    )
    image = save_image(noisy(3, dtype), tmp_path / "image.nii.gz")
    assert apply(foldless, warps[3], image, tmp_path / "d.nii.gz")[2] == ""


@pytest.mark.filterwarnings("default")
def test_real_images_are_no_labels(foldless, real_data, tmp_path):
    """No note on an image, one on its labels."""
    for part, note in (("images", False), ("labels", True)):
        image = real_data / "hippocampus" / part / "hippocampus_033.nii.gz"
        geometry = read_geometry(image)
        write_warp(np.zeros((*geometry.shape, 3), np.float32), geometry, tmp_path / "warp.nii.gz")
        code, _, complained = apply(foldless, tmp_path / "warp.nii.gz", image, tmp_path / f"{part}.nii.gz")
        assert (code, "--labels" in complained) == (0, note)


def test_stored_types(tmp_path):
    for dtype in (*INTEGERS, np.float32, np.float64):
        save_image(noisy(2, dtype), tmp_path / "a.mha")
        assert stored_dtype(tmp_path / "a.mha") == dtype
    assert stored_dtype(tmp_path / "nowhere.mha") == np.float32
    check_format(tmp_path / "a.nii.gz", np.dtype(np.float32), 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_volumes_and_vectors_are_carried_one_by_one(foldless, warps, tmp_path, dtype):
    parts = [noisy(3, dtype, seed) for seed in range(3)]
    series = sitk.JoinSeries([sitk.GetImageFromArray(part) for part in parts], 0.0, 2.5)
    vectors = sitk.Compose([sitk.GetImageFromArray(part) for part in parts])
    for name, image in (("series", series), ("vectors", vectors)):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    reference = save_image(parts[0], tmp_path / "0.nii.gz")
    for n, part in enumerate(parts):
        image = save_image(part, tmp_path / f"{n}.nii.gz")
        assert apply(foldless, warps[3], image, tmp_path / f"{n}.mha", "--fill", "0")[0] == 0
    images = (tmp_path / "series.nii.gz", tmp_path / "vectors.nii.gz")
    words = ("--reference", reference, "--output", tmp_path / "out", "--fill", "0")
    assert foldless("apply", warps[3], *images, *words)[0] == 0
    found = [read(tmp_path / "out" / image.name) for image in images]
    expected = np.stack([read(tmp_path / f"{n}.mha") for n in range(3)])
    assert found[0].dtype == found[1].dtype == dtype
    assert np.array_equal(found[0], expected)
    assert np.array_equal(np.moveaxis(found[1], -1, 0), expected)
    assert sitk.ReadImage(str(tmp_path / "out" / "series.nii.gz")).GetSpacing()[3] == 2.5


def test_several_images_go_to_a_folder_by_their_names(foldless, warps, tmp_path):
    one, other = (save_image(noisy(3), tmp_path / f"{n}.nii.gz") for n in "ab")
    words = ("--reference", one, "--output")
    assert foldless("apply", warps[3], one, other, *words, tmp_path / "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "b.nii.gz"]
    code, _, complained = foldless("apply", warps[3], one, other, *words, tmp_path / "out")
    assert code == 2
    assert "exists" in complained
    assert foldless("apply", warps[3], one, other, *words, one)[0] == 2
    assert "one name" in foldless("apply", warps[3], one, one, *words, tmp_path / "more")[2]


@pytest.mark.parametrize("name", ["b", "b.mgz", "b.foo.gz", "sub.1"])
def test_formats_that_nobody_writes_are_refused_before_computing(foldless, warps, tmp_path, monkeypatch, name):
    image = save_image(noisy(3), tmp_path / "a.nii.gz")
    monkeypatch.setattr("foldless.io.read_source", None)
    code, _, complained = apply(foldless, warps[3], image, tmp_path / name)
    assert code == 2
    assert f"{name}: no image's name ends in" in complained
    for suffix in (".nii", ".NII.GZ", ".nrrd", ".mha", ".tif", ".zarr"):
        check_format(tmp_path / f"b{suffix}", np.dtype(np.float32), 3)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_large_images_are_read_and_written_by_parts(foldless, tmp_path, monkeypatch, suffix, dtype):
    """To the bit what small ones become, from files that lie obliquely, by a turn that needs many pieces."""
    array = gaussian_filter(noisy(3, np.float64), 1).astype(dtype)
    turn = sitk.Euler3DTransform((5, 4, 4), 0.1, -0.2, 0.9, (0.5, 0.2, -0.3))
    sitk.WriteTransform(turn, str(tmp_path / "turn.tfm"))
    lies = {"Spacing": (1.0, 1.2, 0.9), "Origin": (1.0, -2.0, 3.0), "Direction": (0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1)}
    image = save_image(array, tmp_path / f"a{suffix}", **lies)
    words = (tmp_path / "turn.tfm", image)
    assert apply(foldless, *words, tmp_path / f"whole{suffix}")[0] == 0
    monkeypatch.setattr("foldless.io.plain.LARGE", 100)
    monkeypatch.setattr("foldless.io.pulling.PIECE", 40_000)
    monkeypatch.setattr("foldless.io.pulling.SLAB", 300)
    monkeypatch.setattr("foldless.io.pulling.MARGIN", 2)
    assert (mapped(image, np.dtype(dtype)) is None) == (suffix == ".nii.gz")
    code, _, complained = apply(foldless, *words, tmp_path / f"parts{suffix}")
    assert code == 0
    assert ("is read whole" in complained) == (suffix == ".nii.gz")
    whole, parts = (sitk.ReadImage(str(tmp_path / f"{name}{suffix}")) for name in ("whole", "parts"))
    assert Geometry.of(parts).fits(Geometry.of(whole), 1e-5)
    assert parts.GetPixelID() == whole.GetPixelID()
    off = sitk.GetArrayFromImage(whole).astype(float) - sitk.GetArrayFromImage(parts)
    assert (np.abs(off) > 1e-4).mean() < 2e-3  # rounding at a half, or on a border


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_packed_and_turned_bytes(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("foldless.io.plain.LARGE", 100)
    image = sitk.GetImageFromArray(noisy(3, np.int16))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), useCompression=True)
    assert mapped(tmp_path / f"a{suffix}", np.dtype(np.int16)) is None
    sitk.WriteImage(image, str(tmp_path / f"b{suffix}"))
    file = (tmp_path / f"b{suffix}").read_bytes()
    assert np.array_equal(mapped(tmp_path / f"b{suffix}", np.dtype(np.int16))[0], noisy(3, np.int16))
    head, body = file[: -noisy(3, np.int16).nbytes], noisy(3, ">i2").tobytes()
    head = head.replace(b"little", b"big").replace(b"OrderMSB = False", b"OrderMSB = True")
    (tmp_path / f"c{suffix}").write_bytes(head + body)
    assert np.array_equal(mapped(tmp_path / f"c{suffix}", np.dtype(np.int16))[0], noisy(3, np.int16))


INTERPOLATIONS = {
    "linear": sitk.sitkLinear,
    "nearest": sitk.sitkNearestNeighbor,
    "cubic": sitk.sitkBSpline,
    "sinc": sitk.sitkLanczosWindowedSinc,
}


@pytest.mark.parametrize("how", INTERPOLATIONS)
def test_several_transforms_in_slabs_are_simpleitks_composite(foldless, tmp_path, monkeypatch, how):
    """One interpolation, in the order in which points meet them, whatever the slabs."""
    monkeypatch.setattr("foldless.io.pulling.SLAB", 200)
    image = save_image(noisy(3, np.float32), tmp_path / "a.nii.gz")
    turn = sitk.Euler3DTransform((5, 4, 4), 0.1, -0.2, 0.1, (0.5, 0.2, -0.3))
    sitk.WriteTransform(turn, str(tmp_path / "turn.tfm"))
    warp, more = still(tmp_path / "warp.nii.gz", 3, 0.5), ("--then", tmp_path / "turn.tfm", "--interpolation", how)
    code, _, complained = apply(foldless, warp, image, tmp_path / "b.mha", *more, "--fill", "-7")
    assert (code, complained) == (0, "")
    moving = sitk.ReadImage(str(image))
    both = sitk.CompositeTransform([turn, sitk.TranslationTransform(3, (0.5, 0.0, 0.0))])
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, moving, both, INTERPOLATIONS[how], -7.0))
    assert (np.abs(read(tmp_path / "b.mha") - expected) < 1e-2).mean() > 0.995  # but for points on a border
    assert (read(tmp_path / "b.mha") == -7).any()


def test_an_inverse_of_another_program(foldless, tmp_path):
    image = save_image(noisy(3), tmp_path / "a.nii.gz")
    np.savetxt(tmp_path / "a.mat", [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert apply(foldless, f"greedy-affine:{tmp_path / 'a.mat'},-1", image, tmp_path / "b.nii.gz")[0] == 0
    assert np.array_equal(read(tmp_path / "b.nii.gz")[..., :-1], noisy(3)[..., 1:])


def test_labels_may_be_voted_for(foldless, warps, tmp_path):
    labels = save_image(blob(SHAPE[3], 0).astype(np.uint8), tmp_path / "a.nii.gz")
    assert apply(foldless, warps[3], labels, tmp_path / "b.nii.gz", "--interpolation", "label")[0] == 0
    assert set(np.unique(read(tmp_path / "b.nii.gz"))) <= {0, 1, 2}
    code, _, complained = apply(
        foldless, warps[3], labels, tmp_path / "c.nii.gz", "--labels", "--interpolation", "cubic"
    )
    assert code == 2
    assert "never mixed" in complained


def test_a_reference_larger_than_the_warp(foldless, warps, tmp_path):
    """Beyond its lattice the warp continues."""
    image = save_image(noisy(3), tmp_path / "a.nii.gz")
    wide = save_image(np.zeros((9, 10, 30), np.uint8), tmp_path / "wide.nii.gz", Origin=(-8.0, 0.0, 0.0))
    assert apply(foldless, still(tmp_path / "s.nii.gz", 3, 10.0), image, tmp_path / "b.nii.gz", reference=wide)[0] == 0
    found = read(tmp_path / "b.nii.gz")
    assert np.array_equal(found[..., :9], noisy(3)[..., 2:])
