"""The published weights of the ICON family as registrations of foldless.

A state dictionary of icon_registration says by its names how the networks are put together and by its shapes how wide
they are, so any composition of its residual U-Nets (`UNet2`, `UNet2ChunkyMiddle`) with `TwoStepRegistration` and
`DownsampleRegistration` can be rebuilt. Images are laid on the lattice that the weights were trained on, in [0, 1]:

| weights | lattice | networks |
|---|---|---|
| knees of ICON | 80 x 192 x 192 | two at half resolution, the first with a bottleneck; two at full |
| knees of GradICON | 80 x 192 x 192 | at a quarter, a half and full resolution; one more at full |
| lung, universal | 175 x 175 x 175 | the same |
| brain | 130 x 155 x 130 | the same |
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foldless.errors import InputError
from foldless.maps import Displacement
from foldless.networks import ResidualUNet
from foldless.registration import Downsample, Expected, Predict, Registration, TwoStep

NO_WEIGHTS = ("identity_map", "identityMap", "spacing", "lmbda")
"""Buffers of icon_registration that follow from the images' size, or that belong to the training."""

NAMES = {
    "downConvs": "down",
    "upConvs": "up",
    "batchNorms": "normalise",
    "middle_dense": "bottleneck.layers",
    "lastConv": "last",
}
"""Parts of their U-Net, and ours."""

UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, SafetensorError)


def load_published(path: Path | str) -> Registration:
    """A published registration from its file, in evaluation mode; tensors only, nothing in the file is run.

    Raises:
        InputError: no such file, no plain state dictionary, or not of the networks that foldless knows.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"the weights {path} do not exist; download them from their authors' release page")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign pickles, which are refused in our words
            content = _read(path)
    except (*UNREADABLE, pickle.UnpicklingError) as error:
        raise InputError(  # in our words alone: torch's advise to run the code
            f"{path} holds no plain tensors, and code in weights is never run; save their state_dict() anew"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} is no state dictionary: it must hold tensors by their names")
    registration = published_registration(content)
    registration.expects = _expected(registration)
    return registration.eval()


def published_registration(tensors: Mapping[str, Tensor]) -> Registration:
    """The registration that a state dictionary of icon_registration describes, with its weights.

    Raises:
        InputError: names or shapes are not those of ICON's residual U-Nets and their compositions.
    """
    weights = {name: value for name, value in tensors.items() if name.split(".")[-1] not in NO_WEIGHTS}
    return _registration(_below(weights, "regis_net") or weights)


def _expected(registration: Registration) -> Expected:
    first = next(weight for name, weight in registration.named_parameters() if name.endswith("down.0.weight"))
    return Expected(first.ndim - 2, first.shape[1] // 2)


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _registration(tensors: Mapping[str, Tensor]) -> Registration:
    parts = {name.split(".")[0] for name in tensors}
    if parts == {"netPhi", "netPsi"}:
        return TwoStep(_registration(_below(tensors, "netPhi")), _registration(_below(tensors, "netPsi")))
    if parts != {"net"}:
        raise InputError(
            f"registrations of icon_registration are made of netPhi and netPsi, or of net; got {sorted(parts)[:5]}"
        )
    inner = _below(tensors, "net")
    if "lastConv.weight" in inner:
        return Predict(_u_net(inner), as_map=Displacement)
    return Downsample(_registration(inner))


def _below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """What belongs to a part, by its names there."""
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}


def _u_net(tensors: Mapping[str, Tensor]) -> ResidualUNet:
    try:
        return _filled(_empty(tensors), tensors)
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        raise InputError(f"names or shapes are not those of ICON's residual U-Net: {error}") from error


def _empty(tensors: Mapping[str, Tensor]) -> ResidualUNet:
    """The network of these shapes, without any numbers."""
    depth = sum(name.startswith("downConvs.") and name.endswith(".weight") for name in tensors)
    down = [tensors[f"downConvs.{level}.weight"] for level in range(depth)]
    up = [tensors[f"upConvs.{level}.weight"] for level in range(depth)]
    channels = [down[0].shape[1], *(weight.shape[0] for weight in down)]
    bottleneck = None
    if (narrow := tensors.get("middle_dense.0.weight")) is not None:
        bottleneck = (narrow.shape[1] // channels[-1], narrow.shape[0])
    with torch.device("meta"):
        return ResidualUNet(down[0].ndim - 2, channels, [weight.shape[1] for weight in up], bottleneck=bottleneck)


def _filled(net: ResidualUNet, tensors: Mapping[str, Tensor]) -> ResidualUNet:
    """The network with a copy of the weights, laid out channels-last, which convolutions prefer."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    renamed = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        kept = value.float() if value.is_floating_point() else value
        renamed[f"{NAMES.get(part, part)}.{rest}"] = kept.clone(
            memory_format=layouts.get(value.ndim, torch.preserve_format)
        )
    net.load_state_dict(renamed, assign=True)
    return net
