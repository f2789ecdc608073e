"""The known-shift table: where every format sends a point, judged by the programs' own libraries.

For each format, lattice and transform the largest error in mm over the voxels of the fixed image: of what foldless
writes as the program's library reads it, and of what foldless reads of the library's or the formula's file. Libraries
that are not installed are said to be missing: pip install antspyx fslpy surfa nitransforms itk-elastix dipy
picsl_greedy.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from experiments.command import begin
from experiments.places import Shown
from experiments.results import markdown
from foldless.cli.console import say
from foldless.io import (
    FORMATS,
    Geometry,
    Linear,
    Spaces,
    Transform,
    Warped,
    read_transform,
    write_transform,
    write_volume,
)

LATTICES = ("axis-aligned", "oblique", "flipped", "anisotropic", "2-D")
KINDS = ("translation", "rotation", "smooth warp")
EDGE = 1
"""Voxels at the border that are not judged: programs differ on what lies between the last nodes and beyond."""

Judge = Callable[[Path, Geometry, Geometry, np.ndarray], np.ndarray]
"""Where a program's library sends points (count, dim), LPS mm, by a file between two lattices."""


def lattice(kind: str) -> Geometry:
    direction, spacing = np.eye(3), (2.0, 2.5, 3.0)
    if kind == "2-D":
        return Geometry((12, 10), (2.0, 2.5), (-11.0, 7.0), (1.0, 0.0, 0.0, 1.0))
    if kind == "oblique":
        direction = Rotation.from_euler("zyx", [0.4, -0.25, 0.15]).as_matrix()
    if kind == "flipped":
        direction = np.diag([-1.0, 1.0, 1.0])
    if kind == "anisotropic":
        spacing = (0.7, 0.9, 6.0)
    return Geometry((12, 10, 9), spacing, (-11.0, 7.0, 20.0), tuple(direction.ravel().tolist()))


def nearby(fixed: Geometry) -> Geometry:
    """A moving lattice: turned, of another size and spacing, of the same handedness."""
    dim = fixed.dim
    turn = fixed.cosines @ Rotation.from_euler("z", 0.2).as_matrix()[:dim, :dim]
    size, spacing = (14, 11, 10)[:dim], (1.8, 2.2, 3.1)[:dim]
    origin = fixed.centre - turn @ (np.array(spacing) * (np.array(size) - 1) / 2) + np.array([3.0, -2.0, 1.0][:dim])
    return Geometry(size, spacing, tuple(origin.tolist()), tuple(turn.ravel().tolist()))


def transform(kind: str, on: Geometry) -> Transform:
    matrix = np.eye(on.dim, on.dim + 1)
    if kind == "translation":
        matrix[0, -1] = 3.0
    elif kind == "rotation":
        turn = Rotation.from_euler("zyx", [0.2, 0.1, -0.15]).as_matrix()
        turn = turn if on.dim == 3 else Rotation.from_euler("z", 0.2).as_matrix()[:2, :2]
        matrix = np.column_stack([turn, on.centre - turn @ on.centre])
    else:
        x = np.indices(on.shape) / (np.array(on.shape).reshape(-1, *[1] * on.dim) - 1)
        waves = [2 * np.sin(2.5 * x[c] + 1.5 * x[(c + 1) % on.dim] + c) for c in range(on.dim)]
        return Transform((Warped(np.stack(waves, -1), on),), on, on)
    return Transform((Linear(matrix),), on, on)


def by_simpleitk(path: Path, fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    if path.suffix in (".h5", ".tfm", ".txt", ".mat"):
        judge = sitk.ReadTransform(str(path))
    else:
        judge = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    return np.array([judge.TransformPoint(point) for point in points.tolist()])


RAS = np.array([-1.0, -1.0, 1.0])


def images(folder: Path, fixed: Geometry, moving: Geometry) -> list[str]:
    paths = []
    for name, on in (("fixed", fixed), ("moving", moving)):
        image = sitk.Image(on.size, sitk.sitkFloat32)
        image.SetSpacing(on.spacing)
        image.SetOrigin(on.origin)
        image.SetDirection(on.direction)
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
        paths.append(str(folder / f"{name}.nii.gz"))
    return paths


def by_fslpy(path: Path, fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    from fsl.data.image import Image
    from fsl.transform.affine import transform as carry
    from fsl.transform.flirt import fromFlirt, readFlirt
    from fsl.transform.fnirt import readFnirt

    ref, src = (Image(one) for one in images(path.parent, fixed, moving))
    if path.suffix == ".mat":
        world = np.linalg.inv(fromFlirt(readFlirt(str(path)), src, ref, "world", "world"))
        return np.asarray(carry(points * RAS, world)) * RAS
    field = readFnirt(str(path), src, ref)
    return np.asarray(field.transform(points * RAS, from_="world", to="world")) * RAS


def by_surfa(path: Path, fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    import surfa

    pushes = np.asarray(surfa.load_affine(str(path)).convert(space="world").matrix)
    ones = np.column_stack([points * RAS, np.ones(len(points))])
    return (ones @ np.linalg.inv(pushes).T)[:, :3] * RAS


def by_surfa_warp(path: Path, fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    import surfa

    with patch("numpy.fromstring", np.frombuffer):  # surfa 0.6.3 knows NumPy before 2.3
        warp = surfa.load_warp(str(path)).convert(surfa.Warp.Format.abs_ras)
    index = (np.linalg.inv(warp.target.vox2world.matrix) @ np.column_stack([points * RAS, np.ones(len(points))]).T)[:3]
    return at(np.moveaxis(warp.framed_data, -1, 0), index) * RAS


def at(channels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Channels (channels, *shape) at places (dim, count) among their voxels, linearly, (count, channels)."""
    return np.stack([map_coordinates(channel, index, order=1) for channel in channels], -1)


def by_ants(path: Path, fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    import ants
    import pandas as pd

    names = list("xyz"[: fixed.dim])
    given = pd.DataFrame(points, columns=names)
    return ants.apply_transforms_to_points(fixed.dim, given, [str(path)], whichtoinvert=[False])[names].to_numpy()


def by_greedy(path: Path, fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    """Images of the coordinates x, y and z, as greedy pulls them: linear interpolation leaves them what they are."""
    from picsl_greedy import Greedy2D, Greedy3D

    around = Geometry((61,) * fixed.dim, (3.0,) * fixed.dim, tuple(fixed.centre - 90), tuple(np.eye(fixed.dim).ravel()))
    reference, found = images(path.parent, fixed, moving)[0], []
    for axis in range(fixed.dim):
        one, other = (path.parent / f"{name}{axis}.nii.gz" for name in ("of", "pulled"))
        write_volume(around.voxel_centres[axis].astype(np.float32), around, one)
        words = f"-d {fixed.dim} -rf {reference} -ri LINEAR -rm {one} {other} -r {path}"
        (Greedy3D() if fixed.dim == 3 else Greedy2D()).execute(words, out=StringIO())
        found.append(sitk.GetArrayFromImage(sitk.ReadImage(str(other))))
    return at(np.stack(found), fixed.physical_to_index(points).T[::-1])


def by_dipy(path: Path, fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    from dipy.align.imwarp import DiffeomorphicMap

    affine = np.eye(4)
    affine[:3] = np.diag(RAS) @ np.column_stack([fixed.matrix, fixed.origin])
    carry = DiffeomorphicMap(3, fixed.size, disp_grid2world=affine)
    carry.forward = np.load(path)["arr_0"].astype(np.float32)
    return np.asarray(carry.transform_points(points * RAS)) * RAS


def by_map_coordinates(path: Path, fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    """Where SciPy reads the moving image, as Learn2Reg's evaluation has it: at its own voxel plus the displacement."""
    array, index = np.load(path)["arr_0"], fixed.physical_to_index(points)
    first = array if array.shape[0] == fixed.dim else np.moveaxis(array, -1, 0)
    return moving.index_to_physical(index + at(first, index.T))


def by_nitransforms_field(path: Path, fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    from nitransforms.nonlinear import DenseFieldTransform

    return np.asarray(DenseFieldTransform.from_filename(str(path), fmt="afni").map(points * RAS)) * RAS


def by_nitransforms(path: Path, fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    from nitransforms.linear import Affine, load

    reference, _ = images(path.parent, fixed, moving)
    found = load(str(path), fmt="afni", reference=reference, moving=reference)
    single = Affine(np.squeeze(found.matrix))
    return np.asarray(single.map(points * RAS)) * RAS


def by_elastix(path: Path, fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    import itk

    image = itk.imread(images(path.parent, fixed, moving)[1], itk.F) if fixed.dim == 3 else itk.image_from_array(
        np.zeros(moving.shape, np.float32)
    )  # fmt: skip
    listed = path.parent / "points.txt"
    listed.write_text(f"point\n{len(points)}\n" + "".join(" ".join(map(repr, p)) + "\n" for p in points.tolist()))
    parameters = itk.ParameterObject.New()
    parameters.AddParameterFile(str(path))
    itk.transformix_filter(
        image,
        parameters,
        fixed_point_set_file_name=str(listed),
        output_directory=str(path.parent),
        log_to_console=False,
    )
    lines = (path.parent / "outputpoints.txt").read_text().splitlines()
    return np.array([line.split("OutputPoint = [")[1].split("]")[0].split() for line in lines], float)


JUDGES: dict[str, dict[str, Judge]] = {
    "itk-field": {"SimpleITK": by_simpleitk, "ANTs": by_ants, "greedy": by_greedy},
    "itk": {"SimpleITK": by_simpleitk, "ANTs": by_ants},
    "slicer-field": {"SimpleITK": by_simpleitk},
    "fsl-relative": {"fslpy": by_fslpy},
    "fsl-absolute": {"fslpy": by_fslpy},
    "flirt": {"fslpy": by_fslpy},
    "greedy-affine": {"greedy": by_greedy},
    "lta": {"surfa": by_surfa},
    "mgz": {"surfa": by_surfa_warp},
    "afni-field": {"nitransforms": by_nitransforms_field},
    "afni-affine": {"nitransforms": by_nitransforms},
    "elastix": {"itk-elastix": by_elastix},
    "learn2reg": {"SciPy": by_map_coordinates},
    "voxelmorph": {"SciPy": by_map_coordinates},
    "dipy": {"dipy": by_dipy},
}


def errors(name: str, on: str, kind: str) -> tuple[str, str]:
    """The largest errors in mm of what is written, by the judge, and of what is read again."""
    row, fixed = FORMATS[name], lattice(on)
    if fixed.dim not in row.dims or (kind == "smooth warp" and row.holds == "affine"):
        return "cannot hold", "cannot hold"
    if name.startswith("afni") and on == "oblique":
        return "refused", "refused"
    afni = name.startswith("afni")
    moving = fixed if afni else nearby(fixed)
    one, spaces = replace(transform(kind, fixed), moving=moving), Spaces(fixed, moving)
    inner = np.moveaxis(fixed.voxel_centres, 0, -1)[(slice(EDGE, -EDGE),) * fixed.dim].reshape(-1, fixed.dim)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t{row.suffixes[0]}"
        write_transform(one, path, spaces, name)
        read = np.abs(read_transform(path, spaces, name)(inner) - one(inner)).max()
        if name not in JUDGES:
            return "no library", f"{read:.1g}"
        try:
            found = [judge(path, fixed, moving, inner) for judge in JUDGES[name].values()]
        except ImportError as missing:
            return f"no {missing.name}", f"{read:.1g}"
        except Exception as failed:
            return f"{type(failed).__name__} there", f"{read:.1g}"
        return f"{max(np.abs(there - one(inner)).max() for there in found):.1g}", f"{read:.1g}"


CHAIN = (
    ("itk-field", "smooth warp"),
    ("flirt", "rotation"),
    ("mgz", "smooth warp"),
    ("dipy", "smooth warp"),
    ("lta", "rotation"),
)
"""Five transforms of four tools, in the order in which points meet them."""


def composition(count: int = 10_000) -> str:
    """How far points by the composition lie from those that the tools' libraries carry one after the other, mm."""
    fixed = lattice("oblique")
    spaces, whole = Spaces(fixed, fixed), None
    points = fixed.index_to_physical(np.random.default_rng(0).uniform(3, 5.5, (count, 3)))
    carried = points
    with tempfile.TemporaryDirectory() as folder:
        for k, (name, kind) in enumerate(CHAIN):
            path = Path(folder) / f"{k}{FORMATS[name].suffixes[0]}"
            write_transform(transform(kind, fixed), path, spaces, name)
            (judge, *_) = JUDGES[name].values()
            try:
                carried = judge(path, fixed, fixed, carried)
            except ImportError as missing:
                return f"no {missing.name}"
            one = read_transform(path, spaces, name)
            whole = one if whole is None else whole.then(one)
    assert whole is not None
    return f"{np.abs(whole(points) - carried).max():.1g}"


@dataclass(frozen=True)
class Interchange(Shown):
    """Remake the known-shift table: --results docs/known-shifts.md is where it is published."""

    output: Path = Path("runs/interchange")
    """Folder of the section where no --results is given and settings are changed."""

    def run(self) -> None:
        warnings.simplefilter("ignore")
        sections = [HEAD]
        for kind in KINDS:
            rows = []
            for name in FORMATS:
                cells = [errors(name, on, kind) for on in LATTICES]
                judge = ", ".join(JUDGES[name]) if name in JUDGES else "–"
                rows.append((name, judge, *(f"{w}, {r}" if w != r else w for w, r in cells)))
                say(" | ".join(rows[-1]))
            sections.append(f"### {kind.capitalize()}\n\n{markdown(('format', 'judge', *LATTICES), rows)}")
        names = ", ".join(name for name, _ in CHAIN)
        say(found := f"{COMPOSED} ({names}): {composition()} mm.")
        sections.append(found)
        self.write("Where every format sends a point", "\n\n".join(sections))


HEAD = """    python -m experiments.interchange --results docs/known-shifts.md

A known map is written in a format and given to the library of the program that it is of; a cell has the largest
distance in mm, over all voxels but the outermost, between where the library sends a point and where it belongs (the
worst of several libraries), then the same of foldless reading that file. The fixed lattice is that of the column:
oblique by 0.4, -0.25 and 0.15 rad, flipped along x, of 0.7 x 0.9 x 6 mm, or 2-D; the moving one is turned by 0.2 rad
and has another size and spacing, but for AFNI, which takes the fixed one. "no library" means that no other program
judged it here, and the number is foldless' own; tests/test_io_formats.py holds the matrices of FLIRT, NiftyReg, greedy
and AFNI to their published formulas. SciPy reads arrays in voxels as Learn2Reg's evaluation does; greedy and ANTs
compute in float32."""

COMPOSED = """### Composition

10 000 points through the composition of five transforms, beside the same points through the libraries of their four
programs one after the other, at most"""

if __name__ == "__main__":
    begin(Interchange)
