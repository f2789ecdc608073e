"""Maps as displacement files that other programs apply: ITK's convention, fixed to moving, LPS millimetres.

A warp sends the physical point p of a fixed voxel to p + u(p) in the moving image. Outside the field's lattice every
ITK program takes u = 0, whereas a foldless map continues its border: near the edge of a cropped lattice the two differ,
so a warp should be written on the whole of the fixed image.
"""

# mypy: untyped-calls-exclude="SimpleITK,nibabel"

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from jaxtyping import Float
from torch import Tensor

from foldless.errors import InputError
from foldless.io.apart import check_transform
from foldless.io.checks import check_placed, existing_file
from foldless.io.files import suffix, write_whole
from foldless.io.geometry import Geometry
from foldless.io.nifti import check_colours, check_offset, check_voxels, is_nifti, open_nifti, placed, scales_nothing
from foldless.io.quiet import quiet
from foldless.io.volumes import Volume, through, to_image, write_image
from foldless.maps import Map

DISPLACEMENT = 1006
VECTOR = 1007
FSL = range(2001, 2020)
NIFTYREG = "NREG_TRANS"
"""What NiftyReg calls its fields, which have the intent of ITK's, but are in RAS and may be positions."""
CHUNK = 1 << 21
"""Points that a map is asked for at once: about 200 MB of intermediate arrays."""

EXPECTED = "expected a displacement field in ITK's form: NIfTI of shape (X, Y, Z, 1, 3) with intent 1007, or .h5"

Field = Float[np.ndarray, "*shape dim"]


def displacement_mm(phi: Map, moving: Geometry, fixed: Geometry, on: Geometry) -> Float[np.ndarray, "*shape dim"]:
    """What `phi` adds to every voxel centre of a lattice: (*on.shape, dim) in LPS millimetres, float64.

    Components are x, y(, z).

    Args:
        phi: a map of one sample, unit cube of `fixed` to unit cube of `moving`.
        moving: the lattice that the moving image had when phi was made.
        fixed: the lattice that the fixed image had when phi was made.
        on: where the field is wanted, usually the fixed image's own lattice. It may reach outside `fixed`: there phi
            continues as it does on points outside the unit cube.

    Raises:
        ValueError: map and lattices differ in dimension, or phi is a batch of several maps.
    """
    if len(dims := {phi.dim, moving.dim, fixed.dim, on.dim}) > 1:
        raise ValueError(f"the map and its lattices must have one dimension; got {sorted(dims)}")
    example = _tensor_of(phi)
    field = np.empty((*on.shape, on.dim))
    slices = max(1, CHUNK // max(1, int(np.prod(on.shape[1:]))))
    with torch.no_grad():
        for first in range(0, on.shape[0], slices):
            slab = on.slab(first, min(first + slices, on.shape[0]))
            here = slab.voxel_centres
            points = torch.from_numpy(np.ascontiguousarray(fixed.physical_to_unit(here))).to(example)
            images = phi(points[None])
            if images.shape[0] != 1:
                raise ValueError(f"one map is written at a time; got a batch of {images.shape[0]}, take phi[:1]")
            there = moving.unit_to_physical(images[0].cpu().double().numpy())
            field[first : first + slices] = np.moveaxis(there - here, 0, -1)
    return field


def write_warp(field: Field, geometry: Geometry, path: Path | str) -> None:
    """Write a displacement (*shape, dim), components x, y(, z), LPS millimetres, whole or not at all.

    `.nii` and `.nii.gz`: five axes (X, Y, Z, 1, 3), in 2-D (X, Y, 1, 1, 2), intent 1007, float32, which SimpleITK,
    ANTs, nitransforms and 3D Slicer read. `.h5`: an ITK composite transform of one displacement, float64.
    Outside the lattice all of them take the displacement to be zero.

    Raises:
        InputError: another suffix, or the folder is missing.
        ValueError: field and lattice differ in shape, or the field is not finite.
    """
    path = Path(path)
    if field.shape != (*geometry.shape, geometry.dim):
        raise ValueError(f"a displacement on this lattice is {(*geometry.shape, geometry.dim)}; got {field.shape}")
    if not np.isfinite(field).all():
        raise ValueError("the displacement holds values that are not finite")
    if is_nifti(path):
        write_image(to_image(field.astype(np.float32), geometry, components=True), path)
    elif suffix(path) == ".h5":
        composite = sitk.CompositeTransform([sitk_transform(field, geometry)])
        write_whole(path, lambda beside: sitk.WriteTransform(composite, str(beside)))
    else:
        raise InputError(f"{path}: a warp is written as .nii.gz or as .h5; give a name that ends in one of them")


def read_warp(path: Path | str, on: Geometry | None = None) -> tuple[Field, Geometry]:
    """What `write_warp` wrote: the displacement (*shape, dim), components x, y(, z), LPS millimetres; and its lattice.

    Args:
        path: the file.
        on: where ITK transforms of other kinds (an affine one, a composite of several) are evaluated, point by point;
            they have no lattice of their own, and are refused where none is given.

    Raises:
        InputError: the file is missing or unreadable, or holds something else: an image, FSL's kind of warp.
    """
    path = existing_file(path, "warp")
    if not is_nifti(path) and suffix(path) != ".h5":
        raise InputError(f"{path} is not a warp that can be read; {EXPECTED}")
    image = _read_nifti(path) if is_nifti(path) else _read_itk(path, on)
    check_placed(image, path)
    field: np.ndarray = sitk.GetArrayFromImage(image)
    if not np.isfinite(field).all():
        raise InputError(f"{path} holds displacements that are not finite; write it again")
    return field, Geometry.of(image)


def sitk_transform(field: Field, geometry: Geometry) -> sitk.Transform:
    """The displacement (*shape, dim), LPS millimetres, as SimpleITK's transform; zero outside the lattice."""
    return sitk.DisplacementFieldTransform(to_image(field.astype(np.float64), geometry, components=True))


def apply_warp(moving: Volume, warp_path: Path | str, reference: Geometry, labels: bool = False) -> Volume:
    """The moving volume on the reference lattice, through a warp read from its file, as other programs would do it.

    Args:
        moving: the image or label map in its own space, in any orientation.
        warp_path: what `write_warp` wrote, or another ITK transform in `.h5`.
        reference: the lattice wanted, usually the fixed image's. Where it reaches outside the warp's lattice, ITK
            leaves points where they are.
        labels: whether to take the nearest voxel instead of interpolating. Outside the moving volume lie 0 (labels)
            or its minimum (images).

    Raises:
        InputError: the warp cannot be read, or has another dimension.
    """
    field, geometry = read_warp(warp_path, on=reference)
    if geometry.dim != moving.dim or geometry.dim != reference.dim:
        raise InputError(
            f"{warp_path} is a {geometry.dim}-D warp, but {moving.path} is {moving.dim}-D and the reference "
            f"{reference.dim}-D; all three must agree"
        )
    return through(sitk_transform(field, geometry), moving, reference, order=0 if labels or moving.holds_labels else 1)


def opening_lines(moving: Path | str, fixed: Path | str, warp: Path | str, dim: int = 3) -> list[str]:
    """Lines that open the result elsewhere: SimpleITK's first, then ANTs' command, then ITK-SNAP's on its output."""
    warp = Path(warp)
    field = f"sitk.ReadImage({str(warp)!r}, sitk.sitkVectorFloat64)"
    transform = f"sitk.DisplacementFieldTransform({field})" if is_nifti(warp) else f"sitk.ReadTransform({str(warp)!r})"
    m, f, w = (shlex.quote(str(path)) for path in (moving, fixed, warp))
    return [
        "import SimpleITK as sitk",
        f"warp = {transform}",
        f"moving = sitk.ReadImage({str(moving)!r}, sitk.sitkFloat32)",
        f"warped = sitk.Resample(moving, sitk.ReadImage({str(fixed)!r}), warp)",
        f"antsApplyTransforms -d {dim} -i {m} -r {f} -t {w} -o warped.nii.gz",
        f"itksnap -g {f} -o warped.nii.gz",
    ]


def _tensor_of(phi: Map) -> Tensor:
    """A tensor of the map's dtype and device; of a map without any, float64 on the CPU."""
    found = [torch.empty(0, dtype=torch.float64)]

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    phi.of_tensors(keep)
    return found[-1]


def _read_nifti(path: Path) -> sitk.Image:
    file = open_nifti(path)
    header = file.header
    shape, intent = header.get_data_shape(), int(header["intent_code"])
    if intent in FSL:
        raise InputError(f"{path} is one of FSL's warps (intent {intent}); {EXPECTED}")
    if header.get_intent()[2] == NIFTYREG:
        raise InputError(f"{path} is NiftyReg's, in RAS; {EXPECTED}, which foldless convert makes of it")
    if len(shape) != 5 or shape[3] != 1 or shape[4] not in ((2, 3) if shape[2] == 1 else (3,)):
        raise InputError(f"{path} has the shape {shape}; {EXPECTED}")
    if intent not in (DISPLACEMENT, VECTOR):
        raise InputError(f"{path} has the intent {intent}, which says nothing of displacements; {EXPECTED}")
    check_colours(path)
    try:
        with quiet():
            image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read by SimpleITK; {EXPECTED}") from error
    check_offset(path, image)
    check_voxels(path, file)
    if not scales_nothing(image, file):
        raise InputError(
            f"{path} is scaled by a slope and an intercept in its header, which ITK applies to some components only; "
            "save the displacements as they are, in float32"
        )
    if image.GetDimension() == shape[4]:
        return image
    lattice = placed(path, file, shape[:3])  # of one slice ITK makes a 2-D image of three components
    return to_image(sitk.GetArrayFromImage(image)[None], lattice, components=True)


def _read_itk(path: Path, on: Geometry | None) -> sitk.Image:
    check_transform(path)
    try:
        with quiet():
            transform = sitk.ReadTransform(str(path))
    except (RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as an ITK transform; {EXPECTED}") from error
    parts = _parts(transform)
    if len(parts) == 1 and isinstance(parts[0], sitk.DisplacementFieldTransform):
        field: sitk.Image = parts[0].GetDisplacementField()
        return field
    if on is None or not parts:
        names = ", ".join("a part that SimpleITK does not know" if p is None else p.GetName() for p in parts)
        raise InputError(f"{path} holds {names or 'nothing'}; {EXPECTED}")
    return _evaluated(path, transform, on)


def _parts(transform: sitk.Transform) -> list[sitk.Transform | None]:
    """What a transform is composed of, or itself; None for a part that SimpleITK applies, but has no class for."""
    if not isinstance(transform, sitk.CompositeTransform):
        return [transform]
    parts: list[sitk.Transform | None] = []
    for n in range(transform.GetNumberOfTransforms()):
        try:
            parts.append(transform.GetNthTransform(n))
        except RuntimeError:
            parts.append(None)
    return parts


def _evaluated(path: Path, transform: sitk.Transform, on: Geometry) -> sitk.Image:
    """The displacement of a transform at every voxel centre of a lattice."""
    if transform.GetDimension() != on.dim:
        raise InputError(f"{path} is a {transform.GetDimension()}-D transform, but the reference is {on.dim}-D")
    lattice = (on.size, on.origin, on.spacing, on.direction)
    try:
        field: sitk.Image = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *lattice)
    except RuntimeError as error:
        raise InputError(f"{path} holds a transform that SimpleITK reads, but cannot apply; {EXPECTED}") from error
    return field
