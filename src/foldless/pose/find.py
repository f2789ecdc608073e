"""The pose of two scans: candidates from all over, the best of them refined, coarse to fine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float64

from foldless.io import Volume
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
FEW = 36
"""Turns that tell what poses at random say."""
CLEAR = 2.7
"""Times that a pose must say for no search to be needed: right ones were seen to say 3.1 and more, wrong ones 2.2."""
ELSEWHERE = 6.0
"""Coarse voxels within the body that a pose which was not refined must lie apart to count as another."""
NO_GAIN = 0.01
"""Share of what is said, by which a pose must say more than the start to be worth going there."""
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
        began: where the search began.
        clear: how many times `chance` the best pose says, refined on the coarsest level as that is; 0 where the
            images have too few voxels to tell.
        mirrored: what it says with the moving image mirrored, as a share of what it says as it is; 0 likewise.
        overlap: share of the smaller field of view that both show.
    """

    pose: Pose
    score: float
    start: float
    runner_up: float
    chance: float
    began: Pose
    clear: float
    mirrored: float
    overlap: float

    @property
    def settled(self) -> Found:
        """The same, but where the search began if that says as much: to read an image elsewhere blurs it."""
        return replace(self, pose=self.began, score=self.start) if self.start > self.score * (1 - NO_GAIN) else self


def parts(moving: Scan, fixed: Scan) -> int:
    """How many times a whole search says that it is a part further."""
    turns = TURNS[len(_axes(moving, fixed))]
    return min(FEW, turns) + turns + sum(KEPT) + 6


def find_pose(
    moving: Scan,
    fixed: Scan,
    freedom: Freedom = "rigid",
    initial: Pose | None = None,
    on_part: Callable[[], None] = lambda: None,
) -> Found:
    """The transform from fixed to moving world, LPS mm, under which the scans say most of each other.

    Where the images lie, or centre on centre, is refined first. Poses from all over are gone through if that says no
    more than `CLEAR` times what some turns at random say at their best shifts.

    Args:
        moving: an image and what of it counts.
        fixed: the other; swapping the two inverts what is found.
        freedom: what the pose may be.
        initial: the only start, instead of a search.
        on_part: called after every part of the search, of which there are `parts` at most.
    """
    if not in_order(moving.volume, fixed.volume):
        found = _found(fixed, moving, freedom, None if initial is None else initial.inverse, on_part)
        here = fixed.geometry.centre
        return replace(found, pose=found.pose.inverse.about(here), began=found.began.inverse.about(here))
    return _found(moving, fixed, freedom, initial, on_part)


def in_order(moving: Volume, fixed: Volume) -> bool:
    """Whether a pair is taken as it comes: in an order of its own, so that swapping inverts what is found."""
    first, second = [(volume.geometry.size, volume.geometry.spacing) for volume in (moving, fixed)]
    if first != second:
        return first > second
    one, other = moving.array.ravel(), fixed.array.ravel()
    differ = int(np.argmax(one != other))
    return bool(one[differ] >= other[differ])


def _found(moving: Scan, fixed: Scan, freedom: Freedom, initial: Pose | None, on_part: Callable[[], None]) -> Found:
    pair = _Pair.of(moving, fixed, on_part)
    began, runner_up, first = pair.start, 0.0, 0.0
    some = pair.tried(FEW)
    chance = float(np.median([score for score, _ in some]))
    pool = [initial or began]
    if initial is None:
        pool, runner_up = pair.candidates(some, chance)
    for level, kept in enumerate(KEPT):
        pool, scores = pair.best(level, pool[: kept + (level == 0)])
        first = first or scores[0]
        if len(scores) > 1:
            runner_up = scores[1] / max(scores[0], 1e-9)
    mirrored = pair.mirrored(pool[0]) / max(pair.measures[1](pool[0]), 1e-9) if pair.telling else 0.0
    pose = pool[0]
    for free in FREEDOMS[1 : FREEDOMS.index(freedom) + 1]:
        for level in range(1, len(KEPT)):
            _, pose = pair.refined(level, pose, free)
    last = pair.measures[-1]
    clear = first / max(chance, 1e-9) if pair.telling else 0.0
    overlap = float(pair.measures[0].common(pose) / min(view.extent for view in pair.views[0]))
    return Found(pose, last(pose), last(began), runner_up, chance, began.about(pair.here), clear, mirrored, overlap)


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two scans at every level, coarse to fine, and how one may move.

    Attributes:
        levels: spacings, mm.
        views: of the moving and of the fixed image.
        measures: what a pose says at each level.
        axes: along which the images can be moved, one a row.
        here: the centre of the fixed image.
        radius: of `Moves`.
        on_part: told of every part that is done.
    """

    levels: list[float]
    views: list[tuple[View, View]]
    measures: list[Measure]
    axes: Float64[np.ndarray, "axes dim"]
    here: Float64[np.ndarray, " dim"]
    radius: float
    on_part: Callable[[], None]

    @classmethod
    def of(cls, moving: Scan, fixed: Scan, on_part: Callable[[], None]) -> _Pair:
        levels = _levels(moving, fixed)
        views = [(moving.at(spacing), fixed.at(spacing)) for spacing in levels]
        measures = [
            Measure(Points.of(b, most), a, LEAST_SHARE * min(a.extent, b.extent))
            for (a, b), most in zip(views, POINTS, strict=True)
        ]
        radius = max(float(np.linalg.norm(fixed.sides)) / 4, 1e-6)
        return cls(levels, views, measures, _axes(moving, fixed), fixed.geometry.centre, radius, on_part)

    @cached_property
    def start(self) -> Pose:
        """Where the search begins."""
        return _by_headers(*self.views[0], self.measures[0])

    @property
    def telling(self) -> bool:
        """Whether so many points are compared that what they say can be judged."""
        return len(self.measures[0].points.at) >= POINTS[0]

    @property
    def body(self) -> Float64[np.ndarray, "count dim"]:
        return _body(self.views[0][1])

    def refined(self, level: int, pose: Pose, freedom: str = "rigid") -> tuple[float, Pose]:
        moves = Moves.of(freedom, self.axes, self.radius)
        found = refined(self.measures[level], pose.about(self.here), moves, self.levels[level], STEPS[level])
        self.on_part()
        return found

    def best(self, level: int, pool: list[Pose]) -> tuple[list[Pose], list[float]]:
        """The poses refined at a level, best first, each once, and their scores."""
        return _distinct([self.refined(level, pose) for pose in pool], self.body, DISTINCT * self.levels[0])

    def tried(self, turns: int) -> list[tuple[float, Pose]]:
        """What so many turns say, each at its best shift, best first."""
        (moving, fixed), wide = self.views[0], WIDE * self.levels[0]
        found = searched(fixed, moving, rotations(turns, self.axes), wide, self.on_part)
        return sorted(((self.measures[0](pose), pose) for _, pose in found), key=lambda one: -one[0])

    def candidates(self, some: list[tuple[float, Pose]], chance: float) -> tuple[list[Pose], float]:
        """Poses to refine, and the best of the others as a share of the first; from what some turns say."""
        plain = sorted(((self.measures[0](pose), pose) for pose in _plain(*self.views[0])), key=lambda one: -one[0])
        score, near = self.refined(0, max((self.start, plain[0][1]), key=self.measures[0]))
        turns = TURNS[len(self.axes)]
        if turns > FEW and score > CLEAR * chance:
            far = ELSEWHERE * self.levels[0]
            apart = [one for one, pose in some if _apart(pose, near, self.body) > far]
            return [near], max(apart, default=0.0) / score
        tried = self.tried(turns) if turns > FEW else some
        scored = sorted([*plain, *tried], key=lambda one: -one[0])
        return [near, *(pose for _, pose in scored[: KEPT[0]])], 0.0

    def mirrored(self, pose: Pose) -> float:
        """The most that the images say with one of them mirrored, from the best of mirrors all round on."""
        centre, _ = self.views[0][1].moments
        normals = [*self.axes, *(rotations(FEW, self.axes) @ self.axes[0])]
        flips = [pose.linear @ (np.eye(len(centre)) - 2 * np.outer(normal, normal)) for normal in normals]
        turned = [Pose.laying(pose(centre), centre, flip) for flip in flips]
        likely = sorted(turned, key=self.measures[0], reverse=True)[:3]
        best = max((self.refined(0, one) for one in likely), key=lambda one: one[0])
        return self.refined(1, best[1])[0]


def _axes(moving: Scan, fixed: Scan) -> Float64[np.ndarray, "axes dim"]:
    """Along which the images can be moved, one a row."""
    return fixed.axes if len(fixed.axes) <= len(moving.axes) else moving.axes


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

    from scipy.optimize import minimize

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
        if all(_apart(pose, other, body) > apart for other in poses):
            poses.append(pose)
            scores.append(score)
    return poses, scores


def _apart(pose: Pose, other: Pose, body: Float64[np.ndarray, "count dim"]) -> float:
    """How far from each other two poses take the body, mm on average."""
    return float(np.linalg.norm(pose(body) - other(body), axis=1).mean())
