"""Everything that decides what a training does, as plain values: options, run record and model file share them."""

from __future__ import annotations

import typing
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from itertools import accumulate, pairwise
from math import inf, prod
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar

import tyro

from foldless.errors import InputError

Network = Literal["residual-unet", "voxelmorph", "encoder-decoder", "conv-only", "mlp"]
Normalisation = Literal["batch", "instance", "none"]
MapFamily = Literal["displacement", "exponential"]
Similarity = Literal["mse", "ncc", "lncc", "lncc-squared", "nmi", "mind-ssc"]
First = Literal["none", "affine", "affine-free"]
Regularity = Literal["icon", "gradicon", "diffusion", "certified"]
Precision = Literal["auto", "float32", "bfloat16"]
Aim = Literal["symmetric", "one-way", "image-cycle", "three-images"]
Refinement = Literal["none", "leaky", "linear", "images"]
Schedule = Literal["cosine", "constant"]
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """One phase of a training: what is at work, what of it learns, on which lattice; None is as the recipe says."""

    parts: int | None = None
    """How many of the registration's parts are at work, from the first on: an affine step, its networks, its
    refinement."""
    trained: tuple[int, ...] | None = None
    """Which of them learn, counted from 1; the others are frozen whole. None: all that are at work."""
    level: int = 1
    """Both images are pooled by this number before anything sees them, the similarity included."""
    steps: int | None = None
    batch: int | None = None
    rate: float | None = None
    weight: float | None = None
    ramp: int | None = None
    increase: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Recipe:
    """How to build a registration, what to make small, and for how long."""

    network: Network = "residual-unet"
    """The network of every step."""
    widths: tuple[int, ...] = (16, 32, 64, 256, 512)
    """Channels after each halving of the residual U-Net, ICON's by default; other networks have their own."""
    widths_up: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Channels after each doubling of the residual U-Net, finest first; as many as widths."""
    normalisation: Normalisation = "batch"
    """Of the residual U-Net; "instance" does not depend on the batch."""
    as_map: MapFamily = "displacement"
    """What the networks predict: displacements, or velocities whose exponential is the map."""
    first: First = "none"
    """Before the networks, one that predicts an affine map from the coarsest images: inverse consistent by construction
    ("affine"), or as free in either direction as it likes ("affine-free")."""
    levels: tuple[int, ...] = (1,)
    """One network a number, first to last; each sees images pooled by its number: "2 1" is half, then full."""
    refinement: Refinement = "none"
    """Last, a small network that corrects the displacement: Kuang's as published ("leaky") or with a linear last layer,
    or ours, which sees the images too."""
    objective: Aim = "symmetric"
    """Pairs both ways; one way, as VoxelMorph; Kuang's cycle through the warped image; or cycles of three images."""
    similarity: Similarity = "mse"
    """How alike the warped and the fixed image are; nmi and mind-ssc serve images of different kinds."""
    sigma: float = 5.0
    """Standard deviation of LNCC's Gaussian window, voxels."""
    window: int = 9
    """Side of squared LNCC's box window, voxels."""
    regularity: Regularity = "gradicon"
    """What makes maps regular; certified: no cell may fold, and nothing else is asked."""
    weight: float = 1.5
    """How much regularity counts, at the end."""
    ramp: int = 0
    """Steps over which the weight grows from a tenth to its value; 0 for constant."""
    increase: float = 0.0
    """Added to the weight in every step whose maps fold more than the threshold (ICON); 0 for constant."""
    threshold: float = 0.0
    """Forward folds a pair that are acceptable, on the lattice that is trained on; for increase."""
    per_voxel: bool = False
    """The threshold is a share of the voxels, 0 to 1, which means the same on every lattice."""
    tolerance: float = 0.0
    """The largest inverse-consistency error that is acceptable, in voxels inside the body: a constraint that an
    augmented Lagrangian holds maps to; 0 for none."""
    steps: int = 2000
    """Training steps, of every stage that says no other number."""
    batch: int = 1
    """Pairs a step; the symmetric objective registers every pair both ways."""
    mirror: bool = False
    """Mirror the two images of a pair alike along random axes, so that few images go further."""
    affine: float = 0.0
    """Move each image of a pair by a random affine map of its own: turned, scaled and sheared by up to this share."""
    rate: float = 5e-4
    """Adam's rate at the start."""
    schedule: Schedule = "cosine"
    """Whether the rate falls to zero along a cosine, in every stage anew, or stays."""
    precision: Precision = "auto"
    """Of the networks; maps are float32 always. auto: bfloat16 where the processor multiplies it natively."""
    recompute: bool = False
    """Networks compute again on the way back instead of keeping what they computed: less memory, more time."""
    seed: int = 0
    """Of the weights, the pairs and the points."""
    validate_every: int = 200
    """Steps between looks at the held-out pairs."""
    save_every: int = 200
    """Steps between checkpoints."""
    stages: tyro.conf.Suppress[tuple[Stage, ...]] = ()
    """What is trained in turn; none is everything at once. Each begins with the weights that the one before left."""

    def __post_init__(self) -> None:
        _check_words(self)
        for name in ("steps", "batch", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', '-')} must be at least 1; got {getattr(self, name)}")
        if not self.levels or min(self.levels) < 1:
            raise InputError(f"levels are pooling factors of 1 or more, one a network; got {self.levels}")
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"widths are channel counts of 1 or more, one a halving; got {self.widths}")
        if len(self.widths_up) != len(self.widths) or min(self.widths_up) < 1:
            raise InputError(
                f"widths and widths-up are equally many channel counts; got {self.widths} and {self.widths_up}"
            )
        if not (0 < self.rate < inf and 0 < self.sigma < inf and 0 <= self.weight < inf and self.ramp >= 0):
            raise InputError("rate and sigma must be above 0, weight and ramp not below, and all of them finite")
        if not (0 <= self.increase < inf and 0 <= self.threshold < inf):
            raise InputError(f"increase and threshold are 0 or more; got {self.increase:g} and {self.threshold:g}")
        if not 0 <= self.tolerance < inf:
            raise InputError(f"tolerance is 0 for none, or voxels above 0; got {self.tolerance:g}")
        if self.tolerance and self.objective != "symmetric":
            raise InputError(f"a tolerance is for pairs registered both ways, not for the objective {self.objective}")
        if self.ramp and self.increase:
            raise InputError("the weight grows along a ramp or by an increase where maps fold; set one of them to 0")
        if not 0 <= self.affine < 0.5:
            raise InputError(f"affine must be at least 0 and below 0.5, so that no image turns over; got {self.affine}")
        if self.window < 1 or self.window % 2 == 0:
            raise InputError(f"window must be odd, so that it has a centre; got {self.window}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"the seed must be 0 or more and fit in 63 bits; got {self.seed}")
        if self.objective == "one-way" and self.regularity != "diffusion":
            raise InputError(f"the objective one-way knows one map; its regularity is diffusion, not {self.regularity}")
        if self.objective == "three-images" and self.regularity not in ("icon", "gradicon"):
            raise InputError("the objective three-images closes cycles of maps: its regularity is icon or gradicon")
        for stage in self.stages:
            self._check(stage)

    def _check(self, stage: Stage) -> None:
        at_work = self.parts if stage.parts is None else stage.parts
        if not 1 <= at_work <= self.parts:
            raise InputError(f"a stage has 1 to {self.parts} parts at work; got {stage.parts}")
        if stage.trained is not None and not (stage.trained and set(stage.trained) <= set(range(1, at_work + 1))):
            raise InputError(f"a stage trains some of the parts 1 to {at_work} that are at work; got {stage.trained}")
        levels = (*self.step_levels[:at_work], stage.level)
        if stage.level < 1 or any(coarse % fine for coarse, fine in pairwise(levels)):
            raise InputError(
                f"in stages every level is a multiple of the next and of the stage's own; got {levels[:-1]} "
                f"and the stage's {stage.level}"
            )
        self.of_stage(stage)

    @property
    def parts(self) -> int:
        """How many parts the registration has: its steps, and the refinement."""
        return len(self.step_levels) + (self.refinement != "none")

    @property
    def step_levels(self) -> tuple[int, ...]:
        """The pooling factor of every step: the affine one, which sees the coarsest images, and a network a level."""
        return self.levels if self.first == "none" else (max(self.levels), *self.levels)

    @property
    def plan(self) -> tuple[Stage, ...]:
        """The stages; one that trains everything where none are named."""
        return self.stages or (Stage(),)

    def of_stage(self, stage: Stage) -> Recipe:
        """The settings that hold during a stage."""
        own = {f.name: getattr(stage, f.name) for f in fields(stage) if f.name not in ("parts", "trained", "level")}
        return replace(self, stages=(), **{name: value for name, value in own.items() if value is not None})

    def ends(self) -> tuple[int, ...]:
        """The step at which each stage ends, counted from the start of the training."""
        return tuple(accumulate(self.of_stage(stage).steps for stage in self.plan))

    def check_lattice(self, lattice: tuple[int, ...]) -> None:
        """Make sure that in every stage images of this size are more than one node.

        Raises:
            InputError: they are pooled to a single one, where no map is more regular than another.
        """
        coarsest, largest = max(stage.level for stage in self.plan), max(lattice) - 1
        if coarsest > largest:
            raise InputError(
                f"images of {' x '.join(map(str, lattice))} voxels pooled by {coarsest} are a single node; "
                f"pool them by {largest} at most"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a run record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """What `as_dict` returned, checked.

        Raises:
            InputError: an unknown name, or a value of the wrong kind.
        """
        return _from_dict(cls, values)


@dataclass(frozen=True)
class Source:
    """Which images, and how they are laid on one lattice."""

    data: str = ""
    """`shapes`, `mnist:FOLDER`, or a folder with images/, optional labels/ and optional split.json."""
    placement: Literal["centre", "world"] = "centre"
    """Folders: lay images centre on centre, or where their headers say (for cohorts aligned in scanner space)."""
    percentiles: tuple[float, float] = (1.0, 99.0)
    """Folders: intensities that become 0 and 1, in percent."""
    size: int = 28
    """Shapes: pixels a side."""
    digit: int = 5
    """MNIST: which digit."""

    def __post_init__(self) -> None:
        _check_words(self)
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise InputError(f"percentiles are two growing numbers from 0 to 100; got {low:g} and {high:g}")
        if not 0 <= self.digit <= 9:
            raise InputError(f"the digit is 0 to 9; got {self.digit}")
        if self.size < 8:
            raise InputError(f"shapes need 8 pixels a side or more; got {self.size}")

    def resolved(self) -> Source:
        """The same data by its absolute path, so that a record serves from any working folder."""
        kind, colon, folder = self.data.partition(":") if self.data.startswith("mnist:") else ("", "", self.data)
        return self if self.data == "shapes" else replace(self, data=f"{kind}{colon}{Path(folder).resolve()}")

    @property
    def is_folder(self) -> bool:
        return self.data != "shapes" and not self.data.startswith("mnist:")

    @property
    def folders(self) -> tuple[Path, ...]:
        """What is read, if anything is."""
        return () if self.data == "shapes" else (Path(self.data.removeprefix("mnist:")),)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Source:
        """What `asdict` returned, checked."""
        hints = typing.get_type_hints(cls)
        known = {name: value for name, value in values.items() if name in hints}
        return cls(**{name: _checked(name, value, hints[name]) for name, value in known.items()})


SMALL_VOLUME = 500_000
"""Voxels of a lattice that a network may see whole within an hour's training on two cores."""


def recipe_for(lattice: tuple[int, ...] | None) -> Recipe:
    """Settings that train well on two cores for images of about this size; None for generated pictures.

    Small volumes take less than half an hour, pictures minutes. On larger volumes the networks see images pooled by
    8, 4 and 2, and their map, which is independent of resolution, serves the whole lattice: hours rather than days.
    """
    if lattice is None:
        return Recipe(widths=(16, 32, 64, 128), widths_up=(16, 32, 64, 64), batch=32, rate=1e-3, steps=1500)
    shared = Recipe(
        widths=(16, 32, 64, 128, 256),
        widths_up=(16, 16, 32, 64, 128),
        normalisation="none",
        levels=(4, 2, 1) if prod(lattice) <= SMALL_VOLUME else (8, 4, 2),
        similarity="lncc",
        weight=1.0,
        mirror=True,
        affine=0.05,
        rate=1e-3,
        steps=5000,
        validate_every=250,
        save_every=250,
    )
    return replace(shared, batch=8, steps=2000) if len(lattice) == 2 else shared


OPTIMISED_VOXELS = 1_500_000
"""Voxels of a lattice on which maps are optimised within a minute or two on two cores."""


def direct_recipe(lattice: tuple[int, ...]) -> Recipe:
    """Settings for a pair of images of about this size without any network: an affine map, then a flow; coarse to fine.

    Of the recipe, what names a network, pairs or a schedule says nothing here; `steps` are those of every level.
    """
    finest = 1
    while prod(lattice) > OPTIMISED_VOXELS * finest ** len(lattice):
        finest *= 2
    return Recipe(
        first="affine",
        as_map="exponential",
        levels=tuple(finest * k for k in (4, 2, 1)),
        similarity="lncc",
        sigma=3.0,
        weight=1.5,
        rate=5e-3,
        steps=50,
        precision="float32",
    )


def _check_words(record: object) -> None:
    """Refuse a word that is none of a field's, which would else be built as some other one, or as nothing."""
    for name, hint in typing.get_type_hints(type(record)).items():
        words = typing.get_args(hint)
        if typing.get_origin(hint) is Literal and (word := getattr(record, name)) not in words:
            raise InputError(f"{name.replace('_', '-')} is one of {', '.join(words)}; got {word!r}")


def _from_dict(kind: type[T], values: dict[str, Any]) -> T:
    hints = typing.get_type_hints(kind)
    if strange := set(values) - set(hints):
        raise InputError(f"the record's settings hold {sorted(strange)}, which this version does not know")
    return kind(**{name: _checked(name, value, hints[name]) for name, value in values.items()})


def _checked(name: str, value: Any, hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin is UnionType:
        inner, _ = typing.get_args(hint)  # T | None
        return None if value is None else _checked(name, value, inner)
    if is_dataclass(hint) and isinstance(value, dict):
        return _from_dict(hint, value)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        kinds = typing.get_args(hint)
        if kinds[-1] is Ellipsis or len(value) == len(kinds):
            return tuple(_checked(name, part, kinds[0]) for part in value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    if origin is Literal and value in typing.get_args(hint):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InputError(f"the record's setting {name} cannot be {value!r}")
