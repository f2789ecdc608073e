"""Images and label maps on disk: reading with plain refusals, bringing to one orientation or lattice, writing.

Arrays are in SimpleITK's array order, (z, y, x) in 3-D and (y, x) in 2-D.
"""

# mypy: untyped-calls-exclude="SimpleITK,nibabel"

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import DTypeLike

from foldless.errors import InputError
from foldless.io.checks import check_finite, existing_file
from foldless.io.dicom import is_series, read_series
from foldless.io.files import suffix, write_packed
from foldless.io.geometry import Geometry
from foldless.io.headers import read_image
from foldless.io.nifti import slope_of
from foldless.io.pictures import is_picture, spaced
from foldless.io.quiet import quiet
from foldless.io.stored import BLURRING

LUMINANCE = (0.299, 0.587, 0.114)
"""How red, green and blue become grey (ITU-R BT.601)."""

NEARLY_WHOLE = 0.02
"""How far off whole numbers labels may be read, which a scale factor in the header makes of them."""

COARSEST_SLOPE = 0.9
"""Steps of stored numbers above which whole labels cannot be told from others."""

LITTLE_OVERLAP = 0.1
"""Share of the smaller image inside the other, below which the headers deserve a word."""

TWO_FILES = (".mhd", ".nhdr", ".hdr", ".img")


@dataclass(frozen=True)
class Volume:
    """An image (float32) or a label map (int32) with one number a voxel, and the file it came from.

    Resampling tells the two apart by their pixel type.
    """

    image: sitk.Image
    path: Path

    @property
    def geometry(self) -> Geometry:
        """Where the voxels lie."""
        return Geometry.of(self.image)

    @property
    def array(self) -> np.ndarray:
        """The voxels (*shape), array order, float32 or int32; a copy."""
        array: np.ndarray = sitk.GetArrayFromImage(self.image)
        return array

    @property
    def dim(self) -> int:
        return int(self.image.GetDimension())

    @property
    def holds_labels(self) -> bool:
        """Whether the voxels are labels, which are never mixed."""
        return bool(self.image.GetPixelID() == sitk.sitkInt32)


def read_volume(path: Path | str, labels: bool = False, spacing: tuple[float, ...] | None = None) -> Volume:
    """An image or label map, 2-D or 3-D, in any format that SimpleITK reads, or a folder of DICOM slices.

    Colour pictures (PNG, JPEG, ...) become their luminance; an alpha channel is ignored. A fourth axis of one volume
    is dropped. Directions that are slightly off orthonormal are straightened with a warning, and a NIfTI file
    whose sform and qform disagree is warned about.

    Args:
        path: the file, a folder with the slices of one DICOM series, or FOLDER#SERIES by its number or UID.
        labels: whether its voxels are labels, whole numbers, rather than intensities.
        spacing: of a picture (PNG, TIFF, JPEG, ...), mm along x, y(, z), instead of what its file says.

    Raises:
        InputError: the file is missing, is a folder without one series, cannot be read, holds several volumes, holds
            several numbers a voxel, holds NaN or infinity, is constant (images) or not whole (labels), or cannot have
            the spacing.
    """
    path = Path(path)
    image = (
        read_series(path, labels)
        if is_series(path)
        else read_image(existing_file(path, "label" if labels else "image"))
    )
    image = spaced(_one_number_a_voxel(image, path, labels), path, spacing)
    check_finite(sitk.GetArrayViewFromImage(image), path)
    if labels:
        return Volume(_whole_numbers(image, path), path)
    image = sitk.Cast(image, sitk.sitkFloat32)
    array = sitk.GetArrayViewFromImage(image)
    if array.min() == array.max():
        raise InputError(
            f"{path} has the value {float(array.min()):g} in every voxel, in float32, so there is nothing to register; "
            "expected an image with contrast, check that it is the right file"
        )
    return Volume(image, path)


def read_beside(path: Path | str, image: Volume) -> Volume:
    """The label map or mask of an image; where both are pictures of one size, with the image's spacing.

    Raises:
        InputError: as `read_volume` does.
    """
    labels = read_volume(path, labels=True)
    if is_picture(image.path) and is_picture(labels.path) and labels.geometry.size == image.geometry.size:
        labels.image.SetSpacing(image.geometry.spacing)
    return labels


def reoriented(volume: Volume) -> Volume:
    """The same voxels at the same places, axes permuted and flipped so that the direction is nearest the identity.

    Two reoriented images have index axes that point the same ways (left, posterior, superior), so that a map near
    the identity is an anatomically sensible start.

    Raises:
        InputError: no order of the axes gives a right-handed direction.
    """
    image = volume.image
    cosines, order = volume.geometry.cosines, volume.geometry.order
    flips = [bool(cosines[row, axis] < 0) for row, axis in enumerate(order)]
    straight = sitk.Flip(sitk.PermuteAxes(image, list(order)), flips, False)
    if np.linalg.det(Geometry.of(straight).cosines) <= 0:
        raise InputError(
            f"{volume.path}: no order of its axes gives a right-handed direction ({volume.geometry.direction}); "
            "a header like that describes no patient, repair it"
        )
    return replace(volume, image=straight)


def resampled(volume: Volume, geometry: Geometry, order: int = 1, extend: bool = False) -> Volume:
    """The volume read at the voxel centres of another lattice, through the headers.

    Where the two lattices share nodes, values are copied: this pads and crops as well.

    Args:
        volume: what is read; outside it lie its minimum (images) or 0 (labels).
        geometry: the lattice wanted.
        order: 1 for linear interpolation (images), 0 for the nearest voxel (labels).
        extend: whether the border continues outside instead.

    Raises:
        ValueError: linear interpolation of labels, another order, or another dimension.
    """
    if order not in (0, 1) or (order == 1 and volume.holds_labels):
        raise ValueError(f"order 1 (linear) serves images, order 0 (nearest) both; got {order} for {volume.path}")
    return through(sitk.Transform(volume.dim, sitk.sitkIdentity), volume, geometry, order, extend)


def on_lattice_of(image: Volume, labels: Volume, name: str = "the labels") -> Volume:
    """The labels of an image voxel by voxel, though their file may hold the axes in another order or direction.

    Args:
        image: whose lattice they lie on.
        labels: its label map.
        name: what the refusal calls them.

    Raises:
        InputError: they lie on another lattice.
    """
    if labels.dim == image.dim:
        if labels.geometry.fits(image.geometry):
            return labels
        if reoriented(labels).geometry.fits(reoriented(image).geometry):
            return resampled(labels, image.geometry, order=0)
    raise InputError(
        f"{name} {labels.path} have shape {labels.geometry.shape} and do not lie on the lattice of {image.path} with "
        f"shape {image.geometry.shape}; resample them with nearest neighbour"
    )


def through(transform: sitk.Transform, volume: Volume, geometry: Geometry, order: int, extend: bool = False) -> Volume:
    """The volume read where `transform` sends the voxel centres of `geometry`; outside as in `resampled`.

    Raises:
        ValueError: volume, transform and lattice differ in dimension.
        MemoryError: the lattice is too large.
    """
    dims = (volume.dim, transform.GetDimension(), geometry.dim)
    if len(set(dims)) > 1:
        raise ValueError(f"volume, transform and lattice must have one dimension; got {dims}")
    try:
        image = sitk.Resample(
            volume.image,
            geometry.size,
            transform,
            sitk.sitkLinear if order else sitk.sitkNearestNeighbor,
            geometry.origin,
            geometry.spacing,
            geometry.direction,
            _outside(volume),
            useNearestNeighborExtrapolator=extend,
        )
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise MemoryError(f"{volume.path} does not fit in memory on a lattice of {geometry.shape} nodes") from error
    return replace(volume, image=image)


def describe_mismatch(moving: Geometry, fixed: Geometry) -> str | None:
    """One sentence on why two images cannot be meant for each other by their headers; None if they can."""
    if moving.dim != fixed.dim:
        return (
            f"the moving image is {moving.dim}-D and the fixed image {fixed.dim}-D, but both must be one or the other"
        )
    share = max(_share_inside(moving, fixed), _share_inside(fixed, moving))
    if share >= LITTLE_OVERLAP:
        return None
    apart = float(np.linalg.norm(moving.centre - fixed.centre))
    overlap = f"overlap by only {share:.1%}" if share > 0 else "do not overlap"
    return f"the image centres are {apart:.0f} mm apart and the images {overlap} in world space"


def check_overlap(moving: Volume, fixed: Volume) -> None:
    """Refuse two images that lie apart in world space.

    Raises:
        InputError: dimensions differ, or less than `LITTLE_OVERLAP` of the smaller image lies inside the other.
    """
    if reason := describe_mismatch(moving.geometry, fixed.geometry):
        raise InputError(
            f"{moving.path} and {fixed.path}: {reason}; check that the headers are right and that the images "
            "belong together, or bring them together first, for example by their centres"
        )


def to_image(array: np.ndarray, geometry: Geometry, components: bool = False) -> sitk.Image:
    """A SimpleITK image of an array (*shape), or of several components a voxel (*shape, components).

    Raises:
        ValueError: the array's shape is not the lattice's.
    """
    lattice = array.shape[:-1] if components else array.shape
    if lattice != geometry.shape:
        raise ValueError(f"an array of shape {array.shape} does not lie on a lattice of shape {geometry.shape}")
    image = sitk.GetImageFromArray(array, isVector=components)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def like(array: np.ndarray, volume: Volume) -> Volume:
    """An array (*shape) as a volume on another's lattice: labels if its numbers are integers or booleans.

    Raises:
        ValueError: the shapes differ.
    """
    kind = np.float32 if np.issubdtype(array.dtype, np.floating) else np.int32
    return replace(volume, image=to_image(array.astype(kind), volume.geometry))


def write_volume(array: np.ndarray, geometry: Geometry, path: Path | str, dtype: DTypeLike = None) -> None:
    """Write an array (*shape) on a lattice, in the format that the path's suffix names; whole or not at all.

    Args:
        array: one number a voxel, array order.
        geometry: where the voxels lie.
        path: the file; one that is there is replaced.
        dtype: what to store (whole numbers are rounded to); the array's own where None.

    Raises:
        InputError: the folder is missing, the format is unknown or cannot hold the numbers, or takes two files.
        ValueError: array and lattice differ in shape.
    """
    path = Path(path)
    if suffix(path) in TWO_FILES:
        raise InputError(f"{path}: {suffix(path)} spreads an image over two files; expected .nii.gz, .nrrd or .mha")
    if dtype is not None:
        rounds = np.issubdtype(np.dtype(dtype), np.integer) and np.issubdtype(array.dtype, np.floating)
        array = (np.rint(array) if rounds else array).astype(dtype)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    write_image(to_image(array, geometry), path)


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image, whole or not at all, and read it again: where a disk is full ITK may say nothing.

    Raises:
        InputError: it cannot be written.
    """

    def fill(file: Path) -> None:
        sitk.WriteImage(image, str(file), useCompression=True)
        if suffix(path) not in BLURRING:
            _check_written(image, file)

    write_packed(path, fill)


def _check_written(image: sitk.Image, file: Path) -> None:
    with quiet():
        back = sitk.ReadImage(str(file))
    ours, theirs = (sitk.GetArrayViewFromImage(one).ravel() for one in (image, back))
    if not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
        raise OSError(
            errno.EIO,
            "read again it is another image: the disk is full, the file too large, or the format cannot hold it",
        )


def _one_number_a_voxel(image: sitk.Image, path: Path, labels: bool) -> sitk.Image:
    components = image.GetNumberOfComponentsPerPixel()
    kind = image.GetPixelIDTypeAsString()
    if "complex" in kind:
        raise InputError(f"{path} holds complex numbers, but one real number a voxel was expected; save the magnitude")
    if components == 1:  # a vector of one number is that number
        return sitk.VectorIndexSelectionCast(image, 0) if "vector" in kind else image
    colour = components in (3, 4) and image.GetDimension() == 2 and "unsigned integer" in kind
    if colour and not labels:
        bands = [sitk.VectorIndexSelectionCast(image, band, sitk.sitkFloat32) for band in range(3)]
        red, green, blue = (band * share for band, share in zip(bands, LUMINANCE, strict=True))
        grey: sitk.Image = red + green + blue
        return grey
    raise InputError(
        f"{path} holds {components} numbers a voxel, but one was expected; "
        + ("save the labels as whole numbers, not as colours" if colour else "is it a displacement field?")
    )


def _whole_numbers(image: sitk.Image, path: Path) -> sitk.Image:
    """Labels as int32; what a scale factor left beside whole numbers is rounded away."""
    array = sitk.GetArrayViewFromImage(image)
    if float(array.max()) > np.iinfo(np.int32).max or float(array.min()) < np.iinfo(np.int32).min:
        raise InputError(
            f"{path} holds the label {float(array.max()):g}; expected labels that fit in 32 bits, renumber them"
        )
    if np.issubdtype(array.dtype, np.floating):
        near = NEARLY_WHOLE + (slope / 2 if (slope := slope_of(path)) < COARSEST_SLOPE else 0.0)
        broken = np.abs(array - np.rint(array)) > near
        if broken.any():
            raise InputError(
                f"{path} holds labels that are not whole numbers, such as {float(array[broken][0]):g}; expected whole "
                "numbers, resample label maps with nearest neighbours"
            )
        image = sitk.Round(image)
    whole: sitk.Image = sitk.Cast(image, sitk.sitkInt32)
    return whole


def _outside(volume: Volume) -> float:
    return 0.0 if volume.holds_labels else float(sitk.GetArrayViewFromImage(volume.image).min())


def _share_inside(part: Geometry, whole: Geometry, nodes: int = 21) -> float:
    """The share of points spread evenly over one lattice that lie on the other, half a voxel of margin included."""
    at = (np.indices([nodes] * part.dim) + 0.5) / nodes
    index = whole.physical_to_index(np.moveaxis(part.unit_to_physical(at), 0, -1))
    inside = (index >= -0.5) & (index <= np.array(whole.size) - 0.5)
    return float(inside.all(-1).mean())
