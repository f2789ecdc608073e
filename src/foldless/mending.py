"""What is done to the fields of a registration before they are written."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from foldless.io import Volume
from foldless.proofs import brought_home, care_for, repair_warp
from foldless.registering import Fields, Setting

ROUNDS = 5
"""How often both are done in turn, at most."""


def mended(fields: Fields, moving: Volume, fixed: Volume, setting: Setting, provable: bool = True) -> Fields:
    """The fields made provable, if that is asked for, and to keep the recipe's tolerance, where it has one.

    In turns, since nodes that are moved for the one may be missed by the other; a proof comes last.
    """
    if provable:
        fields = made_provable(fields, moving, fixed)
    if not setting.recipe.tolerance:
        return fields
    repairs = fields.repairs
    for _ in range(ROUNDS):
        fields = kept_home(fields, moving, fixed, setting)
        if not provable:
            break
        fields = made_provable(fields, moving, fixed)
        if not any(one.failed for one in fields.repairs):
            break
    return replace(fields, repairs=repairs)


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
    forward, inverse, homing = brought_home(moving, fixed, fields.forward, fields.inverse, percentiles, tolerance)
    seconds = fields.seconds + perf_counter() - started
    return replace(fields, forward=forward, inverse=inverse, homing=homing, seconds=seconds)
