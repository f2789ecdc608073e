"""A pair registered by forces in closed form: greedy's update, on a velocity, and in both directions at once.

phi_AB = h ∘ exp(w) ∘ h with h, half an affine map. A step takes S, how unlike two images are, both ways,

    E = [ S(A ∘ phi_AB, B) + S(B ∘ phi_BA, A) ] / 2
    F = Σ over A, -B of (derivative of E by the warped image) ∘ h⁻¹ · (gradient of A ∘ h by its displacement) ∘ exp(w)
    w <- G_total * (w - step · P / max |P|)        P, the running mean of G_update * F

(for B with h⁻¹ and -w) with Gaussians G; within a level exp(w) moves by as much as w does. It is the update of greedy
(Yushkevich et al. 2016), symmetric as in log-domain demons (Vercauteren et al. 2008). Neither image is preferred:
swapping them swaps the maps. While it is sought, w has half the nodes of the images' lattice on every axis; all of them
in the last steps. docs/how-it-registers.md says more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import cos, inf, pi

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.errors import NotFiniteError
from foldless.grid import Grid, per_axis, sample
from foldless.kernels.bands import Bands, along, between, blur, gathered
from foldless.kernels.forces import pulled, read_through
from foldless.landmarks import Landmarks
from foldless.maps import Affine, Exponential, Map, logarithm
from foldless.maps.exponential import exponentiate
from foldless.objective import Terms
from foldless.registration import average_pool
from foldless.similarity import LNCC, Similarity

Image = Float[Tensor, "pair channels *lattice"]
Both = Float[Tensor, "2 channels *lattice"]
Mask = Float[Tensor, "1 1 *lattice"]
OnStep = Callable[[Terms], None]

SHARP = LNCC(sigma=1.0, epsilon=1e-3)
"""What anatomy is brought into register by."""
LOOSE = 0.5
"""Contraction of a factor of exp(w) while w is sought."""
LEAST = 1e-3
"""A force below this, times the voxels, is noise, which no step takes as far as it goes."""
MEMORY = 0.9, 0.999
"""Of Adam, for the derivative and for its square (Kingma and Ba 2015)."""
KEPT, TURNED = 0.8, 0.5
"""Share of the forces before in a running mean; where a voxel is pulled back, so that it does not overshoot."""
NEGLIGIBLE = 1e-3
"""Derivatives of the score by the affine map, by unit-cube units, that Adam takes short steps for."""
ROUNDING = 0.8
"""Voxels of the Gaussian that takes the kinks from a velocity read between its nodes: its flow folds less for that."""
LOOKING_BACK = 10
"""Steps over which a stage's gain is judged."""


@dataclass(frozen=True, kw_only=True)
class Forces:
    """How long and how stiffly a pair is registered.

    Lengths are in voxels of each level's lattice; of the finest axis, where voxels are not cubes.

    Attributes:
        levels: factors by which the lattice is coarser, coarse to fine.
        steps: most steps at each level.
        smooth_update: standard deviation of the Gaussian that smooths every step's force: more is stiffer.
        smooth_total: of the Gaussian that smooths the whole velocity after every step: more holds back large moves.
        step: how far a step carries the voxel that it carries farthest.
        gain: a stage of more than ten steps ends where ten gained less than this share of the score; 0 takes all.
        affine_steps: of Adam for the affine map, at each level of its own; 0 for none.
        affine_rate: Adam's, in unit-cube units; it falls to zero along a cosine.

    Raises:
        ValueError: a level without its number of steps, or numbers out of range.
    """

    levels: tuple[int, ...] = (4, 2, 1)
    steps: tuple[int, ...] = (60, 30, 20)
    smooth_update: float = 1.25
    smooth_total: float = 0.6
    step: float = 1.0
    gain: float = 0.0
    affine_steps: int = 50
    affine_rate: float = 2e-2

    def __post_init__(self) -> None:
        if not self.levels or len(self.levels) != len(self.steps) or min(*self.levels, 1) < 1 or min(self.steps) < 0:
            raise ValueError(
                f"every level has its number of steps; got the levels {self.levels} and the steps {self.steps}"
            )
        lengths = (self.smooth_update, self.smooth_total, self.gain, self.affine_steps)
        if not all(0 <= x < inf for x in lengths) or not 0 < self.step < inf or not 0 < self.affine_rate < inf:
            raise ValueError(f"lengths, steps and gain are 0 or more, the step and the rate above 0; got {self}")

    @property
    def affine_levels(self) -> tuple[int, ...]:
        """Those of the affine map: twice as coarse at first, and without the finest."""
        return (2 * self.levels[0], *(self.levels[:-1] or self.levels)) if self.affine_steps else ()

    @property
    def stages(self) -> list[tuple[int, bool, int]]:
        """Level, whether the velocity is coarse, and steps: half of the last level's are of a fine one."""
        fine = (self.steps[-1] + 1) // 2
        coarse = zip(self.levels, (*self.steps[:-1], self.steps[-1] - fine), strict=True)
        stages = [*((level, True, steps) for level, steps in coarse), (self.levels[-1], False, fine)]
        return [stage for stage in stages if stage[2]]

    @property
    def most_steps(self) -> int:
        """Steps in all, the affine ones first."""
        return self.affine_steps * len(self.affine_levels) + sum(self.steps)


def register_halfway(
    image_A: Image,
    image_B: Float[Tensor, "*other"],
    similarity: Similarity = SHARP,
    forces: Forces | None = None,
    affine_similarity: Similarity | None = None,
    spacing: Sequence[float] | None = None,
    mask_A: Mask | None = None,
    mask_B: Mask | None = None,
    start: tuple[Map, Map] | None = None,
    on_step: OnStep = lambda terms: None,
    landmarks: Landmarks | None = None,
) -> tuple[Map, Map]:
    """phi_AB and phi_BA = phi_AB⁻¹ of one pair: an affine map first, then a flow between its halves.

    With a `start` there is no affine map: the flow goes on from the one nearest to it.

    Args:
        image_A: (1, channels, *lattice), intensities from 0 to 1.
        image_B: on the same lattice.
        similarity: what both are compared by; any will do, its derivative by the warped image is all that is taken.
        forces: how long and how stiffly.
        affine_similarity: another one for the affine map; the same by default.
        spacing: of the lattice's axes, in any unit: only their ratios count; cubes by default.
        mask_A: (1, 1, *lattice) in [0, 1]; what does not count of A has 0.
        mask_B: the same of B.
        start: phi_AB and phi_BA to go on from, as a network predicts them; what of them is finer than the first level's
            lattice is found anew.
        on_step: receives the terms of every step, of which there are `forces.most_steps` at most.
        landmarks: what draws A and B together beside their intensities.

    Raises:
        NotFiniteError: the similarity is not finite.
        ValueError: more than one pair, or images of different shapes.
    """
    if image_A.shape != image_B.shape or len(image_A) != 1:
        shapes = f"{tuple(image_A.shape)} and {tuple(image_B.shape)}"
        raise ValueError(f"two images (1, channels, *lattice) of one shape are registered; got {shapes}")
    forces, images, dim = forces or Forces(), torch.cat([image_A, image_B]), image_A.ndim - 2
    affine_similarity = affine_similarity or similarity
    if mask_A is not None or mask_B is not None:
        whole = torch.ones_like(image_A[:, :1])
        masks = torch.cat([whole if mask is None else mask.to(whole) for mask in (mask_A, mask_B)])
        images, similarity, affine_similarity = (
            torch.cat([images, masks], 1),
            _Masked(similarity),
            _Masked(affine_similarity),
        )
    generator, velocity = images.new_zeros(1, dim, dim + 1), images.new_zeros(1, dim, *[1] * dim)
    if start is not None:
        velocity = logarithm(*start, Grid.of(image_A)).detach()
    for level in forces.affine_levels if start is None else ():
        generator = _affine(average_pool(images, level), generator, affine_similarity, forces, on_step, landmarks)
    matrices = _half_matrices(generator)
    for level, coarse, steps in forces.stages:
        seen_by = _Level(average_pool(images, level), matrices, similarity, spacing or [1.0] * dim, landmarks)
        velocity = seen_by.velocity(velocity, coarse, forces, steps, on_step)
    half = Affine.from_generator(_both(generator) / 2)
    phi: Map = half @ Exponential(_both(_fine(velocity, images))) @ half
    return phi.parted(1)


def _fine(velocity: Tensor, images: Tensor) -> Tensor:
    """A velocity at the images' voxels, without the kinks that it has where it is read between its nodes."""
    if velocity.shape[2:] == images.shape[2:]:
        return velocity
    fine = sample(velocity, Grid.of(images).points(images))
    return along([Bands.of(blur(n, ROUNDING), fine.dtype) for n in fine.shape[2:]], fine)


@dataclass(frozen=True)
class _Masked:
    """A similarity of images whose last channel is a mask: both masks' product weighs."""

    similarity: Similarity

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Tensor:
        both = (warped[:, -1:] * target[:, -1:]).detach()
        return self.similarity(warped[:, :-1], target[:, :-1], both)


@dataclass(frozen=True)
class _Level:
    """Both images on a level's lattice, half an affine map for each, and what they are compared by."""

    images: Both
    matrices: Tensor
    similarity: Similarity
    spacing: Sequence[float]
    landmarks: Landmarks | None = None

    def velocity(self, velocity: Tensor, coarse: bool, forces: Forces, steps: int, on_step: OnStep) -> Tensor:
        """The velocity after so many steps from one on any lattice, at all nodes or, if coarse, half on every axis."""
        lattice, finest = self.images.shape[2:], min(self.spacing)
        halved = [n // 2 + 1 if coarse and n > 3 else n for n in lattice]
        extent = [max(n - 1, 1) * side / finest for n, side in zip(lattice, self.spacing, strict=True)]
        sides = [length / max(m - 1, 1) for length, m in zip(extent, halved, strict=True)]
        update = [
            Bands.of(blur(m, forces.smooth_update / side) @ gathered(n, m), self.images.dtype)
            for n, m, side in zip(lattice, halved, sides, strict=True)
        ]
        smooth, total = (
            [Bands.of(blur(m, sigma / side), self.images.dtype) for m, side in zip(halved, sides, strict=True)]
            for sigma in (forces.smooth_update, forces.smooth_total)
        )
        velocity = along(
            [_between(n, m, velocity.dtype) for n, m in zip(velocity.shape[2:], halved, strict=True)], velocity
        )
        targets = self.images.flip(0)
        in_voxels, scores, pull = per_axis(extent, velocity), list[float](), None
        flow = exponentiate(_both(velocity), LOOSE)
        for _ in range(steps):
            score, by_seen, gradient = self.pull(flow, targets)
            force = pulled(by_seen, gradient, [1.0, -1.0], update) / in_voxels
            if self.landmarks is not None:
                points = self.landmarks.pull(flow, self.matrices, extent, lattice.numel())
                force = force + along(smooth, points) / in_voxels
            pull = force if pull is None else _remembered(pull, force)
            longest = (pull * pull).sum(1).max().sqrt().clamp_min(LEAST / lattice.numel())
            before, velocity = velocity, along(total, velocity - forces.step / longest * pull / in_voxels)
            flow = flow + _both(velocity - before)
            on_step(_terms(score))
            scores.append(score.item())
            if forces.gain and _gained(scores) < forces.gain:
                break
        return velocity

    def pull(self, flow: Tensor, targets: Both) -> tuple[Tensor, Tensor, Tensor]:
        """How unlike each image is to its target through the whole map, and what that is by the flow, half-way.

        Images are compared at the nodes of the other one, which is read as it is: at nodes half-way both were blurred.
        What a voxel pulls by acts where h, of that image, takes it.
        """
        seen, gradient = read_through(self.images, flow, self.matrices)
        if not self.halves:
            return *_scored(self.similarity, seen, targets), gradient
        places = self.places
        seen = sample(self.images, _moved(self.matrices, places + sample(flow, places)))
        score, by_seen = _scored(self.similarity, seen, targets)
        return score, sample(by_seen, places.flip(0)), gradient

    @cached_property
    def halves(self) -> bool:
        """Whether there is an affine part."""
        return not torch.equal(self.matrices, _half_matrices(self.matrices.new_zeros(1, *self.matrices.shape[1:])))

    @cached_property
    def places(self) -> Tensor:
        """Where the halves take the nodes."""
        return _moved(self.matrices, Grid.of(self.images).points(self.images))


def _remembered(before: Tensor, force: Tensor) -> Tensor:
    """The running mean of forces: what pulls to and fro cancels, what pulls on and on stays."""
    onwards = (before * force).sum(1, keepdim=True) > 0
    return torch.where(onwards, force.lerp(before, KEPT), force.lerp(before, TURNED))


def _moved(matrices: Tensor, points: Tensor) -> Tensor:
    """Points (2 or 1, dim, *lattice) through two affine maps, (2, dim, dim + 1)."""
    flat = matrices[..., :-1] @ points.flatten(2) + matrices[..., -1:]
    return flat.reshape(2, *points.shape[1:])


def _between(nodes: int, wanted: int, dtype: torch.dtype) -> Bands:
    """From a lattice's nodes to others of the same extent: read between them or, where those are fewer, averaged."""
    return Bands.of(gathered(nodes, wanted) if nodes > wanted else between(wanted, nodes), dtype)


def _affine(
    images: Both,
    generator: Tensor,
    similarity: Similarity,
    forces: Forces,
    on_step: OnStep,
    landmarks: Landmarks | None = None,
) -> Tensor:
    """The generator of the affine map after a level's steps of Adam.

    Adam is written out: torch's imports its compiler, which takes longer than all the steps.
    """
    dim, steps = generator.shape[1], forces.affine_steps
    extent = [float(n - 1) for n in images.shape[2:]]
    still = generator.new_zeros(2, dim, *[1] * dim)
    mean, square = torch.zeros_like(generator), torch.zeros_like(generator)
    for step in range(steps):
        generator = generator.detach().requires_grad_()
        with torch.enable_grad():
            matrices = _half_matrices(generator)
        seen, gradient = read_through(images, still, matrices)
        score, by_seen = _scored(similarity, seen)
        by_halves = by_matrices(by_seen, gradient, matrices.detach())
        if landmarks is not None:
            by_halves = by_halves + landmarks.by_matrices(matrices.detach(), extent, images[0, 0].numel())
        (slope,) = torch.autograd.grad(matrices, generator, by_halves)
        mean, square = mean.lerp(slope, 1 - MEMORY[0]), square.lerp(slope * slope, 1 - MEMORY[1])
        unbiased, spread = (part / (1 - m ** (step + 1)) for part, m in zip((mean, square), MEMORY, strict=True))
        rate = forces.affine_rate * (1 + cos(pi * step / steps)) / 2
        generator = generator.detach() - rate * unbiased / (spread.sqrt() + NEGLIGIBLE)
        on_step(_terms(score))
    return generator


def by_matrices(by_seen: Tensor, gradient: Tensor, matrices: Tensor) -> Tensor:
    """A score's derivative by affine maps, (2, dim, dim + 1), from those by what is seen and of that by its nodes.

    Summed in float64, so that rounding does not tell the two apart and equal images stay as they are.
    """
    nodes = Grid.of(by_seen).points(by_seen).flatten(2)[0]
    places = torch.cat([nodes, torch.ones_like(nodes[:1])]).double()
    by_nodes = (by_seen[:, :, None] * gradient).sum(1).flatten(2).double() @ places.T
    solved: Tensor = torch.linalg.solve(matrices[..., :-1].mT.double(), by_nodes)  # `gradient` holds the matrix already
    return solved.to(matrices)


def _scored(similarity: Similarity, seen: Both, targets: Both | None = None) -> tuple[Tensor, Tensor]:
    """How unlike what is seen is to its targets, or both to each other, and the derivative of that by what is seen.

    Raises:
        NotFiniteError: the similarity is not finite.
    """
    with torch.enable_grad():
        seen = seen.requires_grad_()
        score = similarity(seen[:1], seen[1:]) if targets is None else similarity(seen, targets)
        (by_seen,) = torch.autograd.grad(score, seen)
    if not torch.isfinite(score):
        raise NotFiniteError(f"the similarity became {score.item()}: look at the images' intensities")
    return score.detach(), by_seen


def _both(tensor: Tensor) -> Tensor:
    """What A is seen through and what B is."""
    return torch.cat([tensor, -tensor])


def _half_matrices(generator: Tensor) -> Tensor:
    half = Affine.from_generator(_both(generator) / 2)
    return torch.cat([half.linear, half.shift[..., None]], dim=2)


def _gained(scores: Sequence[float]) -> float:
    """What the last steps gained, as a share of the score."""
    if len(scores) <= LOOKING_BACK:
        return inf
    return (scores[-1 - LOOKING_BACK] - scores[-1]) / max(abs(scores[-1]), 1e-12)


def _terms(score: Tensor) -> Terms:
    nothing = torch.zeros_like(score)
    return Terms(score, score, nothing, nothing)
