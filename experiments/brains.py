"""What Kuang's experiments share: the brains in three folds, methods under a weight, what was judged, a map's slice."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from experiments.drawing import Format
from experiments.places import Pictured
from experiments.results import kept
from foldless.cli.console import say
from foldless.cli.watch import Watch
from foldless.errors import InputError
from foldless.methods import METHODS, lasting, method_recipe, planned
from foldless.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from foldless.crossvalidation import Fold, Results
    from foldless.evaluation import Scores

Name = Literal["A", "B", "C"]
NAMES: tuple[Name, ...] = get_args(Name)
"""The folds: every third subject."""
SYNQUICK = "synquick"
EXPECTED = "a folder of brains holds affine2mm/ID_t1.nii.gz with ID_seg.nii.gz, and labels.csv"
PERCENTILES = (0.0, 100.0)
"""Kuang divides each image by its maximum."""


FEWEST = 6
"""Subjects: a fold is judged by pairs."""


def lay_out(brains: Path, folder: Path) -> Path:
    """The brains as foldless reads them: links to images and labels, groups.csv (every third subject), regions.csv.

    A region is a group of labels.csv, left and right together.

    Raises:
        InputError: the brains are not there, or the folder links to others; nothing is made then.
    """
    subjects, regions = _subjects(brains), _regions(brains)
    links = {
        folder / part / f"{name}.nii.gz": file.resolve()
        for name, files in subjects.items()
        for part, file in zip(("images", "labels"), files, strict=True)
    }
    for link, file in links.items():
        if link.exists() and link.resolve() != file:
            raise InputError(
                f"{link} is {link.resolve()} and not {file}, so what is in {folder.parent} was found on other brains: "
                f"choose another --output or, if these are the same in another place, delete {folder}"
            )
    for link, file in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.unlink(missing_ok=True)  # where it points to nothing
            link.symlink_to(file)
    groups = [f"{name},{NAMES[k % 3]}" for k, name in enumerate(subjects)]
    (folder / "groups.csv").write_text("\n".join(["case,group", *groups]) + "\n", encoding="utf-8")
    (folder / "regions.csv").write_text("\n".join(["label,region", *regions]) + "\n", encoding="utf-8")
    return folder


def _subjects(brains: Path) -> dict[str, tuple[Path, Path]]:
    """Subject -> image and labels."""
    images = {file.name.removesuffix("_t1.nii.gz"): file for file in sorted(brains.glob("affine2mm/*_t1.nii.gz"))}
    found = {name: (file, file.with_name(f"{name}_seg.nii.gz")) for name, file in images.items()}
    if len(found) < FEWEST:
        raise InputError(f"{brains} holds {len(found)} subjects and {FEWEST} are needed: {EXPECTED}")
    if missing := next((file for files in found.values() for file in files if not file.is_file()), None):
        raise InputError(f"{missing} does not exist: {EXPECTED}")
    return found


def _regions(brains: Path) -> list[str]:
    """Label and region of every label that has one, as lines."""
    file = brains / "labels.csv"
    if not file.is_file():
        raise InputError(f"{file} does not exist: {EXPECTED}")
    with file.open(newline="", encoding="utf-8") as content:
        rows = list(csv.DictReader(content))
    if not rows or not {"label", "group_name"} <= set(rows[0]):
        raise InputError(f"{file} must be a CSV whose first line names the columns label and group_name")
    return [
        f"{row['label']},{row['group_name'].removesuffix('_L').removesuffix('_R')}" for row in rows if row["group_name"]
    ]


def folds(data: Path) -> dict[str, Fold]:
    """The folds of a folder that was laid out."""
    from foldless.crossvalidation import folds_of, read_groups
    from foldless.data.folder import case_names

    return {fold.name: fold for fold in folds_of(read_groups(data / "groups.csv", case_names(data)))}


@dataclass(frozen=True)
class UnderWeights(Pictured):
    """Options of an experiment that trains and judges methods under several weights and draws a picture of them."""

    data: Path
    """The folder of the brains: affine2mm/ID_t1.nii.gz with ID_seg.nii.gz, and labels.csv."""
    output: Path
    """Folder for the trainings and what they came to; what is there already is not trained again."""
    steps: int = 1500
    """Of a method without phases; a phase of the refinement takes three tenths."""
    batch: int = 1
    """Pairs a step."""
    rate: float = 5e-4
    """Adam's."""
    pool: int = 2
    """What images are pooled by for training; judged are whole ones."""
    pairs: int = 12
    """Test pairs a fold."""
    seed: int = 0
    """Of every training."""
    formats: tuple[Format, ...] = ("svg",)
    """Of the picture; "svg pdf" for both."""

    def recipe(self, method: str, factor: float) -> Recipe:
        """A method's recipe, every weight of it times `factor`."""
        from foldless.build import settled

        recipe = replace(lasting(method_recipe(method, Recipe()), self.steps), batch=self.batch)
        recipe = replace(recipe, rate=self.rate, seed=self.seed)
        recipe = planned(recipe, method, pool=self.pool)
        stages = tuple(replace(s, weight=None if s.weight is None else factor * s.weight) for s in recipe.stages)
        return settled(replace(recipe, weight=factor * recipe.weight, stages=stages))

    def check(self, methods: Iterable[str], factors: Iterable[float]) -> None:
        """Refuse before anything is made what the options ask of no training.

        Raises:
            InputError: says what.
        """
        if self.pairs < 1:
            raise InputError(f"a fold is judged by one pair or more; got --pairs {self.pairs}")
        for method, factor in product(methods, factors):
            self.recipe(method, factor)

    def under_weight(self, method: str, factor: float, fold: str, data: Path) -> tuple[Path, list[Scores]]:
        """Train and judge a method on a fold, its weights times `factor`, or read what an earlier call found.

        Returns:
            The folder of the training and a row a test pair.

        Raises:
            InputError: the folder holds a training that is not known to be this one.
        """
        from foldless.crossvalidation import run_fold
        from foldless.recipe import Source

        recipe, folder = self.recipe(method, factor), self.folder(method, factor, fold)
        settings, digests = self.settings(method, factor, fold, data)
        claim(folder, settings, digests)
        say(f"{method}, λ = {recipe.weight:g}, judged by {fold}")
        source = Source(str(data), percentiles=PERCENTILES).resolved()
        with Watch(recipe.ends()[-1]) as watch:
            rows = run_fold(recipe, source, folds(data)[fold], folder, self.pairs, on_step=watch.on_step)
        return folder, rows

    def folder(self, method: str, factor: float, fold: str) -> Path:
        """Where a training of a method, its weights times `factor`, is kept."""
        seed = f"-seed{self.seed}" if self.seed else ""
        length = f"{self.steps}x{self.batch}-{self.rate:g}-pool{self.pool}-{self.pairs}pairs{seed}"
        return self.output / f"{fold}-{method}-{self.recipe(method, factor).weight:g}-{length}"

    def settings(self, method: str, factor: float, fold: str, data: Path) -> tuple[dict[str, Any], dict[str, str]]:
        """What a training and its scores depend on: the settings, and the SHA-256 of every file of the data."""
        from foldless.crossvalidation import data_digests

        settings = {
            "recipe": self.recipe(method, factor).as_dict(),
            "fold": asdict(folds(data)[fold]),
            "pairs": self.pairs,
            "percentiles": PERCENTILES,
        }
        return settings, data_digests(data)


def claim(folder: Path, settings: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Write beside a training that is to begin what it depends on, or make sure that one which is there is the same.

    Raises:
        InputError: it is another, or nothing says which.
    """
    from foldless.record import RECORD, run_record, write_json

    file = folder / RECORD
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(run_record("experiments.brains", settings, digests), file)
    elif not file.is_file():
        raise InputError(
            f"{folder} holds a training and no {RECORD} that says on which data and by which settings; choose another "
            f"--output or, if it is known to be this one, put the {RECORD} of a training that is alike beside it"
        )
    elif (found := kept(file, settings)) is None or found["data_sha256"] != digests:
        raise InputError(f"{folder} holds a training on other data or by other settings; choose another --output")


def mean_over_folds(rows: Mapping[str, list[Scores]]) -> dict[str, float]:
    """Of a method's rows, fold by fold, every score's mean over folds of means over pairs; nested names dotted."""
    from foldless.crossvalidation import summarised

    return {name: score["mean"] for name, score in summarised({"": dict(rows)})[""].items()}


def judged(results: Path) -> Results:
    """What `foldless crossvalidate` and SyNQuick left in a folder, methods in the order of their list."""
    found: Results = {}
    for file in sorted(results.glob("*/*/pairs.json")):
        rows = json.loads(file.read_text(encoding="utf-8"))["pairs"]
        found.setdefault(file.parent.name, {})[file.parents[1].name] = rows
    order = [*METHODS, SYNQUICK]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


@dataclass(frozen=True, eq=False)
class Slice:
    """An axial slice of a map in space, anterior up and right at left.

    Attributes:
        nodes: where its nodes go, within the slice, (2, rows, columns), in voxels.
        determinant: of the whole 3-D map by forward differences, (rows - 1, columns - 1).
        at: which slice, from below.
        percent: forward folds of the whole map.
    """

    nodes: NDArray[np.float32]
    determinant: NDArray[np.float32]
    at: int
    percent: float


def axial_slice(weights: Path, data: Path, moving: str, fixed: str, at: int | None = None) -> Slice:
    """A slice of the map that a trained model finds for two cases; the one with the most folds if none is named."""
    import torch

    from foldless.data.folder import case_names
    from foldless.io import read_volume
    from foldless.metrics import folds_percent, jacobian_determinant
    from foldless.model import Model
    from foldless.outcome import Outcome
    from foldless.registering import register_volumes

    files, model = case_names(data), Model.load(weights)
    image_A, image_B = read_volume(files[moving]), read_volume(files[fixed])
    outcome = Outcome(image_A, image_B, register_volumes(model, image_A, image_B), model)
    percent = folds_percent(torch.from_numpy(outcome.displacement_voxels.copy())[None], "forward").item()
    pair = outcome.drawn(fixed, metrics={})
    voxels = torch.from_numpy(np.ascontiguousarray(pair.displacement_voxels, dtype=np.float32))
    determinant = jacobian_determinant(voxels[None], "forward")[0].numpy()
    negative = determinant < 0
    place = most(negative) if at is None else at
    nodes = voxels[1:, place].numpy() + np.indices(voxels.shape[2:], dtype=np.float32)
    return Slice(nodes, determinant[min(place, len(determinant) - 1)], place, percent)


def most(negative: NDArray[np.bool_]) -> int:
    """The slice with the most negative places; the middle one where there are none."""
    counts = negative.reshape(len(negative), -1).sum(1)
    return int(counts.argmax()) if counts.any() else len(negative) // 2


def draw_determinant(axes: Axes, determinant: NDArray[np.float32], title: str) -> None:
    """A slice of the determinant from 0 to 2, negative places in red."""
    from matplotlib.colors import LinearSegmentedColormap

    from foldless.report.arrays import DIVERGING, FOLD

    colours = LinearSegmentedColormap.from_list("determinant", list(DIVERGING)).with_extremes(bad=FOLD)
    shown = np.ma.masked_less(determinant, 0.0)
    axes.imshow(shown, cmap=colours, vmin=0, vmax=2, interpolation="nearest")
    axes.set(title=title, xticks=[], yticks=[])
