"""Images looked at before anything is computed with them: what `register`, `pose` and `inspect` say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldless.cli.console import say, say_note

if TYPE_CHECKING:
    from foldless.io import Volume
    from foldless.io.findings import Finding
    from foldless.preflight import Laid

Spacing = tuple[float, ...] | None


def on_disk(paths: Sequence[Path]) -> list[Path]:
    """Where files are that are read: the folder of a DICOM series that is named in it."""
    from foldless.io.dicom import folder_of

    return [folder_of(path) for path in paths]


def laid_by(placement: str | None, by_options: bool = True, sought: bool = True) -> Laid:
    """By what images are laid on each other.

    Args:
        placement: as it was asked for.
        by_options: whether that counts, and no model or file.
        sought: whether a pose is sought where no placement is asked for.
    """
    if by_options and placement == "world":
        return "headers"
    return "sought" if by_options and sought and placement != "centre" else "otherwise"


def read_pair(
    moving: Path, fixed: Path, spacings: tuple[Spacing, Spacing] = (None, None), laid: Laid = "sought"
) -> tuple[Volume, Volume, list[Finding]]:
    """Two images, and what is odd about each and both, which is said.

    Raises:
        InputError: one cannot be read, or their dimensions differ.
    """
    from foldless.cli.laying import check_kinds
    from foldless.io.preflight import looked_at
    from foldless.preflight import pair_findings

    first, of_first = looked_at(moving, spacing=spacings[0])
    second, of_second = looked_at(fixed, spacing=spacings[1])
    say_findings(own := [*of_first, *of_second])
    check_kinds(first, second)
    say_findings(both := pair_findings(first, second, laid))
    return first, second, [*own, *both]


def readable(volume: Volume, spacing: Spacing, role: str, folder: Path, output: Path) -> Path:
    """The file by which other programs read an image as it was read here.

    Args:
        volume: the image.
        spacing: what was given for it.
        role: what a file is called that is written where its own would be read otherwise: NIfTI.
        folder: where that is written.
        output: where the folder will be.
    """
    from foldless.io import write_volume
    from foldless.io.dicom import is_series

    if spacing is None and not is_series(volume.path):
        return volume.path
    write_volume(volume.array, volume.geometry, folder / f"{role}.nii.gz")
    return output / f"{role}.nii.gz"


def spacing_words(*given: tuple[str, Spacing]) -> list[str]:
    """Options that give spacings, by their names, as they are typed."""
    return [word for name, spacing in given if spacing is not None for word in (name, *map(str, spacing))]


def inspect_images(paths: Sequence[Path]) -> None:
    """Say of images where they lie and what is odd about each and, of two, about both.

    Raises:
        InputError: one cannot be read.
    """
    from foldless.cli.outputs import put_in_order
    from foldless.io.preflight import looked_at

    for path in on_disk(paths):
        put_in_order(path)
    if len(paths) == 2:
        moving, fixed, findings = read_pair(paths[0], paths[1])
        say(_described(moving))
        say(_described(fixed))
    else:
        findings = []
        for path in paths:
            volume, found = looked_at(path)
            say_findings(found)
            say(_described(volume))
            findings += found
    if not findings:
        say("nothing odd was found")


def _described(volume: Volume) -> str:
    """Size, spacing, place, orientation and intensities of an image."""
    from foldless.preflight import orientation

    on, array = volume.geometry, volume.array
    size, spacing = " x ".join(map(str, on.size)), " x ".join(f"{step:.4g}" for step in on.spacing)
    origin = tuple(round(one, 2) for one in on.origin)
    return (
        f"{volume.path}: {size} voxels of {spacing} mm, stored as {orientation(on)}, from {origin} (LPS), values "
        f"{array.min():g} to {array.max():g}"
    )


def say_findings(findings: Sequence[Finding]) -> None:
    """A note for each."""
    for finding in findings:
        say_note(finding.text)


def recorded(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """What a record holds of findings."""
    return [asdict(finding) for finding in findings]
