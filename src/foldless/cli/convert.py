"""`foldless convert`, `foldless compose` and `foldless invert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from foldless.cli.console import say
from foldless.cli.outputs import check_file, written_alone
from foldless.cli.transforms import composed, file_of, given, spaces_of, split_word, transform_of, watched
from foldless.errors import InputError

if TYPE_CHECKING:
    from foldless.io import Spaces, Transform


@dataclass(frozen=True)
class Convert:
    """Write a transform of one program in the format of another; what that cannot hold is refused.

    Files are known by what is in them. Where several programs write such files, say whose: flirt:a.mat,
    greedy-affine:a.mat, niftyreg-affine:a.txt, learn2reg:d.npz, voxelmorph:d.npz, dipy:d.npy, fsl-absolute:w.nii.gz,
    afni-field:w.nii.gz, niftyreg-def:w.nii.gz. OUT takes the same words; without one, .nii.gz is ITK's field (ANTs,
    greedy, 3D Slicer), .h5 and .tfm ITK's transforms, .nrrd and .mha 3D Slicer's, .lta and .mgz FreeSurfer's, .1D
    AFNI's. The table is in docs/how-to/bring-transforms-together.md.
    """

    source: Annotated[Positional[str], arg(metavar="IN")]
    """The transform: FILE or FORMAT:FILE; FILE,-1 or [FILE,1] for its inverse."""
    target: Annotated[Positional[str], arg(metavar="OUT")]
    """File to write, FILE or FORMAT:FILE."""
    fixed: Path | None = None
    """The fixed image: whose lattice a field gets, and what FSL and arrays count in."""
    moving: Path | None = None
    """The moving image, which FSL's files and voxels count in as well."""
    overwrite: bool = False
    """Replace OUT if it exists."""

    def run(self) -> None:
        _, output, inverse = split_word(self.target)
        if inverse:
            raise InputError(f"{self.target}: OUT is a file to write; ask for the inverse at IN")
        check_file(output, given(file_of(self.source), self.fixed, self.moving), self.overwrite)
        with written_alone(output):
            spaces = spaces_of(self.fixed, self.moving)
            transform = transform_of(self.source, spaces)
            _written(transform, self.target, spaces)


@dataclass(frozen=True)
class Compose:
    """Make one transform of several, so that an image is interpolated once.

    The order is that in which points of the fixed image meet them, which is also that of ANTs' -t and of greedy's -r:
    the warp that was found last comes first, the first affine last.
    """

    transforms: Annotated[Positional[tuple[str, ...]], arg(metavar="TRANSFORM...")]
    """FILE, FORMAT:FILE, and FILE,-1 or [FILE,1] for an inverse; formats as in foldless convert."""
    reference: Path
    """The fixed image, on whose lattice the result becomes a field where its format holds one."""
    output: str
    """File to write, FILE or FORMAT:FILE."""
    moving: Path | None = None
    """The moving image, for a transform that counts in both, as FSL's and arrays do; it must lie between these two."""
    overwrite: bool = False
    """Replace --output if it exists."""

    def run(self) -> None:
        output = file_of(self.output)
        inputs = given(*map(file_of, self.transforms), self.reference, self.moving)
        check_file(output, inputs, self.overwrite)
        with written_alone(output):
            spaces = spaces_of(self.reference, self.moving)
            transform = composed(self.transforms, None if self.moving is None else spaces)
            _check_dim(transform, spaces, self.reference)
            say(f"takes points of {self.reference} through {', then '.join(self.transforms)}")
            _written(transform, self.output, spaces)


@dataclass(frozen=True)
class Invert:
    """Write the inverse of a transform: a matrix in closed form, a warp as a field on the moving image's lattice.

    How far there and back misses is said. Where no inverse is found, as where a warp folds, nothing is written.
    """

    transform: Annotated[Positional[str], arg(metavar="WARP")]
    """FILE or FORMAT:FILE; formats as in foldless convert."""
    output: str
    """File to write, FILE or FORMAT:FILE."""
    moving: Path | None = None
    """The moving image, on whose lattice the inverse of a warp lies."""
    fixed: Path | None = None
    """The fixed image, for formats that count in it."""
    overwrite: bool = False
    """Replace --output if it exists."""

    def run(self) -> None:
        output = file_of(self.output)
        check_file(output, given(file_of(self.transform), self.moving, self.fixed), self.overwrite)
        with written_alone(output), watched("inverting") as watch:
            spaces = spaces_of(self.fixed, self.moving)
            transform = transform_of(self.transform, spaces)
            inverse, worst = transform.inverse(spaces.moving or transform.moving, watch)
            say(f"there and back misses by at most {worst:.2g} mm at the voxels of the moving image")
            _written(inverse, self.output, type(spaces)(spaces.moving, spaces.fixed))


def _written(transform: Transform, word: str, spaces: Spaces) -> None:
    from foldless.io import write_transform

    name, path, _ = split_word(word)
    kind = write_transform(transform, path, spaces, name)
    for note in transform.notes:
        say(f"note: {note}")
    say(f"{path}: {kind.name} ({kind.units}); {transform.sentence}")


def _check_dim(transform: Transform, spaces: Spaces, path: Path) -> None:
    if spaces.fixed is not None and spaces.fixed.dim != transform.dim:
        raise InputError(f"the transforms are {transform.dim}-D, but {path} is {spaces.fixed.dim}-D; both must agree")
