"""`foldless inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from foldless.cli.console import say
from foldless.cli.preflight import inspect_images, read_pair
from foldless.cli.transforms import certificate_of, file_of, given, spaces_of, split_word, transform_of
from foldless.errors import InputError

if TYPE_CHECKING:
    from foldless.io import Geometry, Transform


@dataclass(frozen=True)
class Inspect:
    """Say what a transform file or an image is, which way a transform goes, and what may be wrong.

    Of images, one or more, it says where they lie and what is odd about them and, of two, about them as a pair, MOVING
    FIXED: what `register` and `pose` say before they compute. With the two images a transform is tried both ways, and
    by the readings that are mistaken for one another: voxels for mm, z, y, x for x, y, z, RAS for LPS, positions for
    displacements, a header that was lost. Nothing is written.
    """

    transform: Annotated[Positional[str], arg(metavar="WARP|IMAGE")]
    """A transform, FILE or FORMAT:FILE, formats as in foldless convert; or an image."""
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="[IMAGE...]")] = ()
    """After a transform the two images that it should bring together, MOVING FIXED; after an image more of them."""

    def run(self) -> None:
        from foldless.cli.outputs import put_in_order
        from foldless.io.preflight import is_image

        if split_word(self.transform)[0] is None and is_image(Path(self.transform)):
            inspect_images([Path(self.transform), *self.images])
            return
        if len(self.images) not in (0, 2):
            raise InputError(f"inspect takes a warp, or a warp and two images, MOVING FIXED; got {len(self.images)}")
        for path in given(file_of(self.transform), *self.images):
            put_in_order(path)
        moving, fixed = self.images or (None, None)
        transform = transform_of(self.transform, spaces_of(fixed, moving))
        self._say_what(transform)
        on = transform.lattice
        if on is not None:
            _say_how_far(transform, on)
        if moving is not None and fixed is not None:
            _say_which_way(transform, moving, fixed)
        elif on is None:
            say("it is a matrix alone; give the two images to see which way it brings them")

    def _say_what(self, transform: Transform) -> None:
        from foldless.io import FORMATS, Warped, recognised
        from foldless.mistakes import rounded

        name, path, _ = split_word(self.transform)
        kind = FORMATS[name or recognised(path)]
        say(f"{path}: {kind.name}, of {kind.title}; {kind.units}")
        for note in transform.notes:
            say(f"note: {note}")
        for part in transform.parts:
            where = f" on {_lattice(part.geometry)}" if isinstance(part, Warped) else ""
            say(f"part: {type(part).__name__.lower()}{where}")
        say(transform.sentence)
        if any(isinstance(part, Warped) and rounded(part) for part in transform.parts):
            say(
                "likely mistake: its displacements are whole tenths of a voxel, as greedy rounds them; write with -wp 0"
            )


def _lattice(on: Geometry) -> str:
    size, spacing = " x ".join(map(str, on.size)), " x ".join(f"{s:.4g}" for s in on.spacing)
    return f"{size} voxels of {spacing} mm from {tuple(round(o, 2) for o in on.origin)}"


def _say_how_far(transform: Transform, on: Geometry) -> None:
    import numpy as np

    length = np.linalg.norm(transform.displacement_on(on), axis=-1)
    say(f"it moves voxels of its lattice by {length.mean():.3g} mm on average, {length.max():.3g} at most")
    if transform.linear is None:
        say(certificate_of(transform, on).sentence)


def _say_which_way(transform: Transform, moving: Path, fixed: Path) -> None:
    from foldless.mistakes import judged

    images = read_pair(moving, fixed, laid="otherwise")[:2]
    if {image.dim for image in images} != {transform.dim}:
        others = " and ".join(f"{image.dim}-D" for image in images)
        raise InputError(f"the warp is {transform.dim}-D, but the images are {others}; all must agree")
    found = judged(transform, *images)
    word = "together" if found.warped > found.before else "apart"
    say(
        f"it brings the images {word}: their mutual information is {found.before:.3f} before, {found.warped:.3f} by "
        f"the warp, {found.inverse:.3f} by its inverse"
    )
    say("no likely mistake was found" if found.likely is None else f"likely mistake: {found.likely}")
