"""Small images, models and runs for the tests of data, training and commands."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch

from foldless.build import build_registration
from foldless.data.prepare import Preparation
from foldless.grid import Grid
from foldless.maps import Affine
from foldless.model import Model
from foldless.recipe import Recipe
from foldless.registration import Registration

SMALL = Recipe(
    widths=(4, 8), widths_up=(4, 4), batch=2, steps=6, validate_every=3, save_every=2, rate=1e-2, precision="float32"
)
PREPARED = {2: Preparation((16, 16), (1.0, 1.0)), 3: Preparation((16, 16, 16), (1.0, 1.0, 1.0))}


def lively_model(dim: int, recipe: Recipe = SMALL, preparation: Preparation | None = None, seed: int = 0) -> Model:
    """A model that nobody trained and that still moves things: its last layers are not zero."""
    torch.manual_seed(seed)
    preparation = preparation or PREPARED[dim]
    registration = build_registration(recipe, preparation.lattice)
    for name, parameter in registration.named_parameters():
        if "last." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    registration.eval()
    return Model(registration, recipe, preparation, ("seen_1", "seen_2"))


def run_folder(folder: Path, dim: int, **settings: object) -> Path:
    """A folder that holds such a model as a finished training leaves it."""
    folder.mkdir(parents=True)
    lively_model(dim, replace(SMALL, **settings)).save(folder / "best.safetensors")
    return folder


class CentreOfMass(Registration):
    """Knows one thing for sure: it lays centre of mass on centre of mass, the moving image's on the fixed one's."""

    def forward(self, image_A, image_B):
        shift = _centre(image_A) - _centre(image_B)
        return Affine(torch.eye(shift.shape[1]).expand(len(shift), -1, -1), shift)


def _centre(image: torch.Tensor) -> torch.Tensor:
    x = Grid.of(image).points(image)
    return (x * image).flatten(2).sum(2) / image.flatten(2).sum(2)


def blob(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """An ellipsoid of two halves, labels 1 and 2, somewhere near the middle, (*shape), array order."""
    random = np.random.default_rng(seed)
    x = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    ones = [1] * len(shape)
    centre = random.uniform(-0.15, 0.15, (len(shape), *ones))
    radius = random.uniform(0.4, 0.65, (len(shape), *ones))
    inside = (((x - centre) / radius) ** 2).sum(0) < 1
    return np.where(inside, np.where(x[0] < centre[0], 1, 2), 0)


def save_image(array: np.ndarray, path: Path, spacing: tuple[float, ...] | None = None, **header: object) -> Path:
    image = sitk.GetImageFromArray(array)
    if spacing:
        image.SetSpacing(spacing)
    for name, value in header.items():
        getattr(image, f"Set{name}")(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def save_case(folder: Path, name: str, shape: tuple[int, ...], seed: int, suffix: str = ".nii.gz") -> None:
    labels = blob(shape, seed)
    noise = np.random.default_rng(seed).normal(0, 2, shape)
    save_image((labels * 50 + 20 + noise).astype(np.float32), folder / "images" / (name + suffix))
    save_image(labels.astype(np.uint8), folder / "labels" / (name + suffix))


def save_cases(folder: Path, count: int, shape: tuple[int, ...], suffix: str = ".nii.gz") -> Path:
    """A folder of `count` cases, case_1 and on, with labels."""
    for k in range(1, count + 1):
        save_case(folder, f"case_{k}", shape, seed=k, suffix=suffix)
    return folder
