"""From a valid file to a damaged one: in its header above all, and always the same way for one seed."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import random
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from struct import calcsize, pack, pack_into, unpack_from
from struct import error as StructError
from typing import Any

from nibabel.nifti1 import header_dtype

from tests.fuzz.valid import chunk, valid

Content = bytearray
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    4,
    7,
    16,
    127,
    128,
    255,
    256,
    1000,
    32767,
    32768,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    -(2**31),
)
REALS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 1e300, 3e38, float("nan"), float("inf"), -float("inf"), 0.5, 1000.0, 1e-3)
WORDS = (
    "0", "1", "-1", "2", "3", "4", "5", "1.5", "1e9", "1e400", "nan", "inf", "-inf", "99999999999999999999",
    "2147483648", "65536", "1000000", "", " ", "none", "abc", "(1,0,0)", "(nan,nan,nan)", "???", "é", "\0", "%s%n",
    "../../etc", "float", "double", "unsigned char", "MET_FLOAT", "True", "False", "gzip", "raw", "ascii", "LOCAL",
    "big", "x" * 5000,
)  # fmt: skip
VALUES = (
    None, True, False, 0, 1, -1, 2, 10**9, 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x", "é\n\0",
    "case_1", "x" * 2000, [], [[]], {}, {"a": 1}, [1, 2, 3], ["case_1"], [None],
)  # fmt: skip


def damaged(kind: str, seed: int) -> tuple[str, bytes]:
    """A name and a damaged content."""
    rng = random.Random(f"{kind} {seed}")
    files = valid(kind)
    name = rng.choice(sorted(files))
    content = files[name]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = _once(kind, name, content, rng)
    return name, content


def _once(kind: str, name: str, content: bytes, rng: random.Random) -> bytes:
    if name.endswith(".gz") and rng.random() < 0.85:
        try:
            return gzip.compress(_once(kind, name.removesuffix(".gz"), gzip.decompress(content), rng), mtime=0)
        except (OSError, EOFError, zlib.error):
            return _anywhere(content, rng)
    if rng.random() < 0.25:
        return _anywhere(content, rng)
    try:
        return BY_FORMAT[kind](content, rng)
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        zlib.error,
        StructError,
        zipfile.BadZipFile,
        RuntimeError,
        OSError,
        EOFError,
        lzma.LZMAError,
    ):  # damaged before beyond its own grammar
        return _anywhere(content, rng)


def _anywhere(content: bytes, rng: random.Random, header: int = 400) -> bytes:
    """Bytes changed, cut, added; in the header mostly."""
    data = Content(content)
    if not data:
        return bytes(rng.randbytes(rng.randrange(50)))
    end = min(header, len(data)) if rng.random() < 0.8 else len(data)
    at = rng.randrange(end)
    way = rng.randrange(9)
    if way == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif way == 1:
        data[at] = rng.choice((0, 1, 127, 128, 255, 10, 32))
    elif way == 2:
        del data[at:]
    elif way == 3:
        data += rng.randbytes(rng.randrange(1, 200))
    elif way == 4:
        del data[at : at + rng.randrange(1, 9)]
    elif way == 5:
        data[at:at] = data[at : at + rng.randrange(1, 20)]
    elif way == 6:
        data[at : at + 8] = bytes(len(data[at : at + 8]))
    elif way == 7:
        data[at : at + 4] = rng.randbytes(len(data[at : at + 4]))
    else:
        form = rng.choice(("<h", ">h", "<i", ">i", "<q", ">q", "<f", "<d"))
        _put(data, at, form, rng)
    return bytes(data)


def _put(data: Content, at: int, form: str, rng: random.Random) -> None:
    """A number that breaks things, in the form of `struct`."""
    if at + calcsize(form) > len(data):
        return
    if form[-1] in "fd":
        value: float = rng.choice(REALS)
        if form[-1] == "f" and abs(value) == 1e300:
            value = 3e38
        pack_into(form, data, at, value)
        return
    bits = 8 * calcsize(form)
    whole = rng.choice(NUMBERS) % 2**bits
    pack_into(form.upper() if form[-1].islower() else form, data, at, whole)


def _nifti(content: bytes, rng: random.Random) -> bytes:
    """One field of the header, or one number of a field."""
    data = Content(content)
    name = rng.choice(header_dtype.names)
    kind, offset = header_dtype.fields[name][:2]
    base, count = kind.base, int(kind.itemsize / kind.base.itemsize)
    at = offset + rng.randrange(count) * base.itemsize
    form = {"i": {1: "<b", 2: "<h", 4: "<i"}, "u": {1: "<B"}, "f": {4: "<f"}}.get(base.kind, {}).get(
        base.itemsize, "<B"
    )
    _put(data, at, form, rng)
    return bytes(data)


def _lines(end: bytes) -> Callable[[bytes, random.Random], bytes]:
    """Headers of lines, up to and without `end`."""

    def change(content: bytes, rng: random.Random) -> bytes:
        stop = content.index(end)
        lines = content[:stop].decode("latin-1").split("\n")
        at, way = rng.randrange(len(lines)), rng.randrange(8)
        if way == 0:
            del lines[at]
        elif way == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif way == 2:
            lines[at] = lines[at] + " " + rng.choice(WORDS)
        elif way == 3:
            key = re.split(r"[:=]", lines[at])[0]
            lines[at] = key + rng.choice((": ", " = ", " ")) + rng.choice(WORDS)
        else:
            lines[at] = _another_word(lines[at], rng)
        return "\n".join(lines).encode("latin-1", "replace") + content[stop:]

    return change


def _another_word(text: str, rng: random.Random) -> str:
    """One word or number replaced."""
    words = list(re.finditer(r"[^\s,()=:]+", text))
    one = rng.choice(words)
    return text[: one.start()] + rng.choice(WORDS) + text[one.end() :]


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 8 <= len(content):
        (size,) = unpack_from(">I", content, at)
        if size > len(content):
            return
        yield content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
        at += 12 + size


def _png(content: bytes, rng: random.Random) -> bytes:
    """One chunk changed, doubled, left out, its checksum right again."""
    parts = list(_chunks(content))
    at, way = rng.randrange(len(parts)), rng.randrange(6)
    if way == 0:
        del parts[at]
    elif way == 1:
        parts.insert(at, rng.choice(parts))
    elif way == 2:
        parts.insert(at, (rng.choice((b"tRNS", b"gAMA", b"pHYs", b"iCCP", b"sBIT", b"prVt")), rng.randbytes(9)))
    elif way == 3 and parts[at][0] == b"IDAT":
        parts[at] = b"IDAT", zlib.compress(_anywhere(zlib.decompress(parts[at][1]), rng))
    else:
        name, inside = parts[at if rng.random() < 0.5 else 0]
        data = Content(inside)
        if name == b"IHDR" and rng.random() < 0.7:
            _put(data, rng.choice((0, 4)), ">i", rng)
            data[8 + rng.randrange(5)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) if rng.random() < 0.4 else data[8]
        parts[at if (name, inside) == parts[at] else 0] = name, bytes(data) or rng.randbytes(3)
    return content[:8] + b"".join(chunk(*one) for one in parts)


def _h5(content: bytes, rng: random.Random) -> bytes:
    """Bytes near names and numbers: HDF5 has headers everywhere."""
    spots = [m.start() for m in re.finditer(rb"[A-Za-z]{4,}|TREE|SNOD|HEAP|OHDR", content)]
    at = rng.choice(spots) + rng.randrange(-16, 24)
    data = Content(content)
    at = max(0, min(at, len(data) - 9))
    if rng.random() < 0.4:
        data[at] = rng.randrange(256)
    elif rng.random() < 0.5:
        _put(data, at, rng.choice(("<i", "<q", "<d", "<h")), rng)
    else:
        name = rng.choice((b"Affine", b"Euler3", b"Compos", b"Displa", b"double", b"float_", b"_3_3\0\0", b"_2_2\0\0"))
        data[at : at + len(name)] = name
    return bytes(data)


def _npz(content: bytes, rng: random.Random) -> bytes:
    """The header of the array inside, its archive right again; or another name, another compression, one more file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(inside))
    way = rng.randrange(8)
    if way == 0:
        inside = {rng.choice(("a", "../a.npy", "é.npy", "")): inside[name]}
    elif way == 1:
        inside["more.npy"] = rng.choice((inside[name], b"", b"hello"))
    elif way < 5:
        start, end = inside[name].index(b"{"), inside[name].index(b"\n")
        head = _another_word(inside[name][start:end].decode("latin-1"), rng).encode("latin-1", "replace")
        head = head[: end - start].ljust(end - start) if rng.random() < 0.7 else head
        inside[name] = inside[name][:start] + head + inside[name][end:]
    else:
        inside[name] = _anywhere(inside[name], rng, 130)
    packed = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packed) as archive:
        for one, array in inside.items():
            archive.writestr(zipfile.ZipInfo(one), array, packed)
    return file.getvalue()


def _safetensors(content: bytes, rng: random.Random) -> bytes:
    """Its JSON header, in which foldless keeps JSON of its own; the length that goes before is right again."""
    (size,) = unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + size])
    if rng.random() < 0.6:
        about = json.loads(header["__metadata__"]["foldless"])
        header["__metadata__"]["foldless"] = json.dumps(_value(about, rng))
    else:
        header = _value(header, rng)
    text = json.dumps(header).encode()
    return pack("<Q", len(text)) + text + content[8 + size :]


def _json(content: bytes, rng: random.Random) -> bytes:
    return json.dumps(_value(json.loads(content), rng)).encode()


def _value(value: Any, rng: random.Random) -> Any:
    """One value somewhere inside replaced, left out, renamed or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(sorted(value))
        way = rng.random()
        if way < 0.08:
            return {k: v for k, v in value.items() if k != key}
        if way < 0.14:
            return {(key + "x" if k == key else k): v for k, v in value.items()}
        return {**value, key: _value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        if rng.random() < 0.3:
            return [*value, rng.choice(VALUES)]
        return [*value[:at], _value(value[at], rng), *value[at + 1 :]]
    return rng.choice(VALUES)


def _csv(content: bytes, rng: random.Random) -> bytes:
    """One cell, one row, the first line, a mark, a quote."""
    rows = [line.split(",") for line in content.decode("latin-1").split("\n")]
    at = 0 if rng.random() < 0.3 else rng.randrange(len(rows))
    row, way = rows[at], rng.randrange(8)
    if way == 0:
        del rows[at]
    elif way == 1:
        rows.insert(at, list(rng.choice(rows)))
    elif way == 2:
        row.append(rng.choice(WORDS))
    elif way == 3 and row:
        del row[rng.randrange(len(row))]
    elif way == 4:
        row[rng.randrange(len(row))] = rng.choice(
            ('"', '"a', "a\rb", "..", "/", "a/b", "left ", " 1", "1.0", "١", "²", "\ufeff")
        )
    else:
        row[rng.randrange(len(row))] = rng.choice(WORDS)
    text = "\n".join(",".join(cells) for cells in rows)
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")


def _words(content: bytes, rng: random.Random) -> bytes:
    """A line or a word of text anywhere; of what is binary behind a header of text, in the header."""
    stop = content.find(b"\n\n") if b"\0" in content else len(content)
    return _lines(content[stop:])(content, rng) if stop < len(content) else _lines(b"\0")(content + b"\0", rng)[:-1]


def _mgz(content: bytes, rng: random.Random) -> bytes:
    """A number of the header, or one of the tags behind the voxels; packed again."""
    packed = content.startswith(b"\x1f\x8b")
    data = Content(gzip.decompress(content) if packed else content)
    whole = rng.random() < 0.5
    at = rng.choice((*range(0, 28, 4), *range(30, 90, 4))) if whole else len(data) - 4 * rng.randrange(1, 310)
    _put(data, max(at, 0), rng.choice((">i", ">f", ">q")), rng)
    return gzip.compress(bytes(data), mtime=0) if packed else bytes(data)


def _array(content: bytes, rng: random.Random) -> bytes:
    """By what it begins with: an archive of arrays, an array, or a header of lines."""
    if content.startswith(b"PK"):
        return _npz(content, rng)
    if content.startswith(b"\x93NUMPY"):
        head = content[: (end := content.index(b"\n"))].decode("latin-1")
        return _another_word(head, rng).encode("latin-1", "replace") + content[end:]
    return _lines(b"\n\n" if content.startswith(b"NRRD") else b"ElementDataFile")(content, rng)


def _points(content: bytes, rng: random.Random) -> bytes:
    """JSON by its values; a streamline's header by its numbers; else lines and words."""
    if content.startswith(b"{"):
        return _json(content, rng)
    if content.startswith(b"TRACK"):
        data = Content(content)
        _put(data, rng.choice((*range(6, 24, 2), *range(36, 40, 2), *range(440, 504, 4), 988, 992, 996)), "<i", rng)
        return bytes(data)
    return _words(content, rng)


BY_FORMAT: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "nifti": _nifti,
    "nrrd": _lines(b"\n\n"),
    "mha": _lines(b"ElementDataFile"),
    "png": _png,
    "h5": _h5,
    "npz": _npz,
    "safetensors": _safetensors,
    "csv": _csv,
    "json": _json,
    "texts": _words,
    "fields": _nifti,
    "mgz": _mgz,
    "arrays": _array,
    "points": _points,
}
