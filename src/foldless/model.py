"""A trained model: a registration, the settings it was built from and how it wants its images; one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foldless.build import build_registration
from foldless.data.prepare import Preparation
from foldless.errors import InputError
from foldless.io.files import write_whole
from foldless.machine import CPU, Machine
from foldless.recipe import Recipe
from foldless.registration import Expected, Registration

FORMAT = "foldless-model-1"

UNBUILDABLE = (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError, RuntimeError)
"""What settings that no recipe has, or that no memory holds, raise."""


@dataclass(frozen=True, eq=False)
class Model:
    """What a training leaves behind and a registration starts from.

    A file is read into the registration that its recipe describes, so one that was put together by hand is judged as a
    `Model`, but kept by its `state_dict`.
    """

    registration: Registration
    recipe: Recipe
    preparation: Preparation
    trained_on: tuple[str, ...] = ()
    """Names of the cases that training has seen, those that it was watched by included."""
    weight: float = 0.0
    """What regularity's weight had grown to where maps folded; 0 where it is the recipe's."""

    def save(self, path: Path | str) -> None:
        """Write weights and settings as safetensors, at once or not at all."""
        about = {
            "format": FORMAT,
            "recipe": self.recipe.as_dict(),
            "preparation": asdict(self.preparation),
            "trained_on": self.trained_on,
            "weight": self.weight,
        }
        tensors = {name: tensor.contiguous() for name, tensor in self.registration.state_dict().items()}
        content = save(tensors, metadata={"foldless": json.dumps(about)})

        def fill(file: Path) -> None:
            file.write_bytes(content)  # save_file would make a file that only its owner reads

        write_whole(Path(path), fill)

    @classmethod
    def load(cls, path: Path | str, machine: Machine = CPU) -> Model:
        """A model from its file, or from a run's folder (its best checkpoint), on a machine; nothing is unpickled.

        Raises:
            InputError: no such file, not a model of foldless, or one whose weights are not finite.
        """
        file = weights_file(path)
        about, tensors = _read(file)
        try:
            recipe = Recipe.from_dict(about["recipe"])
            preparation = Preparation.from_dict(about["preparation"])
            weight, trained_on = _weight(about), _names(about)
            with torch.device("meta"):
                described = build_registration(recipe, preparation.lattice).state_dict()
        except (*UNBUILDABLE, InputError) as error:
            raise InputError(
                f"{file} describes a model that this version cannot build: {_line(error)}; take the version of "
                "foldless that wrote it, or train again"
            ) from error
        _check_weights(file, tensors, described)
        registration = build_registration(recipe, preparation.lattice)
        registration.load_state_dict(tensors)
        registration.to(machine.device).eval()
        registration.expects = Expected(preparation.dim, 1, *sorted(preparation.intensities))
        return cls(registration, recipe, preparation, trained_on, weight)


def weights_file(path: Path | str) -> Path:
    """The weights of a run's folder, its best checkpoint; of a file, the file itself.

    Raises:
        InputError: there are none.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return path / name
        raise InputError(f"{path} holds no best.safetensors: it is no finished run of `foldless train`")
    if not path.is_file():
        raise InputError(f"the model {path} does not exist; give a run's folder or a .safetensors file")
    return path


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(str(file), framework="pt") as content:
            metadata = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} is not a safetensors file ({error}); other weights are never loaded, since they may run code"
        ) from error
    try:
        about = json.loads(metadata["foldless"])
        known = about["format"]
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file} was not written by foldless, so nothing says which network its weights are for"
        ) from error
    if known != FORMAT:
        raise InputError(f"{file} has the format {known!r} where this version reads {FORMAT!r}; take the other version")
    return about, tensors


def _weight(about: dict[str, Any]) -> float:
    weight = about.get("weight", 0.0)
    if not isinstance(weight, int | float) or weight < 0 or not isfinite(weight):
        raise InputError(f"the weight is a number of 0 or more; got {weight!r}")
    return float(weight)


def _names(about: dict[str, Any]) -> tuple[str, ...]:
    names = about.get("trained_on", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"trained_on is a list of names; got {names!r:.60}")
    return tuple(names)


def _check_weights(file: Path, tensors: dict[str, Tensor], described: Mapping[str, Tensor]) -> None:
    """Make sure that the weights are those of the network described, and numbers."""
    if {name: t.shape for name, t in tensors.items()} != {name: t.shape for name, t in described.items()}:
        raise InputError(
            f"{file}: its weights do not fit the network that its recipe describes: the file is damaged, or holds "
            "a network of your own, whose state_dict is for your own code to load"
        )
    if broken := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise InputError(
            f"{file}: {len(broken)} of its {len(tensors)} weights are not finite, {broken[0]} among them: "
            "the file is damaged or its training ran away; take another checkpoint, or train with a smaller --rate"
        )


def _line(error: Exception) -> str:
    """The first line of what an error says, or else its kind."""
    return next(iter(str(error).splitlines()), type(error).__name__)
