"""Small valid files of every format, which are then damaged; bytes by name."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from struct import pack
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

SHAPE = (5, 6, 7)
Files = dict[str, bytes]


def valid(kind: str) -> Files:
    """Files of one format."""
    return FORMATS[kind]()


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape or SHAPE).astype(np.float32)


def marks(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4, shape or SHAPE).astype(np.uint8)


def _written(write: Callable[[str], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(str(path))
        return path.read_bytes()


@cache
def nifti() -> Files:
    affine = np.array([[2.0, 0, 0, -5], [0, 3.0, 0.1, 4], [0, -0.1, 3.0, 9], [0, 0, 0, 1]])

    def saved(array: np.ndarray, name: str, intent: int = 0, slope: float | None = None) -> bytes:
        image = nib.Nifti1Image(array, affine)
        image.set_qform(affine, 1)
        image.header.set_intent(intent)
        if slope:
            image.header.set_slope_inter(slope, 1.0)
        return _written(lambda path: nib.save(image, path), name)

    return {
        "image.nii": saved(numbers(), "a.nii"),
        "image.nii.gz": saved(numbers(), "a.nii.gz"),
        "labels.nii": saved(marks(), "a.nii"),
        "scaled.nii": saved((numbers() * 1000).astype(np.int16), "a.nii", slope=0.25),
        "slice.nii": saved(numbers(9, 8), "a.nii"),
        "four.nii.gz": saved(marks(*SHAPE, 1), "a.nii.gz"),
        "warp.nii": saved(numbers(*SHAPE, 1, 3), "a.nii", intent=1007),
        "warp.nii.gz": saved(numbers(*SHAPE, 1, 3), "a.nii.gz", intent=1006),
    }


def _itk(image: sitk.Image, name: str, compressed: bool = False) -> bytes:
    return _written(lambda path: sitk.WriteImage(image, path, compressed), name)


@cache
def _images(end: str) -> Files:
    deep, flat = sitk.GetImageFromArray(numbers()), sitk.GetImageFromArray(marks(8, 9))
    deep.SetSpacing((0.5, 1.5, 2.0))
    deep.SetOrigin((-3, 4, 5))
    deep.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    return {
        f"image.{end}": _itk(deep, f"a.{end}"),
        f"packed.{end}": _itk(deep, f"a.{end}", True),
        f"slice.{end}": _itk(flat, f"a.{end}"),
        f"labels.{end}": _itk(sitk.GetImageFromArray(marks()), f"a.{end}"),
    }


def nrrd() -> Files:
    head = (
        "NRRD0004\ntype: unsigned char\ndimension: 4\nspace: left-posterior-superior\nsizes: 1 7 6 5\n"
        "space directions: none (1,0,0) (0,1,0) (0,0,1)\nkinds: list domain domain domain\nencoding: raw\n"
        "space origin: (0,0,0)\n\n"
    )
    return {**_images("nrrd"), "layer.seg.nrrd": head.encode() + marks().tobytes()}


def mha() -> Files:
    return _images("mha")


@cache
def png() -> Files:
    rng = np.random.default_rng(2)
    colours = {"grey": 1, "colour": 3, "alpha": 4}
    files = {}
    for name, bands in colours.items():
        array = rng.integers(0, 255, (9, 8, bands)).astype(np.uint8)
        files[f"{name}.png"] = _itk(sitk.GetImageFromArray(array, isVector=bands > 1), "a.png")
    files["deep.png"] = _itk(sitk.GetImageFromArray(rng.integers(0, 65535, (9, 8)).astype(np.uint16)), "a.png")
    files["palette.png"] = _palette(rng)
    return files


def _palette(rng: np.random.Generator) -> bytes:
    rows = b"".join(b"\0" + bytes(rng.integers(0, 4, 8).astype(np.uint8)) for _ in range(9))
    chunks = [
        (b"IHDR", pack(">IIBBBBB", 8, 9, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(range(0, 240, 20))),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of PNG with its checksum."""
    return pack(">I", len(content)) + name + content + pack(">I", zlib.crc32(name + content))


@cache
def h5() -> Files:
    field = sitk.GetImageFromArray(numbers(4, 5, 6, 3).astype(np.float64), isVector=True)
    warp = sitk.DisplacementFieldTransform(field)
    affine = sitk.AffineTransform((1.1, 0, 0, 0, 0.9, 0.1, 0, 0, 1), (1, 2, 3))
    composites = {
        "warp.h5": sitk.CompositeTransform([warp]),
        "affine.h5": affine,
        "several.h5": sitk.CompositeTransform([affine, sitk.Euler3DTransform()]),
    }
    return {
        name: _written(lambda path, one=one: sitk.WriteTransform(one, path), "a.h5") for name, one in composites.items()
    }


@cache
def npz() -> Files:
    field = numbers(3, *SHAPE)
    return {
        "disp.npz": _written(lambda path: np.savez(path, field), "a.npz"),
        "packed.npz": _written(lambda path: np.savez_compressed(path, np.moveaxis(field, 0, -1)), "a.npz"),
        "half.npz": _written(lambda path: np.savez(path, field.astype(np.float16)), "a.npz"),
    }


@cache
def safetensors() -> Files:
    import torch

    from foldless.build import build_registration
    from foldless.data.prepare import Preparation
    from foldless.model import Model
    from foldless.recipe import Recipe

    torch.manual_seed(0)
    files = {}
    for name, network in (("unet", "residual-unet"), ("mlp", "mlp")):
        recipe = Recipe(network=network, widths=(4, 8), widths_up=(4, 4), precision="float32")
        preparation = Preparation((8, 8), (1.0, 1.0))
        model = Model(build_registration(recipe, preparation.lattice).eval(), recipe, preparation, ("a", "b"))
        files[f"{name}.safetensors"] = _written(lambda path, model=model: model.save(Path(path)), "a.safetensors")
    return files


CASES = [f"case_{k}" for k in range(1, 9)]


def csv() -> Files:
    groups = [f"{case},{'AB'[k % 2]}" for k, case in enumerate(CASES)]
    sides = [f"{case},{('left', 'right')[k % 2]}" for k, case in enumerate(CASES)]
    tables = {
        "groups.csv": ["case,group", *groups],
        "regions.csv": ["label,region", "1,front", "2,back", "3,", "1002,front"],
        "sides.csv": ["case,side", *sides],
    }
    return {name: ("\n".join(lines) + "\n").encode() for name, lines in tables.items()}


@cache
def json_files() -> Files:
    from dataclasses import asdict

    from foldless.recipe import Recipe, Source, Stage

    split = {"train": CASES[:4], "val": CASES[4:6], "test": CASES[6:]}
    recipe = Recipe(levels=(2, 1), stages=(Stage(parts=1, trained=(1,), level=2, steps=5), Stage(rate=1e-3)))
    settings = {"source": asdict(Source(data="folder")), "recipe": recipe.as_dict(), "first_stage": 1}
    record = {
        "command": "train",
        "settings": settings,
        "data_sha256": {"train": "0" * 64},
        "versions": {"foldless": "0"},
    }
    files = {"split.json": split, "run.json": record}
    return {name: json.dumps(content).encode() for name, content in files.items()}


def spaces() -> Any:
    """The two lattices that transforms lie between."""
    from foldless.io import Geometry, Spaces

    axes = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    fixed = Geometry(SHAPE[::-1], (2.0, 2.5, 3.0), (-11.0, 7.0, 20.0), axes)
    return Spaces(fixed, Geometry((6, 7, 5), (1.0, 2.0, 3.0), (-9.0, 8.0, 21.0), axes))


@cache
def transforms(*names: str) -> Files:
    """Files of formats of transforms, FORMAT.SUFFIX, an affine one where one fits, else a smooth field."""
    from foldless.io import FORMATS, Linear, Transform, Warped, write_transform

    both, files = spaces(), {}
    for name in names:
        form, _, end = name.partition(".")
        part = Warped(2 * np.sin(numbers(*SHAPE, 3)), both.fixed)
        matrix = Linear(np.array([[1.0, 0.1, 0, 5], [0, 0.9, 0, -3], [0, 0, 1.2, 2]]))
        one = Transform((part if FORMATS[form].holds == "field" else matrix,), both.fixed, both.moving)
        files[name] = _written(lambda path, one=one, form=form: write_transform(one, path, both, form), f"a.{end}")
    return files


TEXTS = (
    "flirt.mat", "niftyreg-affine.txt", "greedy-affine.mat", "lta.lta", "afni-affine.1d", "elastix.txt", "itk.tfm",
    "itk.txt",
)  # fmt: skip
NIFTI = (
    "itk-field",
    "fsl-relative",
    "fsl-absolute",
    "niftyreg-def",
    "niftyreg-disp",
    "afni-field",
    "dipy",
    "voxelmorph",
)


@cache
def points() -> Files:
    """A file of every kind of points."""
    at = np.random.default_rng(3).uniform(-30, 30, (5, 3)).round(3)
    rows = [",".join(map(str, point)) for point in at.tolist()]
    markups = {"markups": [{"coordinateSystem": "RAS", "controlPoints": [{"position": p} for p in at.tolist()]}]}
    head = "# vtk DataFile Version 4.2\na\n{}\nDATASET POLYDATA\nPOINTS 5 float\n"
    tail = b"\nPOLYGONS 1 4\n3 0 1 2\n"
    ply = "ply\nformat {} 1.0\ncomment a\nelement vertex 5\n" + "".join(f"property float {c}\n" for c in "xyz")
    text = "\n".join(rows).replace(",", " ").encode()
    surface = nib.gifti.GiftiImage(
        darrays=[nib.gifti.GiftiDataArray(at.astype(np.float32), intent="NIFTI_INTENT_POINTSET")]
    )
    lines = nib.streamlines.Tractogram(
        [at[:2].astype(np.float32), at[2:].astype(np.float32)], affine_to_rasmm=np.eye(4)
    )
    files = {
        "a.csv": ("name,x,y,z\n" + "".join(f"p,{row}\n" for row in rows)).encode(),
        "a.fcsv": ("# CoordinateSystem = LPS\n" + "".join(f"0,{row},0\n" for row in rows)).encode(),
        "a.mrk.json": json.dumps(markups).encode(),
        "text.vtk": head.format("ASCII").encode() + text + tail,
        "binary.vtk": head.format("BINARY").encode() + at.astype(">f4").tobytes() + tail,
        "text.ply": ply.format("ascii").encode() + b"end_header\n" + text,
        "binary.ply": ply.format("binary_little_endian").encode() + b"end_header\n" + at.astype("<f4").tobytes(),
        "a.surf.gii": _written(lambda path: nib.save(surface, path), "a.surf.gii"),
    }
    for end in ("trk", "tck"):
        files[f"a.{end}"] = _written(lambda path: nib.streamlines.save(lines, path), f"a.{end}")
    return files


FORMATS: dict[str, Callable[[], Files]] = {
    "nifti": nifti,
    "nrrd": nrrd,
    "mha": mha,
    "png": png,
    "h5": h5,
    "npz": npz,
    "safetensors": safetensors,
    "csv": csv,
    "json": json_files,
    "texts": lambda: transforms(*TEXTS),
    "fields": lambda: transforms(*(f"{name}.nii" for name in NIFTI), "itk-field.nii.gz", "niftyreg-def.nii.gz"),
    "mgz": lambda: transforms("mgz.mgz", "mgz.mgh"),
    "arrays": lambda: transforms(
        "dipy.npy", "voxelmorph.npy", "learn2reg.npz", "slicer-field.nrrd", "slicer-field.mha"
    ),
    "points": points,
}
