"""`foldless apply`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from foldless.cli.console import say
from foldless.cli.outputs import check_file, written_alone
from foldless.cli.transforms import composed, file_of, watched

if TYPE_CHECKING:
    import numpy as np

    from foldless.io import Volume

PIECEWISE = 0.5
"""Share of neighbours in the foreground that are equal, from which whole numbers look like labels."""


@dataclass(frozen=True)
class Apply:
    """Carry an image or a label map through a warp of `foldless register` or of another program, or through several.

    Several transforms are composed, and the image is interpolated once. Beyond its lattice a warp continues by its
    border value.
    """

    warp: Annotated[Positional[str], arg(metavar="WARP")]
    """The warp that points of the fixed image meet first: FILE, FORMAT:FILE, or FILE,-1 for the inverse, as in foldless
    convert."""
    image: Annotated[Positional[Path], arg(metavar="IMAGE")]
    """What to warp: the moving image, or anything in its space."""
    reference: Path
    """The image whose lattice the result gets, usually the fixed one; its intensities do not matter."""
    output: Path
    """File of the result; its suffix names the format. Whole numbers stay whole, of the type that IMAGE stores."""
    then: tuple[str, ...] = ()
    """Further transforms, in the order in which points meet them after WARP, as in ANTs' list."""
    interpolation: Literal["linear", "nearest", "label", "cubic", "sinc"] | None = None
    """linear (for images), nearest (for labels), label (a Gaussian vote), cubic (B-spline), sinc (Lanczos)."""
    fill: float | None = None
    """What lies outside the image; by default its minimum, or 0 with --labels."""
    labels: bool = False
    """The image holds labels: take the nearest voxel instead of interpolating."""
    overwrite: bool = False
    """Replace --output if it exists."""

    def run(self) -> None:
        words = (self.warp, *self.then)
        check_file(self.output, [*map(file_of, words), self.image, self.reference], self.overwrite)
        with written_alone(self.output):
            shape = self._carry()
        say(f"{self.output}: {shape} voxels on the lattice of {self.reference}")

    def _carry(self) -> str:
        """Write the result; its size in words."""
        import numpy as np

        from foldless.io import check_format, pulled, read_geometry, read_volume, stored_dtype, write_volume

        labels = self.labels or self.interpolation == "label"
        volume = read_volume(self.image, labels=labels)
        reference = read_geometry(self.reference)
        dtype = stored_dtype(self.image)
        kept = dtype if np.issubdtype(dtype, np.integer) else volume.array.dtype
        check_format(self.output, kept, reference.dim, labels)
        transform = composed((self.warp, *self.then))
        how = self.interpolation or ("nearest" if labels else "linear")
        with watched("applying") as watch:
            warped = pulled(volume, transform, reference, how, self.fill, watch)
        if how != "nearest" and not labels and _looks_like_labels(volume):
            warnings.warn(
                f"{self.image} looks like a label map, and its labels were mixed where they meet; add --labels to take "
                "the nearest voxel instead"
            )
        write_volume(_within(warped, kept), reference, self.output, kept)
        return " x ".join(map(str, reference.size))


def _within(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The numbers, rounding errors at the ends of an integer type cut off."""
    import numpy as np

    if not np.issubdtype(dtype, np.integer):
        return array
    if not np.issubdtype(array.dtype, np.floating):  # labels, which are numbers of the file already
        return array
    ends, largest = np.iinfo(dtype), array.dtype.type(np.iinfo(dtype).max)
    if int(largest) > ends.max:  # float32 has no 2^31 - 1, and would round it to what wraps around
        largest = np.nextafter(largest, array.dtype.type(0))
    return array.clip(array.dtype.type(ends.min), largest)


def _looks_like_labels(volume: Volume) -> bool:
    """Whether its numbers are whole and most neighbours in the foreground equal, as in no image with noise."""
    import numpy as np

    array = volume.array
    if not np.array_equal(array, np.rint(array)):
        return False
    here, there = array[..., :-1], array[..., 1:]
    inside = (here != array.min()) & (there != array.min())
    return bool(inside.any() and (here == there)[inside].mean() >= PIECEWISE)
