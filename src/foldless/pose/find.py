"""The pose of two scans: candidates from all over, the best of them refined, coarse to fine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64
from scipy.optimize import minimize

from foldless.pose.measure import LEAST_SHARE, Measure, Points
from foldless.pose.rigid import FREEDOMS, Moves, Pose, rotations
from foldless.pose.search import searched
from foldless.pose.views import Scan, View

Freedom = Literal["rigid", "similarity", "affine"]

ACROSS = 24
"""Voxels of the coarsest level across the images."""
TURNS = {0: 1, 1: 1, 2: 36, 3: 240}
"""Turns that are tried, by the axes along which images show anything."""
WIDE = 2.0
"""Coarse voxels between the nodes on which all shifts are tried."""
KEPT = (10, 3, 1)
"""Candidates that are refined at each level, coarse to fine."""
POINTS = (5_000, 20_000, 50_000)
"""Of the fixed image at which images are compared, at each level."""
STEPS = (30, 25, 25)
"""Most steps of refining at each level."""
DISTINCT = 2.0
"""Coarse voxels within the body that two poses must lie apart to count as two."""


@dataclass(frozen=True, eq=False)
class Found:
    """A pose that was found.

    Attributes:
        pose: from fixed to moving world.
        score: normalised mutual information less 1 there.
        start: the same where the search began: by the headers or, where they lie apart, centre on centre.
        runner_up: of the best other pose, as far as it was refined, as a share of the winner's at that level.
        chance: the same of poses at random: median of the turns that were tried.
    """

    pose: Pose
    score: float
    start: float
    runner_up: float
    chance: float


def parts(moving: Scan, fixed: Scan) -> int:
    """How many times a whole search says that it is a part further."""
    return TURNS[len(_axes(moving, fixed))] + sum(KEPT) + 1


def find_pose(
    moving: Scan,
    fixed: Scan,
    freedom: Freedom = "rigid",
    initial: Pose | None = None,
    on_part: Callable[[], None] = lambda: None,
) -> Found:
    """The transform from fixed to moving world, LPS mm, under which the scans say most of each other.

    Args:
        moving: an image and what of it counts.
        fixed: the other; swapping the two inverts what is found.
        freedom: what the pose may be.
        initial: the only start, instead of a search.
        on_part: called after every part of the search, of which there are `parts` at most.
    """
    if _swapped(moving, fixed):
        found = _found(fixed, moving, freedom, None if initial is None else initial.inverse, on_part)
        return replace(found, pose=found.pose.inverse.about(fixed.geometry.centre))
    return _found(moving, fixed, freedom, initial, on_part)


def _axes(moving: Scan, fixed: Scan) -> Float64[np.ndarray, "axes dim"]:
    """Along which the images can be moved, one a row."""
    return fixed.axes if len(fixed.axes) <= len(moving.axes) else moving.axes


def _found(moving: Scan, fixed: Scan, freedom: Freedom, initial: Pose | None, on_part: Callable[[], None]) -> Found:
    levels = _levels(moving, fixed)
    views = [(moving.at(spacing), fixed.at(spacing)) for spacing in levels]
    axes = _axes(moving, fixed)
    here, radius = fixed.geometry.centre, max(float(np.linalg.norm(fixed.sides)) / 4, 1e-6)
    measures = [
        Measure(Points.of(b, most), a, LEAST_SHARE * min(a.extent, b.extent))
        for (a, b), most in zip(views, POINTS, strict=True)
    ]
    start = _by_headers(*views[0], measures[0])
    pool, chance = [initial or start], 0.0
    if initial is None:
        turns = rotations(TURNS[len(axes)], axes)
        others = [
            *_plain(*views[0]),
            *(pose for _, pose in searched(views[0][1], views[0][0], turns, WIDE * levels[0], on_part)),
        ]
        scored = sorted(((measures[0](pose), pose) for pose in others), key=lambda one: -one[0])
        chance = float(np.median([score for score, _ in scored]))
        pool += [pose for _, pose in scored[: KEPT[0]]]
    body, runner_up = _body(views[0][1]), 0.0
    for level, (measure, spacing, kept, steps) in enumerate(zip(measures, levels, KEPT, STEPS, strict=True)):
        moves = Moves.of("rigid", axes, radius)
        best = []
        for pose in pool[: kept + (level == 0)]:
            best.append(refined(measure, pose.about(here), moves, spacing, steps))
            on_part()
        pool, scores = _distinct(best, body, DISTINCT * levels[0])
        if len(scores) > 1:
            runner_up = scores[1] / max(scores[0], 1e-9)
    pose = pool[0]
    for free in FREEDOMS[1 : FREEDOMS.index(freedom) + 1]:
        moves = Moves.of(free, axes, radius)
        for measure, spacing, steps in zip(measures[1:], levels[1:], STEPS[1:], strict=True):
            _, pose = refined(measure, pose.about(here), moves, spacing, steps)
    last = measures[-1]
    return Found(pose, last(pose), last(start), runner_up, chance)


def refined(measure: Measure, pose: Pose, moves: Moves, spacing: float, steps: int) -> tuple[float, Pose]:
    """The best state that BFGS comes across from a pose on, and its score; its first step is a voxel of the level."""
    best = measure(pose), pose

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        moved = pose.moved(parameters * spacing, moves)
        score, slope = measure.with_slope(moved, moves)
        if score > best[0]:
            best = score, moved
        return -score, -slope * spacing

    minimize(loss, np.zeros(moves.count), jac=True, method="BFGS", options={"maxiter": steps, "gtol": 1e-5})
    return best


def _levels(moving: Scan, fixed: Scan) -> list[float]:
    """Spacings, mm, coarse to fine."""
    extent = min(_mean(scan.sides[scan.deep]) for scan in (moving, fixed))
    finest = max(_mean(np.array(scan.geometry.spacing)[scan.deep]) for scan in (moving, fixed))
    coarse = max(extent / ACROSS, finest)
    return [coarse, max(coarse / 2, finest), max(coarse / 4, finest)]


def _by_headers(moving: View, fixed: View, measure: Measure) -> Pose:
    """Where the headers lay the images or, where those lie apart, centre on centre."""
    here = fixed.geometry.centre
    stay = Pose.laying(here, here)
    return stay if measure.share(stay) > 0 else Pose.laying(moving.geometry.centre, here)


def _plain(moving: View, fixed: View) -> list[Pose]:
    """Centres on centres: of the fields of view, of mass; and axes on axes."""
    laid = [Pose.laying(moving.geometry.centre, fixed.geometry.centre)]
    (there, axes_there), (here, axes_here) = moving.moments, fixed.moments
    laid.append(Pose.laying(there, here))
    dim = len(here)
    for k in range(2 ** (dim - 1)):
        signs = np.array([1.0 if k >> axis & 1 else -1.0 for axis in range(dim)])
        turn = axes_there @ np.diag(signs) @ axes_here.T
        signs[-1] *= np.sign(np.linalg.det(turn))
        laid.append(Pose.laying(there, here, axes_there @ np.diag(signs) @ axes_here.T))
    return laid


def _mean(lengths: np.ndarray) -> float:
    return float(np.exp(np.log(lengths).mean())) if lengths.size else 1.0


def _body(view: View) -> Float64[np.ndarray, "count dim"]:
    """Points about what the fixed image shows: its centre of mass and as far from it as its mass reaches."""
    centre, _ = view.moments
    reach = np.abs(view.geometry.corners - view.geometry.centre).max() / 2
    return np.concatenate([centre + reach * np.eye(len(centre)), centre - reach * np.eye(len(centre))])


def _distinct(
    scored: list[tuple[float, Pose]], body: Float64[np.ndarray, "count dim"], apart: float
) -> tuple[list[Pose], list[float]]:
    """Poses and scores, best first, without those that lie near a better one."""
    poses: list[Pose] = []
    scores: list[float] = []
    for score, pose in sorted(scored, key=lambda one: -one[0]):
        if all(np.linalg.norm(pose(body) - other(body), axis=1).mean() > apart for other in poses):
            poses.append(pose)
            scores.append(score)
    return poses, scores


def _swapped(moving: Scan, fixed: Scan) -> bool:
    """Whether the pair is taken the other way round: in an order of its own, so that swapping inverts what is found."""
    keys = [(scan.geometry.size, scan.geometry.spacing, scan.volume.array.tobytes()) for scan in (moving, fixed)]
    return keys[0] < keys[1]
