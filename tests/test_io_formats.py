"""Transform files of every format of the table: there and back, judged by SimpleITK, ANTs and published formulas."""

import itertools
import struct
import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from transform_cases import GEOMETRIES, TRANSFORMS, geometry, itk_of, moving_geometry, nodes, transform, wave

from foldless.errors import InputError
from foldless.io import (
    FORMATS,
    Geometry,
    Linear,
    Spaces,
    Spline,
    Transform,
    Warped,
    read_transform,
    recognised,
    write_transform,
)

FLOAT32 = 2e-5
"""Millimetres that displacements of some, or positions of some dozens, lose in float32."""
EXACT = 1e-8
"""Millimetres that matrices written with 12 digits lose."""

SUFFIX = {row.name: row.suffixes[0] for row in FORMATS.values()}


def cases():
    for (name, row), on, kind in itertools.product(FORMATS.items(), GEOMETRIES, TRANSFORMS):
        bends, dim = kind == "smooth warp", 2 if on == "2-D" else 3
        if (
            dim in row.dims
            and not (bends and row.holds == "affine")
            and not (name.startswith("afni") and on == "oblique")
        ):
            yield name, on, kind


CASES = list(cases())


@pytest.mark.parametrize(("name", "on", "kind"), CASES)
def test_there_and_back(tmp_path, name, on, kind):
    fixed = geometry(on)
    moving = fixed if name in ("learn2reg", "voxelmorph", "afni-field", "afni-affine") else moving_geometry(fixed)
    one, spaces = transform(kind, fixed), Spaces(fixed, moving)
    path = tmp_path / f"t{SUFFIX[name]}"
    write_transform(one, path, spaces, name)
    back = read_transform(path, spaces, name)
    points = nodes(fixed)
    tolerance = EXACT if FORMATS[name].holds != "field" else FLOAT32
    np.testing.assert_allclose(back(points), one(points), atol=tolerance)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def pairs():
    """Every format before three others and after three others that hold the same, ITK's any."""
    held = {what: [name for name, row in FORMATS.items() if row.holds in (what, "any")] for what in ("affine", "field")}
    found = {}
    for names in held.values():
        for step in (1, 2, 3):
            found |= dict.fromkeys(zip(names, names[step:] + names[:step], strict=True))
    return list(found)


@pytest.mark.parametrize(("first", "second"), pairs())
def test_through_pairs_of_formats(tmp_path, first, second):
    """What both can hold comes back with no more than the formats' own precision lost."""
    fixed = geometry("flipped")
    spaces, affine = Spaces(fixed, fixed), "affine" in (FORMATS[first].holds, FORMATS[second].holds)
    one = transform("rotation" if affine else "smooth warp", fixed)
    files = [tmp_path / f"{name}{SUFFIX[name]}" for name in (first, second)]
    write_transform(one, files[0], spaces, first)
    write_transform(read_transform(files[0], spaces, first), files[1], spaces, second)
    back = read_transform(files[1], spaces, second)
    np.testing.assert_allclose(back(nodes(fixed)), one(nodes(fixed)), atol=2 * (EXACT if affine else FLOAT32))


@pytest.mark.parametrize(("on", "kind"), list(itertools.product(GEOMETRIES, TRANSFORMS)))
def test_a_transform_is_what_simpleitk_makes_of_it(on, kind):
    one = transform(kind, geometry(on))
    inner = nodes(geometry(on))
    judge = itk_of(one)
    expected = [judge.TransformPoint(point) for point in inner.tolist()]
    np.testing.assert_allclose(one(inner), expected, atol=EXACT)


AROUND = Geometry((12, 10, 9), (5.0, 5.0, 5.0), (-20.0, -20.0, -15.0), geometry("axis-aligned").direction)
SPLINE = sitk.BSplineTransformInitializer(sitk.Image([12, 10, 9], sitk.sitkFloat32), (3, 4, 2), 3)
SPLINE.SetParameters(np.random.default_rng(0).normal(size=len(SPLINE.GetParameters())).tolist())

ITK = {
    "translation": sitk.TranslationTransform(3, (1.0, -2.0, 3.0)),
    "Euler": sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6)),
    "similarity": sitk.Similarity3DTransform(1.1, (0, 0, 1), 0.2, (1, 2, 3), (4, 5, 6)),
    "scale": sitk.ScaleTransform(3, (1.1, 0.9, 1.2)),
    "affine": sitk.AffineTransform((1.1, 0.1, 0, 0, 0.9, 0, 0, 0.2, 1.0), (1, 2, 3), (4, 5, 6)),
    "2-D Euler": sitk.Euler2DTransform((1, 2), 0.3, (4, 5)),
    "B-spline": SPLINE,
    "composite": sitk.CompositeTransform(
        [
            sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (1, 0.5, 0)),
            SPLINE,
            itk_of(transform("smooth warp", AROUND)),
        ]
    ),
}


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".txt", ".mat"])
@pytest.mark.parametrize("name", ITK)
def test_itk_transforms_of_any_kind(tmp_path, name, suffix):
    if name == "composite" and suffix == ".mat":
        pytest.skip("ITK writes no composites as .mat")
    judge = ITK[name]
    sitk.WriteTransform(judge, str(tmp_path / f"t{suffix}"))
    found = read_transform(tmp_path / f"t{suffix}")
    points = np.random.default_rng(1).uniform(0.2, 7.5, (200, found.dim))
    expected = [judge.TransformPoint(point) for point in points.tolist()]
    np.testing.assert_allclose(found(points), expected, atol=1e-9)
    write_transform(found, tmp_path / "again.h5")
    again = sitk.ReadTransform(str(tmp_path / "again.h5"))
    np.testing.assert_allclose([again.TransformPoint(point) for point in points.tolist()], expected, atol=1e-9)


def test_a_spline_is_nothing_where_itk_has_none(tmp_path):
    sitk.WriteTransform(SPLINE, str(tmp_path / "t.tfm"))
    points = np.random.default_rng(1).uniform(-3, 14, (2000, 3))
    expected = np.array([SPLINE.TransformPoint(point) for point in points.tolist()])
    np.testing.assert_allclose(read_transform(tmp_path / "t.tfm")(points), expected, atol=1e-9)
    assert (expected == points).all(1).any()


def test_ants_lists_are_in_the_order_of_application(tmp_path):
    """Points of the fixed image meet the first of a list first, as in `-t warp -t affine`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ants
        import pandas as pd
    fixed = geometry("oblique")
    warp, affine = transform("smooth warp", fixed), transform("rotation", fixed)
    write_transform(warp, tmp_path / "warp.nii.gz")
    write_transform(affine, tmp_path / "affine.mat", name="itk")
    points = nodes(fixed)[::7]
    given = pd.DataFrame(points, columns=list("xyz"))
    files = [str(tmp_path / "warp.nii.gz"), str(tmp_path / "affine.mat")]
    expected = ants.apply_transforms_to_points(3, given, files, whichtoinvert=[False, False]).to_numpy()
    both = read_transform(files[0]).then(read_transform(files[1]))
    np.testing.assert_allclose(both(points), expected, atol=1e-3)  # ANTs' own float32


def test_the_published_formulas(tmp_path):
    """FLIRT, NiftyReg, AFNI and FreeSurfer by their own words, without a line of ours."""
    fixed, x = geometry("oblique"), np.array([[1.0, 2.0, 3.0]])
    ras = np.array([[1, 0.1, 0, 5], [0, 0.9, 0, -3], [0, 0, 1.2, 2], [0, 0, 0, 1.0]])
    lps = np.diag([-1.0, -1, 1, 1])
    pulled = (lps @ ras @ lps @ np.array([1.0, 2, 3, 1]))[:3]
    np.savetxt(tmp_path / "a.txt", ras)
    for name in ("niftyreg-affine", "greedy-affine"):
        np.testing.assert_allclose(read_transform(tmp_path / "a.txt", name=name)(x)[0], pulled, atol=EXACT)
    (tmp_path / "a.aff12.1D").write_text(" ".join(map(str, (lps @ ras @ lps)[:3].ravel())))
    np.testing.assert_allclose(read_transform(tmp_path / "a.aff12.1D")(x)[0], pulled, atol=EXACT)
    write_transform(Transform((Linear((lps @ ras @ lps)[:3]),), fixed, moving_geometry(fixed)), tmp_path / "a.lta")
    rows = (tmp_path / "a.lta").read_text().split("1 4 4\n")[1].splitlines()[:4]
    np.testing.assert_allclose(np.linalg.inv(np.array([row.split() for row in rows], float)), ras, atol=EXACT)


def fsl_coordinates(affine, size, spacing, ijk):
    flipped = ijk.copy()
    if np.linalg.det(affine) > 0:
        flipped[:, 0] = size[0] - 1 - flipped[:, 0]
    return flipped * spacing


@pytest.mark.parametrize("on", ["axis-aligned", "oblique", "flipped"])
def test_flirt_by_its_own_words(tmp_path, on):
    """`img_coords mm`: the matrix takes FSL coordinates of the moving image to those of the fixed one."""
    fixed = geometry(on)
    moving = moving_geometry(fixed)
    matrix = np.array([[1, 0.1, 0, 5], [0, 0.9, 0.1, -3], [0, 0, 1.2, 2], [0, 0, 0, 1.0]])
    np.savetxt(tmp_path / "a.mat", matrix)
    ijk = np.random.default_rng(0).uniform(0, 8, (20, 3))
    there = (
        fsl_coordinates(moving.matrix, moving.size, np.array(moving.spacing), ijk) @ matrix[:3, :3].T + matrix[:3, 3]
    )
    back = there / fixed.spacing
    if np.linalg.det(fixed.matrix) > 0:
        back[:, 0] = fixed.size[0] - 1 - back[:, 0]
    found = read_transform(tmp_path / "a.mat", Spaces(fixed, moving), "flirt")(fixed.index_to_physical(back))
    np.testing.assert_allclose(found, moving.index_to_physical(ijk), atol=EXACT)


EULER = """(Transform "EulerTransform")
(NumberOfParameters 6)
(TransformParameters 0.1 0.2 0.3 1 2 3)
(InitialTransformParametersFileName "{before}")
(HowToCombineTransforms "Compose")
(FixedImageDimension 3)
(MovingImageDimension 3)
(CenterOfRotationPoint 4 5 6)
(ComputeZYX "false")
"""


def test_elastix_files_that_name_others(tmp_path):
    (tmp_path / "first.txt").write_text(
        '(Transform "TranslationTransform")\n(TransformParameters 7 8 9)\n(FixedImageDimension 3)\n'
        '(InitialTransformParametersFileName "NoInitialTransform")\n'
    )
    (tmp_path / "second.txt").write_text(EULER.format(before="/somewhere/else/first.txt"))
    judge = sitk.Euler3DTransform((4, 5, 6), 0.1, 0.2, 0.3, (1, 2, 3))
    found = read_transform(tmp_path / "second.txt")([[1.0, 2.0, 3.0]] * np.ones((1, 1)))
    np.testing.assert_allclose(found[0], judge.TransformPoint((8.0, 10.0, 12.0)), atol=EXACT)


@pytest.mark.parametrize("kind", ["B-spline", "2-D Euler"])
def test_elastix_splines_have_their_directions_in_columns(tmp_path, kind):
    if kind == "2-D Euler":
        lines = ['(Transform "EulerTransform")', "(TransformParameters 0.3 4 5)", "(FixedImageDimension 2)"]
        (tmp_path / "e.txt").write_text("\n".join([*lines, "(CenterOfRotationPoint 1 2)"]))
        judge: sitk.Transform = ITK["2-D Euler"]
        points = np.random.default_rng(0).normal(size=(20, 2))
    else:
        grid = Geometry((6, 7, 5), (3.0, 4.0, 5.0), (-12.0, 1.0, 12.0), geometry("oblique").direction)
        numbers = np.random.default_rng(0).normal(size=(3, *grid.shape))
        keys = {"GridSize": grid.size, "GridSpacing": grid.spacing, "GridOrigin": grid.origin}
        lines = [f"({key} {' '.join(map(str, value))})" for key, value in keys.items()]
        lines += [f"(GridDirection {' '.join(map(str, grid.cosines.T.ravel()))})", "(FixedImageDimension 3)"]
        lines += [
            f"(TransformParameters {' '.join(map(repr, numbers.ravel().tolist()))})",
            '(Transform "BSplineTransform")',
        ]
        (tmp_path / "e.txt").write_text("\n".join(lines))
        images = [sitk.GetImageFromArray(c) for c in numbers]
        for image in images:
            image.SetSpacing(grid.spacing)
            image.SetOrigin(grid.origin)
            image.SetDirection(grid.direction)
        judge = sitk.BSplineTransform(images, 3)
        points = grid.index_to_physical(np.random.default_rng(1).uniform(1, 3.9, (50, 3)))
    expected = [judge.TransformPoint(point) for point in points.tolist()]
    found = read_transform(tmp_path / "e.txt")
    np.testing.assert_allclose(found(points), expected, atol=EXACT)
    if kind == "B-spline":
        assert isinstance(found.parts[0], Spline)


def test_what_a_file_says_of_itself_is_enough(tmp_path):
    """Every format but those that several programs share is recognised."""
    fixed = geometry("axis-aligned")
    spaces, shared = Spaces(fixed, fixed), {"flirt", "niftyreg-affine", "greedy-affine"}
    arrays = {"learn2reg", "voxelmorph", "dipy"}
    for name in FORMATS:
        kind = "rotation" if FORMATS[name].holds == "affine" else "smooth warp"
        path = tmp_path / f"{name}{SUFFIX[name]}"
        write_transform(transform(kind, fixed), path, spaces, name)
        if name in shared | arrays:
            with pytest.raises(InputError, match="say whose"):
                recognised(path)
        elif name != "afni-field":  # AFNI's own files bear an extension
            assert recognised(path) == name


@pytest.mark.parametrize("depth", [9, 1])
@pytest.mark.parametrize("name", [name for name, row in FORMATS.items() if ".nii.gz" in row.suffixes])
def test_inspect_takes_no_warp_for_an_image(foldless, tmp_path, name, depth):
    """Several programs write one component, or number, a voxel in volumes after each other."""
    fixed = geometry("axis-aligned")
    fixed = Geometry((*fixed.size[:2], depth), fixed.spacing, fixed.origin, fixed.direction)
    field = np.random.default_rng(0).normal(size=(*fixed.shape, 3)) / 4
    path = tmp_path / "w.nii.gz"
    if name == "afni-field":
        afni(path)
    else:
        write_transform(Transform((Warped(field, fixed),)), path, Spaces(fixed, fixed), name)
    code, said, complained = foldless("inspect", path)
    refusals = dict.fromkeys(("learn2reg", "voxelmorph", "dipy"), "say whose")
    refusals |= dict.fromkeys(("fsl-relative", "fsl-absolute"), "a warp of FSL's, counts in")
    if name in refusals:
        assert code == 2
        assert refusals[name] in complained
    else:
        assert code == 0
        assert f"{path}: {name}" in said


def test_learn2reg_is_voxels_in_the_order_of_nibabel(tmp_path):
    fixed = geometry("oblique")
    array = np.zeros((3, *fixed.size), np.float32)
    array[1] = 1.5
    np.savez(tmp_path / "d.npz", array)
    found = read_transform(tmp_path / "d.npz", Spaces(fixed), "learn2reg")
    points = nodes(fixed)
    np.testing.assert_allclose(found(points), points + 1.5 * fixed.matrix[:, 1], atol=FLOAT32)
    assert "moving image" in found.notes[0]


@pytest.mark.parametrize("kind", range(4))
def test_freesurfer_says_what_its_numbers_are(tmp_path, kind):
    """Positions (0) or displacements (1) in voxels of the source, or in RAS mm (2, 3), laid out byte by byte."""
    fixed, turned = geometry("oblique"), geometry("flipped")
    there = nodes(fixed) + wave(fixed).reshape(-1, 3)
    ras, index = np.array([-1.0, -1, 1]), turned.physical_to_index(there)
    here = fixed.physical_to_index(nodes(fixed))
    numbers = (index, index - here, there * ras, (there - nodes(fixed)) * ras)[kind]

    def placed(on, size):
        centre = on.index_to_physical(np.array(on.size) / 2) * ras
        size = struct.pack(">3i", *on.size) if size else b""
        return size + struct.pack(">15f", *on.spacing, *(on.cosines * ras[:, None]).T.ravel(), *centre)

    head = struct.pack(">7ih", 3 << 8 | 1, *fixed.size, 3, 3, 0, 1) + placed(fixed, size=False)
    both = b"".join(struct.pack(">i", 1) + placed(on, size=True) + bytes(512) for on in (turned, fixed))
    tags = struct.pack(">iqf", 43, 4, 0.0) + struct.pack(">i", 10) + both + struct.pack(">iqiif", 13, 12, kind, 1, 0)
    (tmp_path / "w.mgh").write_bytes(head.ljust(284, b"\0") + numbers.T.astype(">f4").tobytes() + bytes(20) + tags)
    found = read_transform(tmp_path / "w.mgh")
    np.testing.assert_allclose(found(nodes(fixed)), there, atol=FLOAT32)
    assert found.moving.fits(turned)
    with pytest.raises(InputError, match="describe both images"):
        write_transform(Transform((Warped(wave(fixed), fixed),)), tmp_path / "w.mgz")


def test_composition_and_inverse(tmp_path):
    fixed = geometry("oblique")
    warp, turn = transform("smooth warp", fixed), transform("rotation", fixed)
    both = turn.then(warp).then(turn)
    points = nodes(fixed)
    np.testing.assert_allclose(both(points), turn(warp(turn(points))), atol=EXACT)
    back, missed = both.back(both(points))
    np.testing.assert_allclose(back, points, atol=1e-3)
    assert missed.max() < 1e-4
    inverse, worst = both.inverse(moving_geometry(fixed))
    assert worst < 1e-4
    there = nodes(moving_geometry(fixed))
    np.testing.assert_allclose(both(inverse(there)), there, atol=1e-4)
    assert inverse.names == both.names[::-1]
    exact, _ = turn.inverse(None)
    np.testing.assert_allclose(exact(turn(points)), points, atol=EXACT)
    with pytest.raises(InputError, match="moving image's lattice"):
        both.inverse(None)


def test_parts_that_only_itk_knows(tmp_path):
    """As uniGradICON writes them: CenteredAffine transforms, which SimpleITK has no class for, at both ends."""
    from test_io_composites import with_centred_affines

    path = with_centred_affines(tmp_path)
    judge, found = sitk.ReadTransform(str(path)), read_transform(path)
    points = np.random.default_rng(0).uniform(2, 6, (50, 3))
    expected = [judge.TransformPoint(point) for point in points.tolist()]
    np.testing.assert_allclose(found(points), expected, atol=EXACT)


def test_bids_names_say_who_is_who(tmp_path):
    name = "sub-01_from-T1w_to-MNI152_mode-image_xfm.h5"
    write_transform(transform("rotation", geometry("oblique")), tmp_path / name)
    assert read_transform(tmp_path / name).names == ("MNI152", "T1w")


def afni(path, intent=0):
    file = nib.Nifti1Image(np.zeros((5, 6, 7, 1, 3), np.float32), np.eye(4))
    file.header.extensions.append(nib.nifti1.Nifti1Extension(4, b"<AFNI_attributes />"))
    nib.save(file, path)
    return path


def test_afni_fields_by_their_extension(tmp_path):
    assert recognised(afni(tmp_path / "w.nii.gz")) == "afni-field"


def test_one_slice(tmp_path):
    flat = Geometry((8, 7, 1), (1.0, 1.2, 4.0), (1.0, 2.0, 3.0), geometry("oblique").direction)
    field = np.random.default_rng(0).normal(size=(*flat.shape, 3))
    points = nodes(flat)
    np.testing.assert_allclose(Transform((Warped(field, flat),))(points), points + field.reshape(-1, 3), atol=EXACT)
