"""A trained model: a registration, the settings it was built from and how it wants its images; one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
from foldless.recipe import Recipe
from foldless.registration import Registration

FORMAT = "foldless-model-1"
CANNOT_BUILD = (KeyError, TypeError, AttributeError, ValueError, OverflowError, RuntimeError, InputError)


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

    def save(self, path: Path) -> None:
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

        write_whole(path, fill)

    @classmethod
    def load(cls, path: Path) -> Model:
        """A model from its file, or from a run's folder (its best checkpoint); nothing is unpickled.

        Raises:
            InputError: no such file, or not a model of foldless.
        """
        file = weights_file(path)
        about, tensors = _read(file)
        try:
            recipe = Recipe.from_dict(about["recipe"])
            preparation = Preparation.from_dict(about["preparation"])
            weight = float(about.get("weight", 0.0))
            trained_on = tuple(map(str, about.get("trained_on", ())))
            with torch.device("meta"):  # shapes alone, however much memory the recipe asks for
                shapes = _shapes(build_registration(recipe, preparation.lattice).state_dict())
        except CANNOT_BUILD as error:
            raise InputError(f"{file} describes a model that this version cannot build: {error}") from error
        if shapes != _shapes(tensors):
            raise InputError(
                f"{file}: its weights do not fit the network that its recipe describes: the file is damaged, or holds "
                "a network of your own, whose state_dict is for your own code to load"
            )
        registration = build_registration(recipe, preparation.lattice)
        registration.load_state_dict(tensors)
        registration.eval()
        return cls(registration, recipe, preparation, trained_on, weight)


def weights_file(path: Path) -> Path:
    """The weights of a run's folder, its best checkpoint; of a file, the file itself.

    Raises:
        InputError: there are none.
    """
    if path.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return path / name
        raise InputError(f"{path} holds no best.safetensors: it is no finished run of `foldless train`")
    if not path.is_file():
        raise InputError(f"the model {path} does not exist; give a run's folder or a .safetensors file")
    return path


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


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
        if about["format"] != FORMAT:
            raise KeyError
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{file} was not written by foldless, so nothing says which network its weights are for"
        ) from error
    return about, tensors
