"""What a header promises beside what the file can hold, known before any voxel has its memory."""

# mypy: untyped-calls-exclude="SimpleITK"

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import SimpleITK as sitk  # noqa: N813

from foldless.errors import InputError
from foldless.io.files import suffix

DEFLATED = 1100
"""Bytes that one byte of a gzip, zlib or PNG stream stands for at most; by deflate's form 1032."""

PACKED = 20_000
"""The same for other compressions of pictures, fax codes of white pages included."""

UNPACKED = (".nii", ".img", ".hdr")
BY_DEFLATE = (".gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".png")
HEADER = 4096
"""Bytes that are allowed for all but voxels."""

META = (".mha", ".mhd")
META_AXES = re.compile(rb"NDims\s*[=:]\s*([^\s]*)")
META_DATA = re.compile(rb"^ElementDataFile\s*[=:]", re.MULTILINE)
POSSIBLE_AXES = tuple(b"%d" % n for n in range(1, 9))

LONGEST_HEADER = 1 << 20
LONGEST_FIELD = 1000
"""Letters of a field in an NRRD header; those that say something of voxels have some dozens."""

FREE = re.compile(rb"#|[^:]*:=")
"""How comments and what programs write for themselves begin, which may be long."""

NAMES_DATA = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)[ \t]*(\S.*?)\s*$", re.MULTILINE | re.IGNORECASE)


def check_claim(path: Path, reader: sitk.ImageFileReader) -> None:
    """Make sure that a file can hold the voxels which its header promises.

    Args:
        path: the file.
        reader: what has read its header.

    Raises:
        InputError: it cannot, so that header or file is damaged.
    """
    holds = _bytes_of_data(path)
    if holds is None:
        return
    size, components, kind = reader.GetSize(), max(reader.GetNumberOfComponents(), 1), reader.GetPixelID()
    several = (components,) if "vector" in sitk.GetPixelIDValueAsString(kind) else ()
    promised = prod(size) * components * sitk.Image([1, 1], kind, *several).GetSizeOfPixelComponent()
    if promised > _most(path) * (holds + HEADER):
        raise InputError(
            f"{path} stops before its last voxel: its header promises {' x '.join(map(str, size))} voxels, "
            f"{promised:,} bytes, and it holds {holds:,}; copy or download it again"
        )


def _most(path: Path) -> int:
    """Bytes of voxels that a byte of such a file may stand for."""
    last = suffix(path)
    if last in UNPACKED:
        return 1
    return DEFLATED if last.endswith(BY_DEFLATE) else PACKED


def _bytes_of_data(path: Path) -> int | None:
    """The size of the file that has the voxels; None where several have them, or nobody can tell."""
    last = suffix(path)
    if last in (".hdr", ".img"):
        found = path.with_suffix(".img")
        return found.stat().st_size if found.is_file() else None
    if last not in (".mhd", ".nhdr"):
        return path.stat().st_size
    with path.open("rb") as stream:
        named = NAMES_DATA.search(stream.read(LONGEST_HEADER))
    name = named.group(1).decode("utf-8", "replace") if named else "LIST"
    found = path.parent / name
    return found.stat().st_size if found.is_file() else None


def check_fields(path: Path) -> None:
    """Make sure that the text of an NRRD or MetaImage header is such a text; other formats pass.

    Raises:
        InputError: a field is longer than fields are, there are more axes than images have, or no end of the header.
    """
    with path.open("rb") as stream:
        start = stream.read(LONGEST_HEADER)
    if start.startswith(b"NRRD"):
        header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
        bad = any(len(line) > LONGEST_FIELD and not FREE.match(line) for line in header.splitlines())
    else:
        axes = META_AXES.findall(start) if suffix(path) in META else []
        bad = any(number not in POSSIBLE_AXES for number in axes)
        bad = bad or (suffix(path) in META and not META_DATA.search(start))  # voxels would be taken for fields
    if bad:
        raise InputError(f"{path} cannot be read as an image, its header is damaged; copy or write it again")
