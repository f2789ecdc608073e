"""elastix' TransformParameters files: translation, Euler, similarity, affine and B-spline, LPS mm, pulling."""

# mypy: untyped-calls-exclude="SimpleITK"

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from foldless.errors import InputError
from foldless.io.files import write_whole
from foldless.io.formats.frames import Spaces
from foldless.io.formats.itk import parts_of_itk
from foldless.io.formats.matrices import linear_part, text_of
from foldless.io.geometry import Geometry
from foldless.io.world import Part, Spline, Transform

DEEPEST = 32
"""Files that may name one another in turn."""

NAMES_BEFORE = ("InitialTransformParametersFileName", "InitialTransformParameterFileName")

Settings = dict[str, list[str]]

KNOWN: dict[tuple[str, int], Callable[[], Any]] = {
    ("TranslationTransform", 2): lambda: sitk.TranslationTransform(2),
    ("TranslationTransform", 3): lambda: sitk.TranslationTransform(3),
    ("EulerTransform", 2): sitk.Euler2DTransform,
    ("EulerTransform", 3): sitk.Euler3DTransform,
    ("SimilarityTransform", 2): sitk.Similarity2DTransform,
    ("SimilarityTransform", 3): sitk.Similarity3DTransform,
    ("AffineTransform", 2): lambda: sitk.AffineTransform(2),
    ("AffineTransform", 3): lambda: sitk.AffineTransform(3),
}


def read_elastix(path: Path, spaces: Spaces) -> Transform:
    """The transform, and before it those that it names."""
    parts: tuple[Part, ...] = ()
    fixed, at = spaces.fixed, path
    for _ in range(DEEPEST):
        settings = _settings(at)
        parts = (*parts, *_parts(settings, at))
        fixed = fixed or _lattice(settings, "")
        before = next((settings[key][0] for key in NAMES_BEFORE if key in settings), "NoInitialTransform")
        if before == "NoInitialTransform":
            return Transform(parts[::-1], fixed, spaces.moving)
        if settings.get("HowToCombineTransforms", ["Compose"])[0] != "Compose":
            raise InputError(f"{at} adds transforms instead of composing them; expected HowToCombineTransforms Compose")
        beside = at.parent / Path(before).name
        named = beside if beside.is_file() else Path(before)
        if not named.is_file():
            raise InputError(f"{at} begins with the transform {before}, which is not there; put it beside {at.name}")
        at = named
    raise InputError(f"{path} names transforms that name each other; expected an end after {DEEPEST}")


def write_elastix(transform: Transform, on: Geometry | None, path: Path, spaces: Spaces) -> None:
    """One affine map; for a transform that bends see the other formats."""
    linear = linear_part(transform, path)
    numbers = [*linear.matrix[:, :-1].ravel(), *linear.matrix[:, -1]]
    lines = ['(Transform "AffineTransform")', f"(NumberOfParameters {len(numbers)})"]
    lines += [f"(TransformParameters {_words(numbers)})", '(InitialTransformParametersFileName "NoInitialTransform")']
    lines += ['(HowToCombineTransforms "Compose")', f"(FixedImageDimension {linear.dim})"]
    lines += [f"(MovingImageDimension {linear.dim})", f"(CenterOfRotationPoint {_words([0.0] * linear.dim)})"]
    if (lattice := spaces.fixed or transform.fixed or on) is not None:
        lines += [f"(Size {' '.join(map(str, lattice.size))})", f"(Index {' '.join(['0'] * linear.dim)})"]
        lines += [f"(Spacing {_words(lattice.spacing)})", f"(Origin {_words(lattice.origin)})"]
        lines += [f"(Direction {_words(lattice.cosines.T.ravel())})", '(UseDirectionCosines "true")']
    lines += ['(FixedInternalImagePixelType "float")', '(MovingInternalImagePixelType "float")']
    lines += ['(ResampleInterpolator "FinalLinearInterpolator")', '(Resampler "DefaultResampler")']
    lines += ["(DefaultPixelValue 0)", '(ResultImageFormat "nii.gz")', '(ResultImagePixelType "float")']
    write_whole(path, lambda beside: _text("\n".join(lines) + "\n", beside))


def _settings(path: Path) -> Settings:
    found = {}
    for line in text_of(path).splitlines():
        if match := re.match(r"\s*\((\w+)\s+(.*?)\)\s*(?://.*)?$", line):
            words = re.findall(r'"([^"]*)"|(\S+)', match[2])
            found[match[1]] = [quoted or plain for quoted, plain in words]
    if "Transform" not in found:
        raise InputError(f"{path} names no Transform; expected one of elastix' TransformParameters files")
    return found


def _parts(settings: Settings, path: Path) -> list[Part]:
    name = settings["Transform"][0]
    dim = int(_numbers(settings, "FixedImageDimension", path, 1)[0])
    numbers = _numbers(settings, "TransformParameters", path)
    if name in ("BSplineTransform", "RecursiveBSplineTransform"):
        return [_spline(settings, path, dim, numbers)]
    if (name, dim) not in KNOWN:
        raise InputError(
            f"{path} holds a {name}, which is not known; translation, Euler, similarity, affine, B-spline are"
        )
    made = KNOWN[name, dim]()
    if numbers.size != made.GetNumberOfParameters():
        raise InputError(f"{path}: a {name} has {made.GetNumberOfParameters()} parameters; got {numbers.size}")
    if name != "TranslationTransform":
        made.SetCenter(_numbers(settings, "CenterOfRotationPoint", path, dim).tolist())
    if (name, dim) == ("EulerTransform", 3):
        made.SetComputeZYX(settings.get("ComputeZYX", ["false"])[0] == "true")
    made.SetParameters(numbers.tolist())
    return list(parts_of_itk(made))


def _spline(settings: Settings, path: Path, dim: int, numbers: np.ndarray) -> Spline:
    if settings.get("BSplineTransformSplineOrder", ["3"])[0] != "3":
        raise InputError(f"{path} holds a B-spline of another order than three; expected a cubic one")
    lattice = _lattice(settings, "Grid")
    if lattice is None or numbers.size != dim * int(np.prod(lattice.size)):
        raise InputError(f"{path}: its control points are not {numbers.size // dim} as its parameters; write it again")
    return Spline(np.ascontiguousarray(np.moveaxis(numbers.reshape(dim, *lattice.shape), 0, -1)), lattice)


def _lattice(settings: Settings, prefix: str) -> Geometry | None:
    """A lattice; directions stand column by column."""
    keys = [prefix + key for key in ("Size", "Spacing", "Origin")]
    if not set(keys) <= set(settings):
        return None
    try:
        size = tuple(int(float(n)) for n in settings[keys[0]])
        spacing, origin = (tuple(float(n) for n in settings[key]) for key in keys[1:])
        eye = np.eye(len(size)).ravel().tolist()
        columns = np.array(settings.get(prefix + "Direction", eye), float).reshape(len(size), -1)
        return Geometry(size, spacing, origin, tuple(columns.T.ravel().tolist()))
    except ValueError:
        return None


def _numbers(settings: Settings, key: str, path: Path, count: int = 0) -> np.ndarray:
    try:
        numbers = np.array(settings.get(key, []), float)
    except ValueError as error:
        raise InputError(f"{path}: {key} holds more than numbers; copy or write it again") from error
    if not numbers.size or (count and numbers.size != count) or not np.isfinite(numbers).all():
        raise InputError(f"{path}: {key} holds {numbers.size} numbers; expected {count or 'some'} finite ones")
    return numbers


def _words(numbers: object) -> str:
    return " ".join(f"{n:.15g}" for n in np.asarray(numbers, float))


def _text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
