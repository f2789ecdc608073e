"""`foldless apply`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from foldless.cli.console import say
from foldless.cli.outputs import check_file, written_alone
from foldless.cli.transforms import composed, file_of, watched
from foldless.errors import InputError

if TYPE_CHECKING:
    from foldless.io import Source, Transform

PIECEWISE = 0.5
"""Share of neighbours in the foreground that are equal, from which whole numbers look like labels."""


@dataclass(frozen=True)
class Apply:
    """Carry images or label maps through a warp of `foldless register` or of another program, or through several.

    Several transforms are composed, and images are interpolated once: the components of vectors and colours, and the
    volumes of a series, one by one. Beyond its lattice a warp continues by its border value. Large uncompressed images
    (3-D .nii, .nrrd, .mha) and OME-Zarr (.zarr, by pip install 'foldless[zarr]') need not fit in memory.
    """

    warp: Annotated[Positional[str], arg(metavar="WARP")]
    """The warp that points of the fixed image meet first: FILE, FORMAT:FILE, or FILE,-1 for the inverse, as in foldless
    convert."""
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE...")]
    """What to warp: the moving image, or anything in its space."""
    reference: Path
    """The image whose lattice the result gets, usually the fixed one; its intensities do not matter."""
    output: Path
    """File of the result, whose suffix names the format; of several images the folder for files of their names, of
    DICOM series with .nii.gz. Numbers stay of the type that IMAGE stores."""
    then: tuple[str, ...] = ()
    """Further transforms, in the order in which points meet them after WARP, as in ANTs' list."""
    interpolation: Literal["linear", "nearest", "label", "cubic", "sinc"] | None = None
    """linear (for images), nearest (for labels), label (a Gaussian vote), cubic (B-spline), sinc (Lanczos)."""
    fill: float | None = None
    """What lies outside the image; by default its minimum, or 0 with --labels."""
    spacing: tuple[float, ...] | None = None
    """Of images that are pictures (PNG, TIFF, JPEG): mm along x, y(, z), as --moving-spacing was for register."""
    reference_spacing: tuple[float, ...] | None = None
    """Of a reference that is a picture, as --fixed-spacing was."""
    labels: bool = False
    """The images hold labels: take the nearest voxel instead of interpolating."""
    overwrite: bool = False
    """Replace results that exist."""

    def run(self) -> None:
        from foldless.io.stored import check_suffix

        outputs = self._outputs()
        words = (self.warp, *self.then)
        for output in outputs:
            check_file(output, [*map(file_of, words), *self.images, self.reference], self.overwrite)
            check_suffix(output)
        transform = None
        for image, output in zip(self.images, outputs, strict=True):
            with written_alone(output):
                transform = transform or composed(words)
                shape = self._carry(transform, image, output)
            say(f"{output}: {shape} voxels on the lattice of {self.reference}")

    def _outputs(self) -> list[Path]:
        """Where the result of each image goes."""
        if not self.images:
            raise InputError("name one or more images: foldless apply WARP IMAGE --reference FIXED --output OUT")
        if len(self.images) == 1:
            return [self.output]
        if self.output.is_file():
            raise InputError(f"{self.output} is a file; the results of {len(self.images)} images go to a folder")
        names = [_named(image) for image in self.images]
        if len(set(names)) < len(names):
            raise InputError("two images have one name, and their results would too; carry them one after the other")
        return [self.output / name for name in names]

    def _carry(self, transform: Transform, image: Path, output: Path) -> str:
        """Write the result; its size in words."""
        from foldless.io import Pulling, check_format, read_geometry, read_source, rounded, write_like
        from foldless.io.pictures import respaced

        labels = self.labels or self.interpolation == "label"
        source = read_source(image, labels)
        source = replace(source, geometry=respaced(source.geometry, image, self.spacing))
        reference = respaced(read_geometry(self.reference), self.reference, self.reference_spacing)
        check_format(output, source.dtype, reference.dim, labels)
        how = self.interpolation or ("nearest" if labels else "linear")
        pulling = Pulling(source, transform, how, self.fill)
        with watched("applying") as watch:
            slabs = (rounded(slab, source.dtype) for slab in pulling.slabs(reference, watch))
            write_like(source, slabs, reference, output, source.dtype)
        if how != "nearest" and not labels and _looks_like_labels(source):
            warnings.warn(
                f"{image} looks like a label map, and its labels were mixed where they meet; add --labels to take "
                "the nearest voxel instead"
            )
        return " x ".join(map(str, reference.size))


def _named(image: Path) -> str:
    """The name of an image's result: its own, or that of a DICOM series with a suffix."""
    from foldless.io.dicom import is_series

    if not is_series(image):
        return image.name
    return f"{image.name if image.name not in ('', '..') else image.resolve().name}.nii.gz"


def _looks_like_labels(source: Source) -> bool:
    """Whether its numbers are whole and most neighbours in the foreground equal, as in no image with noise."""
    import numpy as np

    array = source.glimpse
    if source.kind != "one" or not np.array_equal(array, np.rint(array)):
        return False
    here, there = array[..., :-1], array[..., 1:]
    inside = (here != array.min()) & (there != array.min())
    return bool(inside.any() and (here == there)[inside].mean() >= PIECEWISE)
