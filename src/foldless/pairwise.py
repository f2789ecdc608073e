"""Optimisation for given pairs: of the maps themselves, without a network, or of a trained network's weights.

All are `optimise` on an objective: the maps of `FreeMaps` and `FreeFlow` are parameters like any network's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import cos, isfinite, pi

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foldless.errors import NotFiniteError
from foldless.grid import Grid, sample
from foldless.maps import Affine, Displacement, Exponential, Map, compose
from foldless.objective import BaseObjective, Objective, Terms
from foldless.registration import Registration, average_pool
from foldless.regularity import Regularity, roughness
from foldless.similarity import Similarity
from foldless.stepping import Provably
from foldless.weighting import Weight

Image = Float[Tensor, "batch channels *lattice"]
OnStep = Callable[[Terms], None]

TEST_TIME_RATE = 2e-5
"""Adam's for a trained network's weights, as published for GradICON, with 50 steps."""


class FreeMaps(Registration):
    """Maps that are parameters themselves: what every tensor of `start` holds is learnt, whatever kind of map it is.

    A registration that looks at no image; it answers for the batch that `start` has.
    """

    def __init__(self, start: Map) -> None:
        super().__init__()
        self.like = start.of_tensors(torch.detach)
        self.tensors = nn.ParameterList()
        self.like.of_tensors(self._adopt)

    def _adopt(self, tensor: Tensor) -> Tensor:
        self.tensors.append(nn.Parameter(tensor.clone()))
        return tensor

    def forward(self, image_A: Image, image_B: Image) -> Map:
        tensors = iter(self.tensors)
        return self.like.of_tensors(lambda _: next(tensors))


class FreeFlow(Registration):
    """Affine maps and flows that are parameters, in both directions the same: phi_BA undoes phi_AB by construction.

    phi_AB = exp(g/2) ∘ exp(v) ∘ exp(g/2) with a generator g of an affine map and a velocity v, and phi_BA is that of -g
    and -v, so that neither image is preferred: v lives half-way. It looks at no image, and answers for doubled batches
    as `Objective` makes them.

    Args:
        generator: (pairs, dim, dim + 1), as of `Affine.from_generator`.
        velocity: (pairs, dim, *lattice), unit-cube units; None for affine maps alone.
    """

    def __init__(self, generator: Tensor, velocity: Tensor | None = None) -> None:
        super().__init__()
        self.generator = nn.Parameter(generator.clone())
        self.velocity = None if velocity is None else nn.Parameter(velocity.clone())

    def forward(self, image_A: Image, image_B: Image) -> Map:
        half = Affine.from_generator(torch.cat([self.generator, -self.generator]) / 2)
        if self.velocity is None:
            return half @ half
        return half @ Exponential(torch.cat([self.velocity, -self.velocity])) @ half


@dataclass(frozen=True)
class Stiff:
    """A regularity, and so many times the roughness of the velocities that the first map is made of.

    Flows that undo each other by construction fulfil every inverse consistency, however rough they are.
    """

    regularity: Regularity
    stiffness: float = 2 / 3

    def __call__(self, phi_AB: Map, phi_BA: Map, grid: Grid) -> Tensor:
        total: Tensor = self.regularity(phi_AB, phi_BA, grid)
        for part in phi_AB.parts:
            if isinstance(part, Exponential):
                total = total + self.stiffness * roughness(part.velocity)
        return total


def optimise_flow(
    image_A: Image,
    image_B: Image,
    similarity: Similarity,
    regularity: Regularity,
    weight: Weight,
    levels: Sequence[int] = (4, 2, 1),
    steps: int = 50,
    rate: float = 5e-3,
    affine_rate: float = 2e-2,
    seed: int = 0,
    on_step: OnStep = lambda terms: None,
    provable: bool = False,
) -> tuple[Map, Map]:
    """phi_AB and phi_BA = phi_AB⁻¹ found for these pairs alone: an affine map first, then with it a flow (`FreeFlow`).

    Args:
        image_A: (batch, channels, *lattice).
        image_B: on the same lattice.
        similarity: what the warped images are compared by.
        regularity: of both maps: for inverse consistency there is only left what interpolation loses, where they change
            too fast, so that a velocity's roughness is better counted as well (`Stiff`).
        weight: how much regularity counts; a copy of it is advanced.
        levels: pooling factors, coarse to fine; the affine map begins twice as coarse and leaves the finest out, and
            the velocity, whose flow is smooth between its nodes, ends on half the finest lattice.
        steps: of Adam, at every level of both.
        rate: Adam's at the start of a level, in unit-cube units; it falls to zero along a cosine.
        affine_rate: the same for the affine map alone.
        seed: of the points; torch's generators are left as they were.
        on_step: receives the terms of every step, of which there are `flow_steps(levels, steps)`.
        provable: whether a step is halved where it makes a cell unprovable (`Provably`).

    Raises:
        NotFiniteError: the objective is no longer finite.
    """
    pairs, dim = image_A.shape[0], image_A.ndim - 2
    generator, weight = image_A.new_zeros(pairs, dim, dim + 1), deepcopy(weight)
    velocity = image_A.new_zeros(pairs, dim, *[1] * dim)
    with _seeded(seed, image_A):
        for level in _affine_levels(levels):
            affine = FreeFlow(generator)
            objective = Objective(affine, similarity, regularity, weight)
            a, b = average_pool(image_A, level), average_pool(image_B, level)
            optimise(objective, a, b, steps, affine_rate, on_step, True, provable)
            generator = affine.generator.detach()
        for level in levels:
            a, b = average_pool(image_A, level), average_pool(image_B, level)
            nodes = Grid.of(average_pool(image_A, max(level, 2 * levels[-1]))).points(a)
            velocity = sample(velocity, nodes.expand(pairs, *[-1] * (dim + 1)))
            flow = FreeFlow(generator, velocity)
            objective = Objective(flow, similarity, regularity, weight)
            optimise(objective, a, b, steps, rate, on_step, True, provable)
            assert flow.velocity is not None
            generator, velocity = flow.generator.detach(), flow.velocity.detach()
        phi: Map = flow(image_A, image_B).of_tensors(torch.detach)
    return phi.parted(pairs)


def flow_steps(levels: Sequence[int], steps: int) -> int:
    """How many steps `optimise_flow` takes in all."""
    return steps * (len(_affine_levels(levels)) + len(levels))


def _affine_levels(levels: Sequence[int]) -> tuple[int, ...]:
    return (2 * levels[0], *(levels[:-1] or levels))


def optimise_maps(
    image_A: Image,
    image_B: Image,
    similarity: Similarity,
    regularity: Regularity,
    weight: Weight,
    start: Map | None = None,
    levels: Sequence[int] = (1,),
    steps: int = 200,
    rate: float = 1e-3,
    seed: int = 0,
    on_step: OnStep = lambda terms: None,
    provable: bool = False,
) -> tuple[Map, Map]:
    """phi_AB and phi_BA that make the objective small, found for these pairs alone; ICON, §4.3 and Fig. 5.

    Args:
        image_A: (batch, channels, *lattice).
        image_B: on the same lattice.
        similarity: what the warped images are compared by.
        regularity: `ICON(noise=1/8)` as in the paper; without noise, inverse consistency alone lets maps fold.
        weight: how much regularity counts; a copy of it is advanced.
        start: where the search begins, and with it the kind of map: of batch 1 for all, or of twice the batch, the maps
            from A to B first, as `registration(torch.cat([A, B]), torch.cat([B, A]))` returns them. By default a
            displacement of zero on the images' lattice.
        levels: pooling factors, coarse to fine. With more than one, displacements and velocities live on the pooled
            lattice of each and go on from the level before; with one, a given start keeps its own lattices.
        steps: of Adam, at every level.
        rate: Adam's; maps are in unit-cube units, in which the paper's is 1e-4.
        seed: of the points and the noise; torch's generators are left as they were.
        on_step: receives the terms of every step.
        provable: whether a step is halved where it makes a cell unprovable (`Provably`).

    Raises:
        NotFiniteError: the objective is no longer finite.
        ValueError: a start of another batch, or without any tensor.
    """
    begin = Displacement(torch.zeros_like(Grid.of(image_A).points(image_A))) if start is None else start
    phi, weight = _both_ways(begin, len(image_A)), deepcopy(weight)
    with _seeded(seed, image_A):
        for level in levels:
            a, b = average_pool(image_A, level), average_pool(image_B, level)
            if start is None or len(levels) > 1:
                phi = _on_lattice(phi, Grid.of(a))
            objective = Objective(FreeMaps(phi), similarity, regularity, weight)
            optimise(objective, a, b, steps, rate, on_step, provable=provable)
            phi = objective.registration(a, b).of_tensors(torch.detach)
    return phi.parted(len(image_A))


def optimise_weights(
    objective: BaseObjective,
    image_A: Image,
    image_B: Image,
    steps: int = 50,
    rate: float = TEST_TIME_RATE,
    seed: int = 0,
    on_step: OnStep = lambda terms: None,
) -> tuple[Map, Map]:
    """phi_AB and phi_BA of a trained registration after some steps on these pairs alone, as GradICON's authors do it.

    The steps are taken by a copy, in evaluation mode: `objective` keeps every bit, so that no pair depends on another.

    Args:
        objective: what was trained; parameters that want no gradient stay as they are.
        image_A: (batch, channels, *lattice).
        image_B: on the same lattice.
        steps: of Adam.
        rate: Adam's.
        seed: of the points; torch's generators are left as they were.
        on_step: receives the terms of every step.

    Raises:
        NotFiniteError: the objective is no longer finite.
        ValueError: no parameter wants a gradient.
    """
    tuned = deepcopy(objective).eval()
    if tuned.tolerance is not None:
        tuned.tolerance.train()
    with _seeded(seed, image_A):
        optimise(tuned, image_A, image_B, steps, rate, on_step)
    with torch.no_grad():
        phi: Map = tuned.registration(torch.cat([image_A, image_B]), torch.cat([image_B, image_A]))
    return phi.parted(len(image_A))


def optimise(
    objective: BaseObjective,
    image_A: Image,
    image_B: Image,
    steps: int,
    rate: float,
    on_step: OnStep = lambda terms: None,
    falling: bool = False,
    provable: bool = False,
) -> None:
    """Steps of Adam on the objective's parameters for one batch of pairs; the rate stays, or falls along a cosine.

    Args:
        objective: whose parameters are learnt that want a gradient.
        image_A: (batch, channels, *lattice).
        image_B: on the same lattice.
        steps: how many, at most.
        rate: Adam's.
        on_step: receives the terms of every step.
        falling: whether the rate falls to zero.
        provable: whether a step is halved where it makes a cell unprovable.

    Raises:
        NotFiniteError: the objective is no longer finite.
        ValueError: no parameter wants a gradient.
    """
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("nothing to optimise: the registration has no parameter that wants a gradient")
    optimiser = torch.optim.Adam(parameters, rate)
    take: Callable[[], object] = optimiser.step
    if provable:
        take = Provably(
            optimiser.step, parameters, lambda: _both_displacements(objective.registration, image_A, image_B)
        )
    with torch.enable_grad():
        for step in range(1, steps + 1):
            terms: Terms = objective(image_A, image_B)
            if not isfinite(terms.total.item()):
                raise NotFiniteError(f"the objective became {terms.total.item()} at step {step}; try a smaller rate")
            if falling:
                optimiser.param_groups[0]["lr"] = rate * (1 + cos(pi * (step - 1) / steps)) / 2
            optimiser.zero_grad(set_to_none=True)
            terms.total.backward()  # type: ignore[no-untyped-call]
            take()
            objective.weight.advance()
            on_step(Terms(*(term.detach() for term in terms)))


def _both_displacements(registration: Registration, image_A: Image, image_B: Image) -> Tensor:
    """What phi_AB and phi_BA add to the nodes of the images' lattice, in voxels, (2 pairs, dim, *lattice)."""
    phi: Map = registration(torch.cat([image_A, image_B]), torch.cat([image_B, image_A]))
    return phi.displacement_on(Grid.of(image_A))


def _both_ways(start: Map, pairs: int) -> Map:
    """The start of both directions of all pairs, each tensor of a batch of its own."""

    def widened(tensor: Tensor) -> Tensor:
        if tensor.shape[0] not in (1, 2 * pairs):
            raise ValueError(
                f"{pairs} pairs start from a map of batch 1 or {2 * pairs} (A to B, then B to A); got {tensor.shape[0]}"
            )
        return tensor.expand(2 * pairs, *tensor.shape[1:])

    return start.of_tensors(widened)


def _on_lattice(phi: Map, grid: Grid) -> Map:
    """The same map with its displacements and velocities read on another lattice."""
    return compose(*(_part_on_lattice(part, grid) for part in phi.parts))


def _part_on_lattice(part: Map, grid: Grid) -> Map:
    if isinstance(part, Displacement | Exponential):
        return part.of_tensors(lambda field: sample(field, grid.points(field)))
    return part


@contextmanager
def _seeded(seed: int, image: Tensor) -> Iterator[None]:
    """Everything random inside comes from the seed, and nothing outside is touched."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if image.is_cuda else []):
        torch.manual_seed(seed)
        yield
