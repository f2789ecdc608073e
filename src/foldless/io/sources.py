"""Images of any kind that are carried along: one number a voxel or several, one volume or several, however large."""

# mypy: untyped-calls-exclude="SimpleITK"

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from foldless.errors import InputError
from foldless.io import plain
from foldless.io.checks import check_finite, check_placed, existing_file, straightened
from foldless.io.claims import check_claim, check_fields
from foldless.io.dicom import is_series
from foldless.io.files import suffix
from foldless.io.geometry import Geometry
from foldless.io.headers import header, read_image
from foldless.io.quiet import quiet, reason
from foldless.io.stored import stored_dtype
from foldless.io.volumes import TWO_FILES, Volume, read_volume, to_image, write_image, write_volume
from foldless.io.zarrs import Kind, Layer, Layers, is_zarr, read_zarr, write_zarr

MOST_SEEN = 1 << 22
"""Voxels that an image is judged by."""


@dataclass(frozen=True, eq=False)
class Source:
    """An image as it is stored.

    Attributes:
        voxels: (channels, *shape): one number a voxel, the components of vectors or colours, or volumes.
        geometry: where they lie.
        path: its file.
        dtype: what it stores.
        kind: what its channels are.
        labels: whether its numbers are labels, which are never mixed.
        step: between volumes, seconds.
    """

    voxels: np.ndarray | Layers
    geometry: Geometry
    path: Path
    dtype: np.dtype
    kind: Kind = "one"
    labels: bool = False
    step: float = 1.0

    @classmethod
    def of(cls, volume: Volume) -> Source:
        """A volume that was read."""
        array = volume.array[None]
        return cls(array, volume.geometry, volume.path, array.dtype, labels=volume.holds_labels)

    @property
    def least(self) -> float:
        """The smallest number in it."""
        least = np.inf
        for part in self.parts():
            least = min(least, float(part.min()))
        return least

    def parts(self) -> Iterator[np.ndarray]:
        """All voxels, some at a time."""
        for channel in self.voxels:
            for part in channel.pieces() if isinstance(channel, Layer) else channel:
                yield part
                self.release()

    def release(self) -> None:
        """Let go of what was read of a file that lies in a memory map, which else stays until memory is short."""
        mapping = getattr(self.voxels, "_mmap", None)
        if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)

    @property
    def glimpse(self) -> np.ndarray:
        """Some slices of it, (slices, ...)."""
        every = -(-self.voxels[0].size // MOST_SEEN)
        return np.asarray(self.voxels[0][::every])


def read_source(path: Path | str, labels: bool = False) -> Source:
    """An image of 2 or 3 axes, or several such volumes, in the file's own numbers.

    An OME-Zarr image and a large uncompressed file (.nii, .nrrd, .mha) stay where they are; of a large compressed
    one a warning says that it needs memory.

    Raises:
        InputError: it is missing or unreadable, holds complex numbers, vectors in several volumes, NaN or infinity, or
            labels that are not whole.
    """
    if is_zarr(Path(path)):
        return _checked(_of_zarr(Path(path), labels))
    if is_series(Path(path)):
        return replace(Source.of(read_volume(path, labels)), dtype=stored_dtype(path))
    path = existing_file(path, "label" if labels else "image")
    dtype = stored_dtype(path)
    if labels and (dtype.kind == "f" or dtype.itemsize > 4):  # whole they must be, and fit
        return replace(Source.of(read_volume(path, labels=True)), dtype=dtype)
    if (found := plain.mapped(path, dtype)) is not None:
        source = Source(found[0][None], found[1], path, dtype, labels=labels)
    else:
        source = _loaded(path, labels)
    return _checked(source)


def _checked(source: Source) -> Source:
    if source.dtype.kind == "f":
        for part in source.parts():
            check_finite(part, source.path)
    return source


def _of_zarr(path: Path, labels: bool) -> Source:
    layers, lattice, kind, step = read_zarr(path)
    if labels and (layers.dtype.kind == "f" or layers.dtype.itemsize > 4):
        raise InputError(f"{path} holds {layers.dtype}; expected labels that are whole numbers of at most 32 bits")
    return Source(layers, lattice, path, layers.dtype, kind, labels, step)


def _loaded(path: Path, labels: bool) -> Source:
    reader = header(path)
    if reader is not None and np.prod(reader.GetSize()) * stored_dtype(path).itemsize >= plain.LARGE:
        warnings.warn(
            f"{path} is read whole, {np.prod(reader.GetSize()) * stored_dtype(path).itemsize / 2**30:.1f} GiB; saved "
            "uncompressed as a 3-D .nii, .nrrd or .mha it would be read by parts"
        )
    if reader is not None and reader.GetDimension() == 4 and reader.GetSize()[3] > 1:
        return _volumes(path, reader, labels)
    image = read_image(path)
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{path} holds complex numbers, but real ones were expected; save the magnitude")
    array, geometry = sitk.GetArrayFromImage(image), Geometry.of(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        return Source(np.moveaxis(array, -1, 0), geometry, path, array.dtype, "vectors", labels)
    return Source(array.reshape(1, *geometry.shape), geometry, path, array.dtype, labels=labels)


def _volumes(path: Path, reader: sitk.ImageFileReader, labels: bool) -> Source:
    check_fields(path)
    check_claim(path, reader)
    if reader.GetNumberOfComponents() > 1:
        raise InputError(f"{path} holds several volumes of several numbers a voxel; carry them one by one")
    try:
        with quiet():
            image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an image ({reason(error)}); copy or write it again") from error
    check_placed(image, path)
    array = sitk.GetArrayFromImage(image)
    cosines = straightened(np.array(image.GetDirection()).reshape(4, 4)[:3, :3], path)
    where = (image.GetSize()[:3], image.GetSpacing()[:3], image.GetOrigin()[:3])
    lattice = Geometry(*where, tuple(cosines.ravel().tolist()))
    return Source(array, lattice, path, array.dtype, "volumes", labels, image.GetSpacing()[3])


def write_like(source: Source, slabs: Iterator[np.ndarray], on: Geometry, path: Path, dtype: np.dtype) -> None:
    """Write what comes slab by slab, (channels, depth, ...), as an image of the kind that the source is.

    Raises:
        InputError: the format does not hold it.
    """
    if is_zarr(path):
        write_zarr(slabs, on, path, dtype, source.kind, source.step)
        return
    if suffix(path) in TWO_FILES:
        raise InputError(f"{path}: {suffix(path)} spreads an image over two files; expected .nii.gz, .nrrd or .mha")
    large = int(np.prod(on.shape)) * dtype.itemsize >= plain.LARGE
    if source.kind == "one" and on.dim == 3 and large:
        plain.write_slabs((slab[0] for slab in slabs), on, path, dtype)
        return
    array = np.concatenate(list(slabs), 1)
    if source.kind == "one":
        write_volume(array[0], on, path, dtype)
        return
    write_image(_joined(source, array, on), path)


def _joined(source: Source, array: np.ndarray, on: Geometry) -> sitk.Image:
    """Channels (channels, *shape) as one image: of vectors, or with a fourth axis of the source's steps."""
    if source.kind == "vectors":
        return to_image(np.ascontiguousarray(np.moveaxis(array, 0, -1)), on, components=True)
    image = sitk.GetImageFromArray(array, isVector=False)
    cosines = np.eye(on.dim + 1)
    cosines[: on.dim, : on.dim] = on.cosines
    image.SetSpacing((*on.spacing, source.step))
    image.SetOrigin((*on.origin, 0.0))
    image.SetDirection(cosines.ravel().tolist())
    return image
