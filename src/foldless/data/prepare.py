"""How a volume becomes what a network sees: one lattice, one orientation, intensities in [0, 1].

The same description prepares the training images and, at registration, the two images of a user.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from foldless.errors import InputError
from foldless.io import Geometry, Volume, centred_lattice, reoriented, resampled
from foldless.io.findings import in_mm

Placement = Literal["centre", "world"]


@dataclass(frozen=True)
class Preparation:
    """Where each image's lattice lies and how its intensities are scaled.

    Attributes:
        lattice: nodes on each array axis.
        spacing: mm between nodes on each array axis.
        placement: "centre" lays the lattice on each image's own centre, node on voxel; "world" is one lattice in
            scanner space, read through the headers.
        origin: of the world lattice, LPS mm in x, y, z.
        percentiles: intensities that become the two ends of `intensities`; beyond, clamped.
        intensities: what the network was trained to see.
    """

    lattice: tuple[int, ...]
    spacing: tuple[float, ...]
    placement: Placement = "centre"
    origin: tuple[float, ...] | None = None
    percentiles: tuple[float, float] = (1.0, 99.0)
    intensities: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        numbers = (self.lattice, self.spacing, self.percentiles, self.intensities, self.origin or (0.0,) * self.dim)
        if (
            not all(isinstance(n, int) and n > 0 for n in self.lattice)
            or not all(isinstance(x, int | float) and isfinite(x) for some in numbers for x in some)
            or [len(some) for some in numbers] != [self.dim, self.dim, 2, 2, self.dim]
            or min(self.spacing, default=0) <= 0
            or self.placement not in get_args(Placement)
            or not 0 <= self.percentiles[0] <= self.percentiles[1] <= 100
            or self.intensities[0] >= self.intensities[1]
        ):
            raise InputError(f"a lattice, its spacing and the scaling of intensities do not fit each other: {self}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preparation:
        """From plain values, such as a model file holds.

        Raises:
            InputError: they describe no preparation.
        """
        known: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**known)

    @property
    def dim(self) -> int:
        return len(self.lattice)

    def geometry(self, image: Geometry) -> Geometry:
        """The network's lattice for an image (already in the common orientation)."""
        if self.placement == "world" and self.origin is not None:
            identity = tuple(np.eye(self.dim).ravel().tolist())
            return Geometry(self.lattice[::-1], self.spacing[::-1], self.origin, identity)
        return centred_lattice(image, self.lattice, self.spacing[::-1])

    def image(self, volume: Volume) -> tuple[NDArray[np.float32], Geometry]:
        """The network's view of a volume: intensities (*lattice), and where that lattice lies.

        Outside the volume its border continues, as displacements do: a black frame around a crop is an edge that no
        anatomy has, and registering frames costs Dice.
        """
        volume = reoriented(volume)
        geometry = self.geometry(volume.geometry)
        _note_size(volume, geometry)
        return self.read(volume, geometry), geometry

    def read(self, volume: Volume, geometry: Geometry) -> NDArray[np.float32]:
        """The intensities of a volume on any lattice in its world; outside the volume its border continues."""
        low, high = self.intensities
        scaled = normalised(resampled(volume, geometry, order=1, extend=True).array, volume.array, self.percentiles)
        return np.float32(low) + np.float32(high - low) * scaled

    def labels(self, volume: Volume) -> NDArray[np.int32]:
        """A label map on the same lattice, nearest neighbour."""
        volume = reoriented(volume)
        return resampled(volume, self.geometry(volume.geometry), order=0).array


def _note_size(volume: Volume, lattice: Geometry) -> None:
    """Warn if an image and the lattice that it is laid on differ tenfold in all their sides."""
    own, seen = (np.array(geometry.size) * geometry.spacing for geometry in (volume.geometry, lattice))
    if (own / seen).max() <= 0.1 or (own / seen).min() >= 10:
        warnings.warn(
            f"{volume.path} measures {in_mm(own)}, but the lattice that it is laid on {in_mm(seen)}: check the voxel "
            "sizes in the headers (dots per inch of a picture count as millimetres, pixels without them as 1 mm)",
            stacklevel=3,
        )


def normalised(
    array: NDArray[np.float32], reference: NDArray[np.float32], percentiles: tuple[float, float]
) -> NDArray[np.float32]:
    """`array` scaled so that the percentiles of `reference` become 0 and 1, clamped.

    An image that is nearly all background has equal percentiles; then its minimum and maximum serve.
    """
    low, high = np.percentile(reference, percentiles)
    if high <= low:
        low, high = float(reference.min()), float(reference.max())
    scale = max(float(high - low), 1e-20)
    return np.clip((array - np.float32(low)) / np.float32(scale), 0, 1).astype(np.float32)
