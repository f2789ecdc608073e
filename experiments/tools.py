"""Other registration tools behind one function each: two volumes in, displacements on both lattices out.

Each takes `(moving, fixed, scratch folder)` and returns the displacement on the fixed lattice, and the one back on the
moving lattice where the tool gives it; (*shape, dim), LPS millimetres. `MissingToolError` says what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

    from foldless.io import Geometry, Volume

Field = NDArray[np.float32]
Tool = Callable[["Volume", "Volume", Path], tuple[Field, Field | None]]


class MissingToolError(Exception):
    """A tool is not installed."""


def nothing(moving: Volume, fixed: Volume, scratch: Path) -> tuple[Field, Field | None]:
    """Centre laid on centre."""
    shift = moving.geometry.centre - fixed.geometry.centre
    there = np.broadcast_to(shift, (*fixed.geometry.shape, fixed.dim))
    back = np.broadcast_to(-shift, (*moving.geometry.shape, fixed.dim))
    return np.float32(there), np.float32(back)


def demons(moving: Volume, fixed: Volume, scratch: Path) -> tuple[Field, Field | None]:
    """SimpleITK's affine by mutual information, then diffeomorphic demons; fields smoothed by 1.5 voxels."""
    import SimpleITK as sitk  # noqa: N813

    a, b = image_of(moving), image_of(fixed)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingPercentage(0.5, seed=1)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100)
    method.SetOptimizerScalesFromPhysicalShift()
    start = sitk.CenteredTransformInitializer(
        b, a, sitk.AffineTransform(fixed.dim), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(start, inPlace=False)
    affine = method.Execute(b, a)
    resampled = sitk.Resample(a, b, affine, sitk.sitkLinear, float(moving.array.min()))
    matched = sitk.HistogramMatching(resampled, b, 256, 7, True)
    steps = sitk.DiffeomorphicDemonsRegistrationFilter()
    steps.SetNumberOfIterations(100)
    steps.SetStandardDeviations(1.5)
    shift = sitk.DisplacementFieldTransform(steps.Execute(b, matched))
    return field_of(sitk.CompositeTransform([affine, shift]), fixed.geometry), None


def syn(moving: Volume, fixed: Volume, scratch: Path, settings: Mapping[str, Any]) -> tuple[Field, Field | None]:
    """ANTs' affine and SyN, as antspyx calls them."""
    ants = _module("ants", "antspyx")
    a, b = _written(moving, fixed, scratch)
    images = ants.image_read(str(b)), ants.image_read(str(a))
    found = ants.registration(*images, outprefix=str(scratch / "syn"), random_seed=1, **settings)
    there = ants.apply_transforms(*images, found["fwdtransforms"], compose=str(scratch / "there"))
    back = ants.apply_transforms(
        *images[::-1], found["invtransforms"], compose=str(scratch / "back"), whichtoinvert=[True, False]
    )
    return _read(Path(there)), _read(Path(back))


syn_cc = partial(
    syn,
    settings={"type_of_transform": "SyN", "syn_metric": "CC", "syn_sampling": 4, "reg_iterations": (100, 70, 50, 20)},
)
"""With the radius and the iterations of antsRegistrationSyN.sh."""
syn_quick = partial(syn, settings={"type_of_transform": "antsRegistrationSyNQuick[s]"})


def greedy(
    moving: Volume, fixed: Volume, scratch: Path, smoothing: tuple[str, str], options: str
) -> tuple[Field, Field | None]:
    """Its own affine by cross-correlation, then greedy with LNCC 5^3; `smoothing` of the update and of the whole."""
    execute = getattr(_module("picsl_greedy", "picsl-greedy"), f"Greedy{fixed.dim}D")().execute
    a, b = _written(moving, fixed, scratch)
    radius, levels = "x".join(["2"] * fixed.dim), "100x100x50"
    pair, smooth = f"-i {b} {a}", " ".join(smoothing)

    def run(words: str) -> None:
        execute(f"-d {fixed.dim} {words} {options} -threads 2")

    with silenced():
        affine, warp, there = scratch / "affine.mat", scratch / "warp.nii.gz", scratch / "there.nii.gz"
        run(f"-a -dof 12 -m NCC {radius} {pair} -o {affine} -ia-image-centers -n {levels}")
        inverse, back = scratch / "inverse.nii.gz", scratch / "back.nii.gz"
        run(f"-m NCC {radius} {pair} -it {affine} -s {smooth} -o {warp} -oinv {inverse} -n {levels}")
        run(f"-rf {b} -rc {there} -r {warp} {affine}")
        run(f"-rf {a} -rc {back} -r {affine},-1 {inverse}")
    return _read(there), _read(back)


unrounded_greedy = partial(greedy, options="-wp 0 -seed 1")
"""With warps as they were found, which greedy else rounds to a tenth of a voxel, and a fixed seed.

The seed repeats all on one thread; on two, which its time is of, their order still changes the noise that it adds.
"""


def nifty_reg(moving: Volume, fixed: Volume, scratch: Path) -> tuple[Field, Field | None]:
    """NiftyReg's affine and velocity-field f3d, default settings (NMI)."""
    for program in ("reg_aladin", "reg_f3d", "reg_transform"):
        if shutil.which(program) is None:
            raise MissingToolError(f"{program} is not on the path: install NiftyReg")
    a, b = map(str, _written(moving, fixed, scratch))
    affine, grid, there = (str(scratch / name) for name in ("affine.txt", "grid.nii.gz", "there.nii.gz"))
    _call("reg_aladin", "-ref", b, "-flo", a, "-aff", affine, "-res", str(scratch / "r.nii.gz"))
    _call("reg_f3d", "-ref", b, "-flo", a, "-aff", affine, "-cpp", grid, "-vel", "-res", str(scratch / "r.nii.gz"))
    _call("reg_transform", "-ref", b, "-disp", grid, there)
    return _read(Path(there)), None


TOOLS: dict[str, Tool] = {
    "nothing": nothing,
    "Demons (SimpleITK)": demons,
    "SyN-CC (antspyx)": syn_cc,
    "SyNQuick (antspyx)": syn_quick,
    "greedy (picsl-greedy)": partial(unrounded_greedy, smoothing=("1.732vox", "0.7071vox")),
    "NiftyReg": nifty_reg,
}
"""With the settings that they come with."""

SMOOTHINGS = (
    ("0.7vox", "0.35vox"),
    ("1vox", "0.5vox"),
    ("1.732vox", "0.5vox"),
    ("1.732vox", "0.7071vox"),
    ("2.5vox", "1vox"),
)
CHOSEN: dict[str, dict[str, Tool]] = {
    "greedy (picsl-greedy), smoothing chosen": {
        f"-s {' '.join(smoothing)}": partial(unrounded_greedy, smoothing=smoothing) for smoothing in SMOOTHINGS
    },
}
"""Tools with a setting that is to be chosen on other cases than those judged: the settings by name."""


@contextmanager
def silenced() -> Iterator[None]:
    """Keep what compiled code prints from the terminal."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def image_of(volume: Volume) -> sitk.Image:
    """The volume as SimpleITK's image, float32."""
    import SimpleITK as sitk  # noqa: N813

    return sitk.Cast(volume.image, sitk.sitkFloat32)


def field_of(transform: sitk.Transform, on: Geometry) -> Field:
    """A transform's displacement at a lattice's voxels, (*shape, dim)."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, on.size, on.origin, on.spacing, on.direction
    )
    return np.float32(sitk.GetArrayFromImage(image))


def _module(name: str, package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise MissingToolError(f"not installed: pip install {package}") from error


def _written(moving: Volume, fixed: Volume, scratch: Path) -> tuple[Path, Path]:
    """Both images as float32 files; tools that read files see what foldless sees."""
    from foldless.io import write_volume

    paths = scratch / "moving.nii.gz", scratch / "fixed.nii.gz"
    for volume, path in zip((moving, fixed), paths, strict=True):
        write_volume(volume.array.astype(np.float32), volume.geometry, path)
    return paths


def _read(path: Path) -> Field:
    import SimpleITK as sitk  # noqa: N813

    return np.float32(sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkVectorFloat64)))


def _call(*words: Sequence[str] | str) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
