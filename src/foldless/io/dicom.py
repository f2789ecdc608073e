"""Folders of DICOM slices: which series are there, and the volume that the slices of one make."""

# mypy: untyped-calls-exclude="SimpleITK"

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from jaxtyping import Float, Float64

from foldless.errors import InputError, check_name
from foldless.io.checks import straightened
from foldless.io.geometry import Geometry
from foldless.io.quiet import quiet, reason
from foldless.io.slices import Stack

CHOICE = "#"
"""What stands between a folder and the series that is meant."""
NUMBER, MODALITY, DESCRIPTION, KIND = "0020|0011", "0008|0060", "0008|103e", "0008|0008"
ORIENTATION, POSITION, SPACING = ("0020|0037", 6), ("0020|0032", 3), ("0028|0030", 2)
"""Tags of where a slice lies, and how many numbers they have."""
SAME_DIRECTION = 1e-3
MOST_LISTED = 12


@dataclass(frozen=True)
class Series:
    """The slices of one series, in no order that counts."""

    uid: str
    number: str
    modality: str
    description: str
    files: tuple[Path, ...]

    @property
    def sentence(self) -> str:
        """What a person chooses by."""
        said = " ".join(word for word in (self.modality, f'"{self.description}"' if self.description else "") if word)
        count = f"{len(self.files)} slice{'s' * (len(self.files) != 1)}"
        return f"number {self.number or 'unknown'}, {said or 'nameless'}, {count}, {self.uid or 'no UID'}"


def is_series(path: Path) -> bool:
    """Whether a folder is named, or a series in one."""
    return folder_of(path).is_dir() and path.suffix.lower() != ".zarr"


def folder_of(path: Path) -> Path:
    """The folder of a series that is named as FOLDER#SERIES; any other path as it is."""
    name, mark, _ = path.name.partition(CHOICE)
    return path.with_name(name) if mark and name and not path.exists() else path


def series_in(folder: Path) -> list[Series]:
    """The series of a folder that hold images, by their numbers; what lies in folders below is left out.

    Raises:
        InputError: a file in it is damaged.
    """
    try:
        with quiet():
            uids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
            files = {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in uids}
    except RuntimeError as error:
        raise InputError(
            f"{folder} holds a damaged DICOM file ({reason(error)}); copy or export the series again"
        ) from error
    found = [_series(uid, tuple(map(Path, names))) for uid, names in files.items()]
    known = [one for one in found if one is not None]
    return sorted(known, key=lambda one: (not one.number.isdigit(), one.number.zfill(12), one.uid))


def slices_of(path: Path) -> Series:
    """The series that is meant by FOLDER, or by FOLDER#SERIES with its SeriesInstanceUID or its number.

    Raises:
        InputError: there is none, or there are several and none is named.
    """
    check_name(path)
    folder = folder_of(path)
    found = series_in(folder)
    if not found:
        raise InputError(
            f"{folder} is a folder that holds no slices of DICOM images; name a file, or the folder of one series"
        )
    word = "" if folder == path else path.name.partition(CHOICE)[2]
    meant = [one for one in found if not word or word in (one.uid, one.number)]
    if len(meant) == 1:
        return meant[0]
    listed = "; ".join(one.sentence for one in found[:MOST_LISTED])
    more = "" if len(found) <= MOST_LISTED else f"; and {len(found) - MOST_LISTED} more"
    ask = f"of which {len(meant)} are {word}" if word else "where one was expected"
    raise InputError(
        f"{folder} holds {len(found)} series, {ask}; name one by its number or UID, as in "
        f"{folder}{CHOICE}{found[0].number or found[0].uid}: {listed}{more}"
    )


def read_series(path: Path, labels: bool = False) -> sitk.Image:
    """The volume of a series: slices that lie unevenly or aslant are put on a lattice, with a warning.

    Args:
        path: the folder, or FOLDER#SERIES.
        labels: whether the slices hold labels, which are never mixed; else they are float32.

    Raises:
        InputError: there is not one series, or its slices make no volume.
    """
    series = slices_of(path)
    slices = [_slice(file, sitk.sitkFloat64 if labels else sitk.sitkFloat32) for file in series.files]
    first = slices[0][1]
    for file, (_, place) in zip(series.files, slices, strict=True):
        if place.size != first.size or not np.allclose(place.matrix[:, :2], first.matrix[:, :2], atol=SAME_DIRECTION):
            raise InputError(
                f"{path}: its slices differ in size, spacing or direction, {file.name} from {series.files[0].name}; "
                "expected parallel slices of one volume (is it a localiser?)"
            )
    direction = tuple(straightened(first.cosines, path).ravel().tolist())
    places = [replace(place, direction=direction) for _, place in slices]
    stack = Stack.of(path, np.stack([array for array, _ in slices]), places, labels)
    array, lattice = stack.volume()
    image: sitk.Image = sitk.GetImageFromArray(array)
    image.SetSpacing(lattice.spacing)
    image.SetOrigin(lattice.origin)
    image.SetDirection(lattice.direction)
    return image


def series_dtype(path: Path) -> np.dtype:
    """The type of the numbers that the slices of a series hold, rescaled as they say; float32 if any is not whole.

    Raises:
        InputError: there is not one series.
    """
    readers = [_reader(file) for file in slices_of(path).files]
    kinds = {reader.GetPixelID() for reader in readers if reader is not None}
    dtype = np.result_type(*(sitk.GetArrayViewFromImage(sitk.Image([1, 1], kind)).dtype for kind in kinds))
    return np.dtype(np.float32) if dtype.kind == "f" else dtype


def _series(uid: str, files: tuple[Path, ...]) -> Series | None:
    """What a series says of itself by its first slice; None if that is no image."""
    reader = _reader(files[0])
    if reader is None:
        return None
    said = {tag: _text(reader.GetMetaData(tag)) for tag in reader.GetMetaDataKeys()}
    return Series(uid, said.get(NUMBER, ""), said.get(MODALITY, ""), said.get(DESCRIPTION, ""), files)


def _text(word: str) -> str:
    """A word of a header; what is not in UTF-8 is taken to be in DICOM's usual Latin letters."""
    try:
        word.encode()
    except UnicodeEncodeError:
        word = word.encode(errors="surrogateescape").decode("latin-1")
    return word.strip()


def _reader(file: Path) -> sitk.ImageFileReader | None:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        with quiet():
            reader.ReadImageInformation()
    except RuntimeError:
        return None
    return reader


def _slice(file: Path, kind: int) -> tuple[Float[np.ndarray, "rows columns"], Geometry]:
    """The intensities of a slice, rescaled as it says, and where it lies."""
    reader = _reader(file)
    size = None if reader is None else reader.GetSize()
    if reader is None or size is None or len(size) != 3 or size[2] != 1 or reader.GetNumberOfComponents() != 1:
        raise InputError(
            f"{file} is no slice of one number a pixel (size {size}); expected a series of such slices; name a file "
            "that holds a whole volume by itself"
        )
    if reader.HasMetaDataKey(KIND) and "MOSAIC" in reader.GetMetaData(KIND):
        raise InputError(
            f"{file} is a mosaic, the slices of a whole volume side by side as Siemens stores functional and diffusion "
            "scans; convert the series to NIfTI first, for example with dcm2niix"
        )
    reader.SetOutputPixelType(kind)
    try:
        with quiet():
            image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{file} cannot be read ({reason(error)}); copy or export the series again") from error
    return sitk.GetArrayFromImage(image)[0], _place(reader, image, file)


def _place(reader: sitk.ImageFileReader, image: sitk.Image, file: Path) -> Geometry:
    """Where a slice lies, its direction as its header says it: what is wrong there ITK takes for none."""
    place = Geometry.of(image)
    turn, _, steps = (_numbers(reader, tag, count, file) for tag, count in (ORIENTATION, POSITION, SPACING))
    if steps is not None and steps.min() <= 0:
        raise InputError(f"{file}: the header has the pixel spacing {steps.tolist()}; expected numbers above 0")
    if turn is None:
        return place
    cosines = np.stack([turn[:3], turn[3:], np.cross(turn[:3], turn[3:])], 1)
    try:
        return replace(place, direction=tuple(cosines.ravel().tolist()))
    except ValueError as error:
        raise InputError(
            f"{file}: rows and columns lead along {turn.tolist()} by the header; expected two directions at right "
            "angles, export the series again"
        ) from error


def _numbers(reader: sitk.ImageFileReader, tag: str, count: int, file: Path) -> Float64[np.ndarray, " count"] | None:
    """The numbers that a header has for a tag; None where it has none."""
    said = _text(reader.GetMetaData(tag)) if reader.HasMetaDataKey(tag) else ""
    try:
        numbers = np.array([float(word) for word in said.split("\\") if said])
    except ValueError:
        numbers = np.array([np.nan])
    if said and not (len(numbers) == count and np.isfinite(numbers).all()):
        raise InputError(
            f"{file}: the header has {said} for the tag {tag}; expected {count} finite numbers, export the series again"
        )
    return numbers if said else None
