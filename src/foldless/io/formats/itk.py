"""What ITK reads and writes: displacement fields as images, and transforms of any kind, alone or composed."""

# mypy: untyped-calls-exclude="SimpleITK"

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch

from foldless.errors import InputError
from foldless.io.apart import check_transform
from foldless.io.checks import check_placed
from foldless.io.claims import check_claim, check_fields
from foldless.io.files import suffix, write_whole
from foldless.io.formats.fields import checked
from foldless.io.formats.frames import Spaces
from foldless.io.geometry import Geometry
from foldless.io.headers import header
from foldless.io.quiet import quiet, reason
from foldless.io.transforms import read_warp, sitk_transform, write_warp
from foldless.io.volumes import to_image, write_image
from foldless.io.world import Foreign, Inverse, Linear, Part, Spline, Transform, Warped
from foldless.maps import Jacobian, Map

STEP = 1e-3
"""Millimetres by which slopes of foreign maps are found."""

RAS_SPACES = (b"right-anterior-superior", b": ras")


def read_field(path: Path, spaces: Spaces) -> Transform:
    """A NIfTI field with intent 1006 or 1007, as `read_warp` reads it."""
    field, geometry = read_warp(path)
    return Transform((Warped(field, geometry),), geometry, spaces.moving)


def write_field(transform: Transform, on: Geometry, path: Path, spaces: Spaces) -> None:
    """A NIfTI field with intent 1007, float32."""
    write_warp(transform.displacement_on(on), on, path)


def read_image_field(path: Path, spaces: Spaces) -> Transform:
    """An NRRD or MetaImage file with one vector a voxel, LPS mm, as 3D Slicer writes it."""
    check_fields(path)
    with path.open("rb") as stream:
        start = stream.read(4096).split(b"\n\n")[0].lower()
    if start.startswith(b"nrrd") and any(space in start for space in RAS_SPACES):
        raise InputError(
            f"{path} lies in RAS space, where ITK turns the lattice but not the vectors; save it in LPS, as 3D Slicer"
        )
    reader = header(path)
    if reader is None or reader.GetNumberOfComponents() != reader.GetDimension():
        found = "nothing that can be read" if reader is None else f"{reader.GetNumberOfComponents()} numbers a voxel"
        raise InputError(f"{path} holds {found}; expected a displacement field, a vector in LPS mm a voxel")
    check_claim(path, reader)
    try:
        with quiet():
            image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as a field ({reason(error)}); copy or write it again") from error
    check_placed(image, path)
    field = checked(sitk.GetArrayFromImage(image), path)
    return Transform((Warped(field, Geometry.of(image)),), Geometry.of(image), spaces.moving)


def write_image_field(transform: Transform, on: Geometry, path: Path, spaces: Spaces) -> None:
    """The same, float64."""
    write_image(to_image(transform.displacement_on(on), on, components=True), path)


def read_itk(path: Path, spaces: Spaces) -> Transform:
    """A transform of ITK's of any kind, or several composed, from .h5, .tfm, .txt or .mat."""
    check_transform(path)
    try:
        with quiet():
            transform = sitk.ReadTransform(str(path))
    except (RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as an ITK transform; copy or write it again") from error
    parts = parts_of_itk(transform)
    if not parts:
        raise InputError(f"{path} holds no transform; expected one or more")
    fields = [part.geometry for part in parts if isinstance(part, Warped)]
    return Transform(parts, spaces.fixed or (fields[0] if fields else None), spaces.moving)


def parts_of_itk(transform: sitk.Transform) -> tuple[Part, ...]:
    """The parts of a transform in the order of application; ITK keeps them the other way round."""
    if isinstance(transform, sitk.CompositeTransform):
        try:
            several = [transform.GetNthTransform(n) for n in range(transform.GetNumberOfTransforms())]
        except RuntimeError:  # a part that SimpleITK applies, but has no class for
            return (_single(transform),)
        return tuple(part for one in reversed(several) for part in parts_of_itk(one))
    return (_single(transform),)


def _single(transform: sitk.Transform) -> Part:
    dim = transform.GetDimension()
    if isinstance(transform, sitk.DisplacementFieldTransform):
        image = transform.GetDisplacementField()
        return Warped(checked(sitk.GetArrayFromImage(image), Path("a displacement field")), Geometry.of(image))
    if isinstance(transform, sitk.BSplineTransform) and transform.GetOrder() == 3:
        images = transform.GetCoefficientImages()
        numbers = np.stack([sitk.GetArrayFromImage(image) for image in images], -1)
        return Spline(numbers, Geometry.of(images[0]))
    if transform.IsLinear():
        ends = np.array([transform.TransformPoint(point) for point in np.vstack([np.zeros(dim), np.eye(dim)]).tolist()])
        return Linear(np.column_stack([(ends[1:] - ends[0]).T, ends[0]]))
    return Foreign(ItkMap(transform), transform.GetName())


@dataclass(frozen=True, eq=False)
class ItkMap(Map):
    """A transform that SimpleITK evaluates, point by point; its derivative by differences of `STEP`."""

    transform: sitk.Transform

    @property
    def dim(self) -> int:
        return int(self.transform.GetDimension())

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        flat = points[0].flatten(1).T.double().tolist()
        there = torch.tensor([self.transform.TransformPoint(point) for point in flat], dtype=torch.float64)
        return there.reshape(-1, self.dim).T.reshape(points.shape).to(points)

    def with_jacobian(self, points: torch.Tensor) -> tuple[torch.Tensor, Jacobian]:
        columns = []
        for axis in range(self.dim):
            step = torch.zeros(1, self.dim, *[1] * (points.ndim - 2), dtype=points.dtype)
            step[0, axis] = STEP
            columns.append((self(points + step) - self(points - step)) / (2 * STEP))
        return self(points), torch.stack(columns, 2)


def write_itk(transform: Transform, on: Geometry | None, path: Path, spaces: Spaces) -> None:
    """A transform of ITK's, composed where it has several parts; what ITK has no class for becomes a field on `on`."""
    parts = transform.parts if (linear := transform.linear) is None else (linear,)
    if any(isinstance(part, Foreign | Inverse) for part in parts):
        if on is None:
            raise InputError(
                f"{path}: the transform must become a field, on which lattice nobody knows; give the fixed image"
            )
        parts = (Warped(transform.displacement_on(on), on),)
    if suffix(path) not in (".h5", ".hdf5") and any(isinstance(part, Warped) for part in parts):
        raise InputError(f"{path}: ITK's {suffix(path)} would hold a field as text; give .h5 or .nii.gz, which hold it")
    made = [_itk_of(part) for part in parts]
    whole = made[0] if linear is not None else sitk.CompositeTransform(made[::-1])
    write_whole(path, lambda beside: sitk.WriteTransform(whole, str(beside)))


def _itk_of(part: Part) -> sitk.Transform:
    if isinstance(part, Warped):
        return sitk_transform(part.displacement, part.geometry)
    if isinstance(part, Spline):
        images = [to_image(np.ascontiguousarray(c), part.geometry) for c in np.moveaxis(part.coefficients, -1, 0)]
        return sitk.BSplineTransform([sitk.Cast(image, sitk.sitkFloat64) for image in images], 3)
    assert isinstance(part, Linear)
    made = sitk.AffineTransform(part.dim)
    made.SetMatrix(part.matrix[:, :-1].ravel().tolist())
    made.SetTranslation(part.matrix[:, -1].tolist())
    return made
