"""Every map, network, similarity and regularity that the laws run over: one line here tests a new one."""

from collections.abc import Callable
from math import pi

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

from foldless.grid import Grid, per_axis
from foldless.maps import Affine, CubicSpline, Displacement, Exponential, Identity, Map
from foldless.networks import MLP, ConvOnly, EncoderDecoder, ResidualUNet, VoxelMorphUNet
from foldless.regularity import ICON, Certified, Diffusion, GradICON, Regularity
from foldless.similarity import LNCC, MINDSSC, MSE, NCC, NMI, Similarity

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")

DIMS = (1, 2, 3)
SHAPES = {1: (13,), 2: (11, 14), 3: (7, 9, 8)}
LARGE = {1: (65,), 2: (33, 41), 3: (17, 21, 19)}  # for what is only true of smooth fields
SLACK = 1e-12  # float64 arithmetic in another order, of numbers about 1
SLACK_32 = 2e-5  # the same in float32


def random_points(dim: int, batch: int = 1, count: int = 50, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(batch, dim, count, dtype=torch.float64)


def smooth(shape: tuple[int, ...], voxels: float, batch: int = 1) -> Tensor:
    """A displacement in unit-cube units: waves of at most one period and `voxels` of amplitude, random phases."""
    grid = Grid(shape)
    x = grid.points(torch.zeros((), dtype=torch.float64))
    phase = 2 * pi * torch.rand(batch, grid.dim, grid.dim, *[1] * grid.dim, dtype=torch.float64)
    waves = torch.sin(2 * pi * x[:, None] + phase).prod(2)
    return voxels * waves * per_axis(grid.voxel, waves)


def smooth_image(shape: tuple[int, ...], batch: int = 1, channels: int = 1) -> Tensor:
    """Intensities in [0, 1]."""
    x = Grid(shape).points(torch.zeros((), dtype=torch.float64))
    ones = [1] * len(shape)
    frequency = 1 + 2 * torch.rand(batch, channels, len(shape), *ones, dtype=torch.float64)
    phase = 2 * pi * torch.rand(batch, channels, len(shape), *ones, dtype=torch.float64)
    return 0.5 + 0.5 * torch.sin(2 * pi * frequency * x[:, None] + phase).prod(2)


def random_affine(dim: int, batch: int = 1) -> Affine:
    """Near the identity and without any symmetry."""
    linear = torch.eye(dim, dtype=torch.float64) + 0.1 * torch.randn(batch, dim, dim, dtype=torch.float64)
    return Affine(linear, 0.05 * torch.randn(batch, dim, dtype=torch.float64))


def every_map(dim: int, batch: int = 1) -> dict[str, Map]:
    """Float64, smooth, without folds."""
    affine = random_affine(dim, batch)
    displacement = Displacement(smooth(SHAPES[dim], 0.5, batch))
    coarse = Displacement(smooth(tuple(n // 2 for n in SHAPES[dim]), 0.2, batch))
    exponential = Exponential(smooth(SHAPES[dim], 0.5, batch))
    return {
        "identity": Identity(dim),
        "affine": affine,
        "displacement": displacement,
        "coarse displacement": coarse,
        "exponential": exponential,
        "cubic spline": CubicSpline(pad(smooth(SHAPES[dim], 0.3, batch), [3] * 2 * dim)),  # it ends at rest
        "composition": affine @ displacement @ exponential,
        "composition of lattices": coarse @ displacement,
    }


MAPS = tuple(every_map(1))
INVERTIBLE = ("identity", "affine", "exponential", "affine of exponential")
NO_CLOSED_FORM = ("displacement", "coarse displacement", "cubic spline", "composition", "composition of lattices")


def every_network(dim: int, shape: tuple[int, ...]) -> dict[str, nn.Module]:
    """Narrow forms; the published widths are counted in test_networks."""
    down, up = (2, 6, 8, 5), (4, 7, 6)
    return {
        "MLP": MLP(shape, hidden=(20, 10)),
        "EncoderDecoder": EncoderDecoder(dim, down=(2, 8, 12), up=(12, 10, 8)),
        "ConvOnly": ConvOnly(dim, features=3, layers=4),
        "ResidualUNet": ResidualUNet(dim, down, up),
        "ResidualUNet instance": ResidualUNet(dim, down, up, normalisation="instance"),
        "ResidualUNet none": ResidualUNet(dim, down, up, normalisation="none"),
        "VoxelMorphUNet": VoxelMorphUNet(dim, encoder=(4, 5, 6), decoder=(6, 5, 4), full=(3, 3)),
    }


NETWORKS = tuple(every_network(1, SHAPES[1]))
ANY_SIZE = tuple(name for name in NETWORKS if name != "MLP")
BATCH_FREE_IN_TRAINING = tuple(name for name in NETWORKS if name != "ResidualUNet")

AS_MAP: dict[str, Callable[[Tensor], Map]] = {"Displacement": Displacement, "Exponential": Exponential}

SIMILARITIES: dict[str, Similarity] = {
    "MSE": MSE(),
    "NCC": NCC(),
    "LNCC": LNCC(window=5),
    "LNCC squared": LNCC(window=5, squared=True),
    "LNCC Gaussian": LNCC(sigma=1.2),
    "LNCC Gaussian squared": LNCC(sigma=1.2, squared=True),
    "NMI": NMI(bins=12),
    "MIND-SSC": MINDSSC(radius=1, dilation=1),
}
SIMILARITY_CASES = tuple((dim, name) for dim in DIMS for name in SIMILARITIES if (dim, name) != (1, "MIND-SSC"))
BLIND_TO_SIGN = ("LNCC squared", "LNCC Gaussian squared", "NMI", "MIND-SSC")
BLIND_TO_CONTRAST = tuple(name for name in SIMILARITIES if name not in ("MSE", "NMI"))

REGULARITIES: dict[str, Regularity] = {
    "ICON": ICON(),
    "ICON on the lattice": ICON(at="lattice"),
    "GradICON": GradICON(),
    "GradICON on the lattice": GradICON(at="lattice"),
    "Diffusion": Diffusion(),
    "Certified": Certified(margin=0.99),  # so that maps which do not fold cost something
}
INVERSE_CONSISTENCIES = tuple(name for name in REGULARITIES if "ICON" in name)
WITHOUT_JITTER = tuple(name for name in REGULARITIES if "lattice" in name or "ICON" not in name)


class Answers(TorchFunctionMode):
    """On a device without numbers, what code asks them for: finite, one squaring, one fold, two places."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nonzero:
            return torch.zeros(2, args[0].ndim, dtype=torch.int64, device=args[0].device)
        if function is torch.Tensor.tolist and args[0].is_meta:
            return [1] * args[0].numel()
        known = {torch.Tensor.__bool__: True, torch.Tensor.__int__: 1, torch.Tensor.item: 1}
        return known[function] if function in known else function(*args, **(kwargs or {}))


def stirred(net: nn.Module, scale: float = 0.1) -> nn.Module:
    """The network with random numbers wherever it starts at zero or one, running statistics included."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += scale * torch.randn_like(parameter)
        for name, buffer in net.named_buffers():
            if "running" in name:
                buffer += scale * torch.rand_like(buffer)
    return net
