"""What is said of images before anything is computed: a sentence for each oddity, none for sound images."""

import json
import warnings
from dataclasses import fields
from html import unescape
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image, TiffImagePlugin
from scipy.ndimage import gaussian_filter

from foldless.cli.apply import Apply
from foldless.cli.inspect import Inspect
from foldless.cli.pose import FindPose
from foldless.cli.preflight import laid_by
from foldless.cli.register import Register
from foldless.errors import InputError
from foldless.io import Volume, read_beside, read_volume, reoriented
from foldless.io.preflight import FEW, findings_of, looked_at
from foldless.pose.views import FLAT
from foldless.preflight import orientation, pair_findings, share_seen

SHAPE = (20, 24, 16)  # x, y, z
AFFINE = np.array([[-2.0, 0, 0, 20], [0, 2.0, 0, -25], [0, 0, 2.0, -15], [0, 0, 0, 1]])
SOUND_IN_DATA = (
    "brains/affine2mm/1000_t1.nii.gz",
    "brains/native2mm/1001_t1.nii.gz",
    "brains/native1mm/1000_t1.nii.gz",
)


def head(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """A ball of texture in the middle of nothing, x first."""
    at = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    texture = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    ball: np.ndarray = np.where(sum(x**2 for x in at) < 0.7, 100 + 200 * texture, 0)
    return ball.astype(np.float32)


def nifti(path: Path, affine: np.ndarray = AFFINE, array: np.ndarray | None = None, **fields: int) -> Path:
    image = nib.Nifti1Image(head() if array is None else array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def patched(path: Path, at: int, numbers: list[float]) -> Path:
    """The file with other float32 numbers in its header."""
    content = bytearray(path.read_bytes())
    content[at : at + 4 * len(numbers)] = np.array(numbers, "<f4").tobytes()
    path.write_bytes(content)
    return path


def spaced_by(step: float) -> np.ndarray:
    return AFFINE @ np.diag([1, 1, step / 2, 1])


def picture(path: Path, **how: object) -> Path:
    array = gaussian_filter(np.random.default_rng(0).normal(size=(40, 50)), 2)
    Image.fromarray(((array - array.min()) / np.ptp(array) * 255).astype(np.uint8)).save(path, **how)
    return path


def described(path: Path, text: str) -> Path:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = text
    return picture(path, tiffinfo=tags)


def said(path: Path, labels: bool = False) -> dict[str, str]:
    """What is said of a file, by kind; nothing else may be."""
    found = looked_at(path, labels)[1]
    for one in found:
        assert str(path) in one.text
        assert "\n" not in one.text
    return {one.kind: one.text for one in found}


def together(moving: Path, fixed: Path) -> dict[str, str]:
    return {one.kind: one.text for one in pair_findings(read_volume(moving), read_volume(fixed))}


# --- sound images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_nothing_is_said_of_sound_volumes(tmp_path: Path, suffix: str) -> None:
    oblique = np.linalg.qr(np.array([[-1, 0.3, 0], [0.2, -1, 0.1], [0.1, 0, 1]]))[0]
    for number, turn in enumerate((np.eye(3), oblique * np.sign(np.diag(oblique)))):
        image = sitk.GetImageFromArray(head())
        image.SetSpacing((1.0, 1.1, 2.5))
        image.SetOrigin((-10.0, 20.0, 3.0))
        image.SetDirection(turn.ravel().tolist())
        sitk.WriteImage(image, str(tmp_path / f"{number}{suffix}"))
        assert said(tmp_path / f"{number}{suffix}") == {}


def test_nothing_is_said_of_sound_pairs(tmp_path: Path) -> None:
    one = nifti(tmp_path / "a.nii.gz")
    moved = AFFINE + np.array([[0, 0, 0, 6], [0, 0, 0, -8], [0, 0, 0, 4], [0] * 4])
    other = nifti(tmp_path / "b.nii.gz", moved, head(seed=1))
    assert together(one, other) == together(other, one) == {}
    pictures = picture(tmp_path / "a.png"), picture(tmp_path / "b.jpg")
    assert together(*pictures) == said(pictures[0]) == said(pictures[1]) == {}


def test_nothing_is_said_of_label_maps(tmp_path: Path) -> None:
    labels = (head() > 0).astype(np.uint8)
    assert said(nifti(tmp_path / "l.nii.gz", array=labels, intent_code=1002), labels=True) == {}


@pytest.mark.parametrize("name", SOUND_IN_DATA)
def test_nothing_is_said_of_real_scans(real_data: Path, name: str) -> None:
    assert said(real_data / name) == {}


# --- one file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "says"),
    [(3, "counts in micrometres"), (1, "counts in metres"), (5, "code 5, which is no unit of length")],
)
def test_units_that_are_not_mm(tmp_path: Path, code: int, says: str) -> None:
    found = said(nifti(tmp_path / "a.nii.gz", xyzt_units=code))
    assert set(found) == {"unit"}
    assert says in found["unit"]


@pytest.mark.parametrize("code", [0, 2, 10])
def test_millimetres_and_no_unit_are_sound(tmp_path: Path, code: int) -> None:
    assert said(nifti(tmp_path / "a.nii.gz", xyzt_units=code)) == {}


def test_numbers_that_must_be_micrometres(tmp_path: Path) -> None:
    found = said(nifti(tmp_path / "a.nii.gz", np.diag([200.0, 200, 200, 1])))
    assert "4000 x 4800 x 3200 mm" in found["unit"]


def test_sform_and_pixdim_of_two_sizes(tmp_path: Path) -> None:
    path = patched(nifti(tmp_path / "a.nii", qform_code=0), 80, [1.0, 1.0, 1.0])
    assert nib.load(path).affine[1, 1] == 2
    assert sitk.ReadImage(str(path)).GetSpacing() == (1, 1, 1)  # what the sentence is about
    found = said(path)
    assert set(found) == {"sform and pixdim"}
    assert "2 x 2 x 2 mm by the header's sform and 1 x 1 x 1 mm by its pixdim" in found["sform and pixdim"]


def test_what_reading_warns_of_is_a_finding(tmp_path: Path) -> None:
    other = AFFINE.copy()
    other[0, 3] += 5
    image = nib.Nifti1Image(head(), AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(other, 1)
    nib.save(image, tmp_path / "forms.nii.gz")
    assert "5 mm apart" in said(tmp_path / "forms.nii.gz")["sform and qform"]
    bare = nib.Nifti1Image(head(), None)
    nib.save(bare, tmp_path / "bare.nii.gz")
    assert set(said(tmp_path / "bare.nii.gz")) == {"place unsaid"}
    sheared = AFFINE.copy()
    sheared[0, 1] += 0.01
    assert "off orthonormal" in said(nifti(tmp_path / "s.nii.gz", sheared, qform_code=0))["sheared axes"]


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [(1002, "labels", "labels"), (5, "statistic", "z score"), (1007, "intent", "several numbers a voxel")],
)
def test_intents_of_no_image(tmp_path: Path, code: int, kind: str, says: str) -> None:
    found = said(nifti(tmp_path / "a.nii.gz", intent_code=code))
    assert set(found) == {kind}
    assert says in found[kind]


@pytest.mark.parametrize(("slope", "intercept", "says"), [(0.0, 7.0, "SimpleITK adds 7"), (1e-9, 0.0, "1e-09")])
def test_scaling_that_programs_take_differently(tmp_path: Path, slope: float, intercept: float, says: str) -> None:
    found = said(patched(nifti(tmp_path / "a.nii"), 112, [slope, intercept]))
    assert set(found) == {"scaling"}
    assert says in found["scaling"]
    assert said(patched(nifti(tmp_path / "b.nii"), 112, [2.0, 7.0])) == {}


@pytest.mark.parametrize(
    ("fields", "unsaid"),
    [
        ("spacings: 1 2 2", True),
        ("space dimension: 3\nspace directions: (2,0,0) (0,2,0) (0,0,2)\nspace origin: (1,2,3)", True),
        ("space: 3D-right-handed\nspace directions: (2,0,0) (0,2,0) (0,0,2)\nspace origin: (1,2,3)", True),
        ("space: right-anterior-superior\nspace directions: (2,0,0) (0,2,0) (0,0,2)\nspace origin: (1,2,3)", False),
        ("space: LPS\nspace directions: (2,0,0) (0,2,0) (0,0,2)\nspace origin: (1,2,3)", False),
    ],
)
def test_nrrd_of_no_anatomical_space(tmp_path: Path, fields: str, unsaid: bool) -> None:
    start = f"NRRD0004\ntype: float\ndimension: 3\nsizes: 20 24 16\nendian: little\nencoding: raw\n{fields}\n\n"
    (tmp_path / "a.nrrd").write_bytes(start.encode() + head().T.astype("<f4").tobytes())
    assert set(said(tmp_path / "a.nrrd")) == ({"place unsaid"} if unsaid else set())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_places_that_were_lost(tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(head()), str(tmp_path / f"a{suffix}"))
    assert set(said(tmp_path / f"a{suffix}")) == {"place lost"}


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_resolution_tags(tmp_path: Path, name: str) -> None:
    found = said(picture(tmp_path / name, dpi=(300, 300)))
    assert set(found) == {"resolution tag"}
    assert "300 dots per inch, makes pixels of 0.08467 x 0.08467 mm" in found["resolution tag"]
    assert "4.23 x 3.39 mm" in found["resolution tag"]
    assert looked_at(tmp_path / name, spacing=(0.5, 0.5))[1] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ImageJ=1.53t\nunit=micron\n", "counted in micron"),
        ('<OME><Pixels PhysicalSizeX="0.5" PhysicalSizeY="0.6"/></OME>', "0.5 x 0.6 µm"),
        ('<OME><Pixels PhysicalSizeX="2" PhysicalSizeY="2" PhysicalSizeXUnit="nm"/></OME>', "2 x 2 nm"),
    ],
)
def test_sizes_that_a_tiff_tells_where_nobody_reads(tmp_path: Path, text: str, says: str) -> None:
    found = said(described(tmp_path / "a.tif", text))
    assert set(found) == {"size unread"}
    assert says in found["size unread"]


def test_options_are_named_with_the_commands_that_have_them(foldless, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(head((30, 40)))
    image.SetSpacing((0.5, 0.5))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    one, other = (
        described(tmp_path / "a.tif", "ImageJ=1.53t\nunit=micron\n"),
        picture(tmp_path / "b.tif", dpi=(300, 300)),
    )
    noted = (
        foldless("inspect", one, other)[2] + foldless("inspect", picture(tmp_path / "p.png"), tmp_path / "a.nrrd")[2]
    )
    assert noted.count("give register and pose the right one in mm, by --moving-spacing or --fixed-spacing,") == 2
    assert noted.count("apply by --spacing or --reference-spacing, and other commands the moving.nii.gz") == 2
    assert (
        noted.count("--moving-spacing gives register and pose the right size, and other commands have it of the") == 2
    )
    for command in (Register, FindPose, Apply, Inspect):
        options = {field.name for field in fields(command) if "spacing" in field.name}
        expected = {Apply: {"spacing", "reference_spacing"}, Inspect: set()}
        assert options == expected.get(command, {"moving_spacing", "fixed_spacing"})


def test_descriptions_that_tell_no_size(tmp_path: Path) -> None:
    for text in ("ImageJ=1.53t\nunit=pixel\n", "ImageJ=1.53t\n", "a kidney"):
        assert said(described(tmp_path / "a.tif", text)) == {}


def test_stacks_of_pictures(tmp_path: Path) -> None:
    more = [Image.open(picture(tmp_path / "a.png"))] * 5
    picture(tmp_path / "a.tif", dpi=(300, 300), save_all=True, append_images=more)
    found = said(tmp_path / "a.tif")
    assert set(found) == {"resolution tag", "slice spacing"}
    assert "foldless takes 1 mm" in found["slice spacing"]
    assert looked_at(tmp_path / "a.tif", spacing=(0.5, 0.5, 2.0))[0].geometry.spacing == (0.5, 0.5, 2.0)


@pytest.mark.parametrize(("step", "thick"), [(5.9, False), (6.0, True)])
def test_thick_slices(tmp_path: Path, step: float, thick: bool) -> None:
    found = said(nifti(tmp_path / "a.nii.gz", spaced_by(step)))
    assert set(found) == ({"thick slices"} if thick else set())
    assert not thick or "6 mm thick and voxels within them 2 mm wide" in found["thick slices"]


@pytest.mark.parametrize(("slices", "says"), [(1, "one slice"), (3, "only 3 slices"), (4, "")])
def test_few_slices(tmp_path: Path, slices: int, says: str) -> None:
    found = said(
        nifti(tmp_path / "a.nii.gz", spaced_by(6.0 if slices == 1 else 2.0), head((20, 24, slices + 2))[..., 1:-1])
    )
    assert set(found) == ({"few slices"} if says else set())
    assert says in "".join(found.values())
    assert FEW == FLAT


def test_images_of_nearly_one_value(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.float32)
    array[10, 10, 10] = 3
    found = said(nifti(tmp_path / "a.nii.gz", array=array))
    assert set(found) == {"nearly constant"}
    assert "the value 0 in 99.99% of its voxels" in found["nearly constant"]


# --- a pair ----------------------------------------------------------------------------------------------------------


def test_orientations_that_differ(tmp_path: Path) -> None:
    las = nifti(tmp_path / "las.nii.gz")
    ras = nifti(
        tmp_path / "ras.nii.gz", AFFINE @ np.array([[-1.0, 0, 0, 19], [0, 1, 0, 0], [0, 0, 1, 0], [0] * 3 + [1]])
    )
    assert orientation(read_volume(ras).geometry) == "RAS"
    found = together(las, ras)
    assert set(found) == {"orientation"}
    assert "stored as LAS" in found["orientation"]
    assert "opposite handedness" in found["orientation"]
    turned = nifti(tmp_path / "t.nii.gz", AFFINE[:, [1, 2, 0, 3]], head().transpose(1, 2, 0))
    assert "opposite" not in together(las, turned)["orientation"]


def test_each_axis_of_the_body_is_named_once() -> None:
    """Of turns by so much that two index axes are nearest to one axis of the body."""
    steps = np.linalg.qr(np.random.default_rng(0).normal(size=(500, 3, 3)))[0]
    twice = 0
    for turn in steps * np.sign(np.linalg.det(steps))[:, None, None]:
        volume = like_head(turn)
        letters = orientation(volume.geometry)
        assert [sum(one in axis for one in letters) for axis in ("LR", "AP", "IS")] == [1, 1, 1]
        assert orientation(reoriented(volume).geometry) == "LPS"
        twice += len(set(np.abs(turn).argmax(0))) < 3
    assert twice


def like_head(turn: np.ndarray) -> Volume:
    image = sitk.GetImageFromArray(head((4, 5, 6)))
    image.SetDirection(turn.ravel().tolist())
    return Volume(image, Path("a.nii.gz"))


def test_extents_that_differ_tenfold(tmp_path: Path) -> None:
    here, there = nifti(tmp_path / "a.nii.gz"), nifti(tmp_path / "b.nii.gz", AFFINE @ np.diag([0.05, 0.05, 0.05, 1]))
    for pair in ((here, there), (there, here)):
        assert "20 times as long as the other" in together(*pair)["extents"]


def test_images_that_do_not_overlap(tmp_path: Path) -> None:
    away = AFFINE.copy()
    away[2, 3] += 300
    pair = nifti(tmp_path / "a.nii.gz"), nifti(tmp_path / "b.nii.gz", away)
    found = together(*pair)
    assert set(found) == {"overlap"}
    assert "300 mm apart" in found["overlap"]
    assert "seeks a pose" in found["overlap"]
    for laid in ("headers", "otherwise"):
        (given,) = pair_findings(*map(read_volume, pair), laid=laid)
        assert "seeks" not in given.text


def test_fields_of_view_that_cut_the_other(tmp_path: Path) -> None:
    whole = nifti(tmp_path / "a.nii.gz")
    part = nifti(tmp_path / "b.nii.gz", array=head()[:, :, :6])
    found = together(whole, part)
    assert set(found) == {"field of view"}
    share = share_seen(read_volume(whole), read_volume(part).geometry)
    assert share == pytest.approx(float((head()[:, :, :6] > 50).sum() / (head() > 50).sum()), abs=0.02)
    assert f"shows {share:.0%}" in found["field of view"]
    assert "counts nothing" in found["field of view"]
    assert pair_findings(read_volume(whole), read_volume(part), "otherwise") == []


def test_a_picture_of_no_size_beside_a_slice_of_one(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(head((30, 40)))
    image.SetSpacing((0.5, 0.5))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    found = together(picture(tmp_path / "p.png"), tmp_path / "a.nrrd")
    assert set(found) == {"size untold"}
    assert "--moving-spacing" in found["size untold"]
    assert "--fixed-spacing" in together(tmp_path / "a.nrrd", tmp_path / "p.png")["size untold"]


# --- spacings that are given -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(0.5,), (0.5, 0.5, 0.5), (0.5, 0.0), (float("inf"), 1.0), (-1.0, 1.0)])
def test_spacings_that_no_picture_has(tmp_path: Path, spacing: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="is 2-D; its spacing is 2 numbers above 0"):
        read_volume(picture(tmp_path / "a.png"), spacing=spacing)


def test_spacings_are_for_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="says itself"):
        read_volume(nifti(tmp_path / "a.nii.gz"), spacing=(1.0, 1.0, 1.0))


def test_labels_of_a_picture_have_its_spacing(tmp_path: Path) -> None:
    image = read_volume(picture(tmp_path / "a.jpg"), spacing=(0.5, 0.25))
    Image.fromarray((image.array > 100).astype(np.uint8)).save(tmp_path / "l.png")
    assert read_beside(tmp_path / "l.png", image).geometry == image.geometry
    Image.fromarray((image.array > 100).astype(np.uint8)[:20]).save(tmp_path / "m.png")
    assert read_beside(tmp_path / "m.png", image).geometry.spacing == (1, 1)


# --- the commands ----------------------------------------------------------------------------------------------------


def test_inspect_says_what_an_image_is(foldless, tmp_path: Path) -> None:
    code, told, noted = foldless("inspect", nifti(tmp_path / "a.nii.gz"))
    assert (code, noted) == (0, "")
    assert "20 x 24 x 16 voxels of 2 x 2 x 2 mm, stored as LAS" in told
    assert "nothing odd was found" in told
    other = nifti(tmp_path / "b.nii.gz", AFFINE @ np.diag([0.05, 0.05, 0.05, 1]))
    code, told, noted = foldless("inspect", tmp_path / "a.nii.gz", other)
    assert code == 0
    assert "20 times as long as the other" in noted
    assert "nothing odd" not in told
    code, told, noted = foldless("inspect", *[tmp_path / "a.nii.gz"] * 3)
    assert (code, noted, told.count("LAS")) == (0, "", 3)


def test_inspect_refuses_what_register_would(foldless, tmp_path: Path) -> None:
    for number, array in enumerate((np.full(SHAPE, np.nan, np.float32), np.ones(SHAPE, np.float32))):
        code, _, said = foldless("inspect", nifti(tmp_path / f"{number}.nii.gz", array=array))
        assert code == 2
        assert ("NaN", "nothing to register")[number] in said


def test_nothing_of_the_libraries_reaches_the_user(tmp_path: Path, capfd) -> None:
    path = patched(nifti(tmp_path / "a.nii", qform_code=0), 80, [0.0, 1.0, 1.0])
    sitk.ReadImage(str(path))
    assert "WARNING" in capfd.readouterr().err  # which is kept from users
    looked_at(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("command", ["pose", "register"])
def test_commands_say_and_record_it(foldless, tmp_path: Path, command: str) -> None:
    moving, fixed = (picture(tmp_path / name, dpi=(300, 300)) for name in ("m.jpg", "f.jpg"))
    more = ("--transform", "rigid", "--placement", "centre", "--fixed-spacing", "0.1", "0.2")
    code, told, noted = foldless(command, moving, fixed, "--output", tmp_path / "out", *more)
    assert code == 0
    assert noted.count("note:") == noted.count("m.jpg: its resolution tag, 300 dots per inch") == 1
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [one["kind"] for one in record["preflight"]] == ["resolution tag"]
    assert (record["settings"]["moving_spacing"], record["settings"]["fixed_spacing"]) == (None, [0.1, 0.2])
    assert read_volume(tmp_path / "out" / "warped.nii.gz").geometry.spacing == pytest.approx((0.1, 0.2))
    if command == "register":
        assert record["preflight"][0]["text"] in unescape((tmp_path / "out" / "report.html").read_text())
        assert read_volume(tmp_path / "out" / "fixed.nii.gz").geometry.spacing == pytest.approx((0.1, 0.2))
        assert f"-i {moving} -r {tmp_path / 'out' / 'fixed.nii.gz'}" in told
        assert not (tmp_path / "out" / "moving.nii.gz").exists()
    else:
        assert f"{moving} --reference {fixed} --reference-spacing 0.1 0.2 --output" in told


def test_apply_takes_the_spacings_that_register_took(foldless, tmp_path: Path) -> None:
    image, reference = picture(tmp_path / "m.jpg", dpi=(300, 300)), picture(tmp_path / "f.png")
    turn = sitk.Euler2DTransform((12.0, 6.0), 0.2, (1.0, -2.0))
    sitk.WriteTransform(turn, str(tmp_path / "turn.tfm"))
    words = ("--spacing", 0.5, 0.3, "--reference", reference, "--reference-spacing", 0.4, 0.3)
    code, _, noted = foldless("apply", tmp_path / "turn.tfm", image, *words, "--output", tmp_path / "out.tif")
    assert (code, noted) == (0, "")
    moving, fixed = (sitk.ReadImage(str(path), sitk.sitkFloat32) for path in (image, reference))
    moving.SetSpacing((0.5, 0.3))
    fixed.SetSpacing((0.4, 0.3))
    expected = sitk.GetArrayFromImage(
        sitk.Resample(moving, fixed, turn, sitk.sitkLinear, sitk.GetArrayFromImage(moving).min().item())
    )
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.tif")))
    assert (np.abs(found - expected) <= 0.51)[1:-1, 1:-1].mean() > 0.97
    code, _, noted = foldless(
        "apply", tmp_path / "turn.tfm", image, *words[:2], "--reference", reference, "--output", "x.png"
    )
    assert (code, "2 numbers above 0" in noted) == (2, True)


def test_how_options_lay_images() -> None:
    assert [laid_by(one) for one in (None, "anywhere", "world", "centre")] == [*["sought"] * 2, "headers", "otherwise"]
    assert laid_by("world", sought=False) == "headers"
    assert laid_by(None, sought=False) == laid_by("world", by_options=False) == "otherwise"


def test_other_warnings_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reading(*of: object) -> object:
        warnings.warn("of something else")
        return read_volume(nifti(tmp_path / "a.nii.gz"))

    monkeypatch.setattr("foldless.io.preflight.read_volume", reading)
    with pytest.warns(UserWarning, match="of something else"):
        assert looked_at(tmp_path / "a.nii.gz")[1] == findings_of(read_volume(tmp_path / "a.nii.gz")) == []
