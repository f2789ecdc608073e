"""Folders of DICOM slices: one series is one volume, where it was scanned, however its slices lie."""

import json
import locale
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from foldless.errors import InputError
from foldless.io import read_geometry, read_source, read_volume, stored_dtype, write_warp
from foldless.io.dicom import series_in
from foldless.io.preflight import looked_at
from foldless.io.quiet import quiet
from foldless.record import file_digest

PIXEL, STEP = (1.5, 1.25), 2.5
OBLIQUE = np.linalg.qr(np.array([[1, 0.3, 0], [-0.2, 1, 0.1], [0.1, 0, 1]]))[0]
OBLIQUE = OBLIQUE * np.sign(np.diag(OBLIQUE))
CORNER = np.array([-10.0, 5.0, 30.0])
ROUNDED = 1e-4
"""Positions are decimal strings of 16 letters."""


def world(points: np.ndarray) -> np.ndarray:
    """Intensities by their place, linear, so that linear interpolation between slices is exact."""
    values: np.ndarray = points @ np.array([7.0, -5.0, 11.0]) + 2000
    return values


def series(
    folder: Path,
    heights: Sequence[float] = tuple(STEP * k for k in range(6)),
    uid: str = "1.2.3.4",
    turn: np.ndarray = OBLIQUE,
    tilt: float = 0.0,
    number: int = 1,
    values: Callable[[np.ndarray], np.ndarray] = world,
    **said: str,
) -> Path:
    """Slices at heights along the normal, each moved along its columns by `tilt` times the height."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, height in enumerate(heights):
        place = CORNER + turn @ np.array([0, tilt * height, height])
        index = np.stack(np.meshgrid(np.arange(12), np.arange(10), indexing="xy"), -1) * PIXEL
        array = values(place + index @ turn[:, :2].T)
        image = sitk.GetImageFromArray(np.rint(array * 4).astype(np.uint16)[None])
        image.SetSpacing((*PIXEL, STEP))
        words = {
            "0008|0008": said.get("kind", "ORIGINAL"),
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"{uid}.{number}.{k + 1}",
            "0008|0060": "MR",
            "0008|103e": said.get("description", "T1"),
            "0020|000d": "1.2.9",
            "0020|000e": uid,
            "0020|0011": str(number),
            "0020|0013": str(len(heights) - k),
            "0020|0032": "\\".join(f"{p:.10g}" for p in place),
            "0020|0037": "\\".join(f"{c:.10g}" for c in turn[:, :2].T.ravel()),
        }
        if "scale" in said:
            words |= {"0028|1052": "-1024", "0028|1053": "1"}
        for tag, word in words.items():
            image.SetMetaData(tag, word)
        writer.SetFileName(str(folder / f"{uid}-{(k * 7) % 10}{k}.dcm"))
        with quiet():  # which keeps the locale
            writer.Execute(image)
    return folder


def kinds(folder: Path) -> dict[str, str]:
    return {one.kind: one.text for one in looked_at(folder)[1]}


def error(folder: Path) -> float:
    """How far the volume is from the intensities of the world, but at borders that slices do not reach."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = read_volume(folder)
    lattice = volume.geometry
    expected = np.rint(world(np.moveaxis(lattice.voxel_centres, 0, -1)) * 4)
    off = np.abs(volume.array - expected)
    inside = volume.array > volume.array.min()
    assert inside.mean() > 0.6
    return float(np.quantile(off[inside], 0.9))


@pytest.mark.parametrize("turn", [np.eye(3), OBLIQUE, OBLIQUE[:, [1, 2, 0]]])
def test_a_sound_series_is_what_simpleitk_reads(tmp_path: Path, turn: np.ndarray) -> None:
    folder = series(tmp_path / "s", turn=turn)
    volume, found = looked_at(folder)
    assert found == []
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs = reader.Execute()
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(theirs))
    for ours, other in (
        (volume.geometry.spacing, theirs.GetSpacing()),
        (volume.geometry.origin, theirs.GetOrigin()),
        (volume.geometry.direction, theirs.GetDirection()),
    ):
        np.testing.assert_allclose(ours, other, atol=ROUNDED)
    assert error(folder) <= 1


def test_everything_that_reads_images_reads_a_series(tmp_path: Path) -> None:
    folder = series(tmp_path / "s")
    lattice = read_volume(folder).geometry
    assert read_geometry(folder) == read_source(folder).geometry == lattice
    assert len(file_digest(folder)) == 64


def test_several_series_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    series(tmp_path / "s")
    series(tmp_path / "s", uid="1.2.3.5", number=12, description="T2 tra", heights=(0.0, 3.0, 6.0))
    assert [(one.number, one.description, len(one.files)) for one in series_in(tmp_path / "s")] == [
        ("1", "T1", 6),
        ("12", "T2 tra", 3),
    ]
    with pytest.raises(InputError, match="holds 2 series") as refused:
        read_volume(tmp_path / "s")
    for word in ('number 12, MR "T2 tra", 3 slices, 1.2.3.5', f"{tmp_path}/s#1", 'MR "T1"'):
        assert word in str(refused.value)
    for word in ("12", "1.2.3.5"):
        assert read_volume(Path(f"{tmp_path}/s#{word}")).geometry.size[2] == 3
    with pytest.raises(InputError, match="of which 0 are 7"):
        read_volume(Path(f"{tmp_path}/s#7"))
    assert file_digest(tmp_path / "s#1") != file_digest(tmp_path / "s#12")


def test_descriptions_in_latin_letters(tmp_path: Path) -> None:
    for file in series(tmp_path / "s", description="Tete").iterdir():
        file.write_bytes(file.read_bytes().replace(b"Tete", b"T\xeate"))
    assert series_in(tmp_path / "s")[0].description == "Tête"


def test_missing_slices_are_filled_where_they_were(tmp_path: Path) -> None:
    folder = series(tmp_path / "s", [0, 2.5, 5, 10, 12.5, 20])
    found = kinds(folder)
    assert set(found) == {"missing slices"}
    assert "3 of 9 slices are missing, the most after number 5 of those there" in found["missing slices"]
    with pytest.warns(UserWarning, match="are missing"):
        assert read_volume(folder).geometry.spacing == pytest.approx((*PIXEL, 2.5))
    assert error(folder) <= 1


def test_more_slices_are_missing_than_there_are(tmp_path: Path) -> None:
    folder = series(tmp_path / "s", [0, 5, 10, 12.5, 17.5, 22.5])
    assert "4 of 10 slices are missing" in kinds(folder)["missing slices"]
    assert error(folder) <= 1


def test_positions_that_are_rounded_are_even(tmp_path: Path) -> None:
    assert kinds(series(tmp_path / "s", [0, 3.33, 6.67, 10, 13.33])) == {}


@pytest.mark.parametrize(
    ("heights", "apart"), [((0, 2, 4, 7.3, 9.3, 11.3), "2 to 3.3 mm"), ((0, 2, 4.1, 6.1, 8.2), "2 to 2.1 mm")]
)
def test_uneven_slices_are_put_on_even_steps(tmp_path: Path, heights: tuple[float, ...], apart: str) -> None:
    folder = series(tmp_path / "s", heights)
    found = kinds(folder)
    assert set(found) == {"slice spacing"}
    assert f"{apart} apart" in found["slice spacing"]
    assert error(folder) <= 1


def two_labels(points: np.ndarray) -> np.ndarray:
    """4 and 28 once they are stored."""
    return np.where(world(points) > 2420, 7.0, 1.0)


@pytest.mark.parametrize(
    ("heights", "tilt", "says"),
    [((0, 2.5, 5, 10, 12.5, 20), 0.0, "takes the nearest"), ((0, 2, 4, 7.3, 9.3), 0.3, "by the nearest voxel")],
)
def test_labels_are_never_mixed(tmp_path: Path, heights: tuple[float, ...], tilt: float, says: str) -> None:
    folder = series(tmp_path / "s", heights, tilt=tilt, values=two_labels)
    volume, found = looked_at(folder, labels=True)
    assert says in " ".join(one.text for one in found)
    assert set(np.unique(volume.array)) - {0} == {4, 28}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(read_source(folder, labels=True).voxels[0], volume.array)
        assert len(np.unique(read_volume(folder).array)) > 3


def test_slices_that_drift_from_even_heights(tmp_path: Path) -> None:
    """Each gap is within 0.02 of the middle one, and slices half-way lie beside even heights by a seventh of it."""
    folder = series(tmp_path / "s", [0.0, *np.cumsum(np.linspace(2.0, 2.07, 40)).tolist()])
    assert set(kinds(folder)) == {"slice spacing"}
    assert error(folder) <= 1


def rewritten(folder: Path, tag: bytes, word: str) -> Path:
    """The slices with another word, a decimal string, for a tag."""
    for file in folder.iterdir():
        content = file.read_bytes()
        at = content.index(tag) + 4
        end = at + 4 + int.from_bytes(content[at : at + 4], "little")
        new = word.encode() + b" " * (len(word) % 2)
        file.write_bytes(content[:at] + len(new).to_bytes(4, "little") + new + content[end:])
    return folder


def turned_by(folder: Path, word: str) -> Path:
    return rewritten(series(folder, turn=np.eye(3)), b"\x20\x00\x37\x00", word)


def test_axes_of_slices_that_are_not_at_right_angles(tmp_path: Path) -> None:
    folder = turned_by(tmp_path / "s", "1\\0\\0\\0.004\\0.99999\\0")
    assert set(kinds(folder)) == {"sheared axes"}
    cosines = looked_at(folder)[0].geometry.cosines
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-9)
    with pytest.raises(InputError, match="must be at right angles"):
        read_volume(turned_by(tmp_path / "more", "1\\0\\0\\0.1\\0.995\\0"))
    with pytest.raises(InputError, match="two directions at right angles"):
        read_volume(turned_by(tmp_path / "flat", "1\\0\\0\\1\\0\\0"))


@pytest.mark.parametrize(
    ("tag", "word", "says"),
    [
        (b"\x20\x00\x32\x00", "0\\nan\\0", "expected 3 finite numbers"),
        (b"\x20\x00\x37\x00", "1\\0\\0\\0\\inf\\0", "expected 6 finite numbers"),
        (b"\x20\x00\x37\x00", "1\\0\\0", "expected 6 finite numbers"),
        (b"\x28\x00\x30\x00", "none", "expected 2 finite numbers"),
        (b"\x28\x00\x30\x00", "0\\1", "expected numbers above 0"),
    ],
)
def test_slices_that_lie_nowhere(tmp_path: Path, tag: bytes, word: str, says: str) -> None:
    folder = rewritten(series(tmp_path / "s", [0.0, 2.5]), tag, word)
    with pytest.raises(InputError, match=says):
        read_volume(folder)


@pytest.mark.parametrize(("scale", "dtype"), [("", np.uint16), ("1", np.int32), ("2", np.int32), ("0.5", np.float32)])
def test_numbers_stay_of_the_type_that_slices_store(tmp_path: Path, scale: str, dtype: type) -> None:
    folder = series(tmp_path / "s", **({"scale": "1"} if scale else {}))
    if scale:
        rewritten(folder, b"\x28\x00\x53\x10", scale)
    source = read_source(folder)
    assert source.dtype == stored_dtype(folder) == dtype
    np.testing.assert_array_equal(source.voxels[0], read_volume(folder).array)


@pytest.mark.parametrize("tilt", [0.3, -0.3])
def test_a_gantry_tilt_is_undone(tmp_path: Path, tilt: float) -> None:
    folder = series(tmp_path / "s", [0, 2.5, 5, 7.5, 10], tilt=tilt)
    found = kinds(folder)
    assert set(found) == {"gantry tilt"}
    assert "16.7°" in found["gantry tilt"]
    assert "3 mm from the first" in found["gantry tilt"]
    volume = looked_at(folder)[0]
    assert volume.geometry.spacing == pytest.approx((*PIXEL, STEP))
    np.testing.assert_allclose(volume.geometry.cosines, OBLIQUE, atol=ROUNDED)
    assert error(folder) <= 1


def test_what_makes_no_volume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="where another one does"):
        read_volume(series(tmp_path / "twice", [0, 2.5, 2.5, 5]))
    with pytest.raises(InputError, match="0\\.1 to 900 mm apart, so they make no volume"):
        read_volume(series(tmp_path / "apart", [0, 0.1, 900.1]))
    with pytest.raises(InputError, match="more than they are wide"):
        read_volume(series(tmp_path / "aslant", [0, 2, 4], tilt=9.0))
    series(tmp_path / "scout", [0, 2.5])
    series(tmp_path / "scout", [5, 7.5], number=2, turn=OBLIQUE[:, [1, 2, 0]]).joinpath("1.2.3.4-00.dcm").rename(
        tmp_path / "scout" / "other.dcm"
    )
    series(tmp_path / "scout", [0, 2.5])
    with pytest.raises(InputError, match="differ in size, spacing or direction"):
        read_volume(tmp_path / "scout")
    with pytest.raises(InputError, match="is a mosaic"):
        read_volume(series(tmp_path / "mosaic", kind="ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC"))
    first = min(series(tmp_path / "damaged").iterdir())
    samples = b"\x28\x00\x02\x00\x02\x00\x00\x00"  # the tag of how many numbers a pixel has, 1
    first.write_bytes(first.read_bytes().replace(samples + b"\x01", samples + b"\x02"))
    with pytest.raises(InputError, match="damaged"):
        read_volume(tmp_path / "damaged")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("nothing")
    with pytest.raises(InputError, match="holds no slices"):
        read_volume(tmp_path / "none")


def test_nothing_of_the_libraries_reaches_the_user(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = series(tmp_path / "s", [0, 2.5, 5, 10])
    capfd.readouterr()
    looked_at(folder)
    assert series_in(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_a_slice_alone_is_a_volume_of_one(tmp_path: Path) -> None:
    assert set(kinds(series(tmp_path / "s", [0.0]))) == {"few slices"}


def test_commands_take_a_series(foldless, tmp_path: Path) -> None:
    series(tmp_path / "m")
    series(tmp_path / "m", uid="1.2.3.5", number=2, heights=(0, 2.5, 5, 10))
    fixed = series(tmp_path / "f", uid="1.2.3.6")
    code, said, noted = foldless("inspect", f"{tmp_path}/m#2")
    assert code == 0
    assert "12 x 10 x 5 voxels" in said
    assert noted.count("missing") == noted.count("note:") == 1
    code, _, noted = foldless("pose", tmp_path / "m", fixed, "--output", tmp_path / "out")
    assert code == 2
    assert 'number 2, MR "T1"' in noted
    code, _, noted = foldless("pose", f"{tmp_path}/m#2", fixed, "--output", tmp_path / "m" / "out")
    assert (code, "within each other" in noted) == (2, True)
    code, _, _ = foldless("pose", f"{tmp_path}/m#2", fixed, "--output", tmp_path / "out", "--placement", "world")
    assert code == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [one["kind"] for one in record["preflight"]] == ["missing slices"]
    assert list(record["data_sha256"]) == [f"{tmp_path}/m#2", str(fixed)]


def still(path: Path, folder: Path) -> Path:
    lattice = read_volume(folder).geometry
    write_warp(np.zeros((*lattice.shape, 3), np.float32), lattice, path)
    return path


def test_nothing_is_written_into_a_folder_of_slices(foldless, tmp_path: Path) -> None:
    """Whatever the command: all compare where they write with what they read in one place."""
    folder = series(tmp_path / "m")
    warp = still(tmp_path / "w.nii.gz", folder)
    before = sorted(folder.iterdir())
    for words in (
        ("apply", warp, f"{folder}#1", "--reference", tmp_path / "w.nii.gz", "--output", folder / "out.nii.gz"),
        ("apply", warp, f"{folder}#1", warp, "--reference", f"{folder}#1", "--output", folder),
        ("convert", warp, folder / "out.h5", "--fixed", f"{folder}#1"),
        ("jacobian", warp, "--reference", f"{folder}#1", "--output", folder / "out.nii.gz"),
    ):
        code, _, complained = foldless(*words)
        assert code == 2
        assert "lie within each other" in complained
    assert sorted(folder.iterdir()) == before


def test_series_are_carried_to_files_of_their_names(foldless, tmp_path: Path) -> None:
    folder = series(tmp_path / "patient" / "T1")
    series(tmp_path / "patient" / "both")
    series(tmp_path / "patient" / "both", uid="1.2.3.5", number=2)
    words = ("apply", still(tmp_path / "w.nii.gz", folder), folder, f"{tmp_path}/patient/both#2")
    code, _, complained = foldless(*words, "--reference", folder, "--output", tmp_path / "out")
    assert (code, complained) == (0, "")
    for name in ("T1.nii.gz", "both#2.nii.gz"):
        found = sitk.ReadImage(str(tmp_path / "out" / name))
        assert found.GetPixelID() == sitk.sitkUInt16
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), read_volume(folder).array)


def test_writing_dicom_leaves_the_locale(tmp_path: Path) -> None:
    """GDCM sets the C locale, in which Python reads what other programs say as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    series(tmp_path / "s")
    assert locale.setlocale(locale.LC_ALL) == before
