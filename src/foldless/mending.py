"""What is done to the fields of a registration before they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from foldless.io import Volume
from foldless.proofs import Homing, brought_home, care_for, repair_warp
from foldless.registering import Fields, Setting

ROUNDS, SWEEPS = 60, 10
"""How often both are done in turn, at most, and steps home at a time: after many the repair would undo most of them."""
PATIENCE, GAIN = 10, 0.98
"""Rounds that must bring the largest error below this share of what it was."""


def mended(fields: Fields, moving: Volume, fixed: Volume, setting: Setting, provable: bool = True) -> Fields:
    """The fields made provable, if that is asked for, and to keep the recipe's tolerance, where it has one.

    In turns, since nodes that are moved for the one may be missed by the other; a proof comes last.
    """
    if provable:
        fields = made_provable(fields, moving, fixed)
    if not setting.recipe.tolerance:
        return fields
    repairs, homed = fields.repairs, list[Homing]()
    for _ in range(ROUNDS):
        fields = kept_home(fields, moving, fixed, setting)
        fields = made_provable(fields, moving, fixed) if provable else fields
        assert fields.homing is not None
        homed.append(fields.homing)
        home = fields.homing.after <= setting.recipe.tolerance
        if (home and not (provable and any(one.failed for one in fields.repairs))) or _stuck(homed):
            break
    whole = replace(
        homed[-1],
        before=homed[0].before,
        sweeps=sum(one.sweeps for one in homed),
        largest=max(one.largest for one in homed),
    )
    return replace(fields, repairs=repairs, homing=whole)


def _stuck(homed: Sequence[Homing]) -> bool:
    """Whether the last rounds brought next to nothing."""
    return len(homed) > PATIENCE and homed[-1].after > GAIN * homed[-1 - PATIENCE].after > 0


def made_provable(fields: Fields, moving: Volume, fixed: Volume) -> Fields:
    """The fields with every cell that may fold opened, by the smallest change where the images care least."""
    started = perf_counter()
    forward, there = repair_warp(fields.forward, fixed.geometry, care_for(fixed.array), after=fields.pose)
    inverse, back = repair_warp(fields.inverse, moving.geometry, care_for(moving.array), after=fields.back)
    seconds = fields.seconds + perf_counter() - started
    return replace(fields, forward=forward, inverse=inverse, repairs=(there, back), seconds=seconds)


def kept_home(fields: Fields, moving: Volume, fixed: Volume, setting: Setting) -> Fields:
    """The fields moved until they keep the recipe's tolerance, as far as that can be done."""
    started = perf_counter()
    tolerance, percentiles = setting.recipe.tolerance, setting.preparation.percentiles
    both = fields.forward, fields.inverse
    forward, inverse, homing = brought_home(moving, fixed, *both, percentiles, tolerance, SWEEPS)
    seconds = fields.seconds + perf_counter() - started
    return replace(fields, forward=forward, inverse=inverse, homing=homing, seconds=seconds)
