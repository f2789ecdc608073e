"""What `foldless register` may be asked."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from foldless.errors import InputError

if TYPE_CHECKING:
    from foldless.cli.register import Register

SMOOTHING = ("smooth_update", "smooth_total")
OF_FORCES = (*SMOOTHING, "gain")
MASKS = ("moving_mask", "fixed_mask")
FROM_A_POSE = ("transform", "placement", "initial", *MASKS)
"""Options of how the images are laid on each other before they are deformed."""
WITHOUT_A_MODEL = (*FROM_A_POSE, "similarity", "optimiser", "weight", "regularity", "landmark_weight")
"""Options of finding a map for a pair alone."""
OF_A_DEFORMATION = ("optimiser", "steps", "rate", "weight", "regularity", "landmark_weight", *OF_FORCES)
MOST_SMOOTHING = 100
"""Voxels; more would smooth a displacement away."""


def check_options(asked: Register) -> None:
    """Refuse what cannot be or would do nothing.

    Raises:
        InputError: says which option, and what it is for.
    """
    if asked.aligned and (asked.model is not None or asked.optimiser == "adam"):
        raise InputError("--aligned leaves out the affine part that forces begin with; it is for no model and no Adam")
    if asked.refine and asked.model is None:
        raise InputError("--refine goes on from what a model predicts; add --model RUN, or leave it out")
    if asked.model is not None:
        _check_model(asked)
    elif asked.optimiser == "adam":
        if wrong := _given(asked, *SMOOTHING):
            raise InputError(f"{wrong} is for --optimiser forces; --weight makes Adam's maps smoother")
        if wrong := _given(asked, "gain", "landmark_weight"):
            raise InputError(f"{wrong} is for --optimiser forces, the default; Adam has no such thing")
    elif wrong := _given(asked, "weight", "regularity", "rate"):
        raise InputError(f"{wrong} is for --optimiser adam; --smooth-update and --smooth-total say how stiff a map is")
    _check_pose(asked)
    _check_numbers(asked)


def _check_model(asked: Register) -> None:
    if wrong := _given(asked, *WITHOUT_A_MODEL):
        raise InputError(f"{wrong} is for finding a map without a model; a model brings its own")
    if not asked.refine and (wrong := _given(asked, *OF_FORCES)):
        raise InputError(f"{wrong} is for finding a map without a model, or for --refine; a model brings its own")
    if asked.rate is not None and asked.refine:
        raise InputError("--rate is for tuning the network by --steps; with --refine no network is tuned")
    if asked.rate is not None and not any(asked.steps or ()):
        raise InputError("--rate is for test-time optimisation; add --steps 50, or leave it out")


def _check_pose(asked: Register) -> None:
    rigid = asked.transform not in (None, "deformable")
    if rigid and (wrong := _given(asked, *OF_A_DEFORMATION)):
        raise InputError(f"{wrong} is for deforming; --transform {asked.transform} deforms nothing")
    if rigid and asked.aligned:
        raise InputError(f"--aligned takes the images as they lie; --transform {asked.transform} finds how they do")
    if asked.initial is not None and asked.placement is not None:
        raise InputError("--initial and --placement both say where to begin; give one of them")
    if asked.aligned and asked.initial is None and asked.placement != "world" and (wrong := _given(asked, *MASKS)):
        raise InputError(
            f"{wrong} needs to know how the images lie; with --aligned add --placement world, or --initial"
        )
    if asked.aligned and asked.placement == "anywhere":
        raise InputError("--aligned takes the images as they lie; it goes with --placement world or centre")


def _check_numbers(asked: Register) -> None:
    levels = asked.refine or (asked.model is None and asked.optimiser != "adam")
    least = int(asked.model is None or asked.refine)
    if asked.steps is not None and (min(asked.steps, default=-1) < least or (not levels and len(asked.steps) > 1)):
        most = "a number for each level, coarse to fine" if levels else "one number"
        raise InputError(f"--steps is {most}, {least} or more")
    if asked.rate is not None and not 0 < asked.rate < inf:
        raise InputError(f"--rate is above 0 and finite; got {asked.rate:g}")
    if asked.tolerance is not None and not 0 < asked.tolerance < inf:
        raise InputError(f"--tolerance is in voxels, above 0 and finite; got {asked.tolerance:g}")
    if asked.moving_landmarks is None and (wrong := _given(asked, "landmark_space", "landmark_weight")):
        raise InputError(f"{wrong} is of landmarks; add --moving-landmarks and --fixed-landmarks")
    if asked.landmark_weight is not None and not 0 < asked.landmark_weight < inf:
        raise InputError(f"--landmark-weight is in voxels, above 0 and finite; got {asked.landmark_weight:g}")
    if asked.gain is not None and not 0 <= asked.gain < 1:
        raise InputError(f"--gain is a share of the score, from 0 to less than 1; got {asked.gain:g}")
    for name in SMOOTHING:
        sigma = getattr(asked, name)
        if sigma is not None and not 0 <= sigma <= MOST_SMOOTHING:
            raise InputError(f"{_option(name)} is 0 to {MOST_SMOOTHING} voxels; got {sigma:g}")


def _given(asked: Register, *names: str) -> str:
    """The first of these options that was given, as it is written; empty if none was."""
    return next((_option(name) for name in names if getattr(asked, name) is not None), "")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
