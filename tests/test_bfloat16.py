"""bfloat16 on CPUs: right on every small lattice, and never by the kernels of torch that read what nobody wrote."""

from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foldless.kernels import convolution
from foldless.networks import ConvOnly, EncoderDecoder, ResidualUNet, VoxelMorphUNet
from foldless.networks.layers import lay_out

ROUNDING = 0.03  # of the largest entry: 8 bits, summed over a window

PUT = {  # layer, width of its kernel, what torch computes
    "same 3": (convolution.keep, 3, lambda x, w, b: torch.nn.functional.conv3d(x, w, b, padding=1)),
    "same 5": (convolution.keep, 5, lambda x, w, b: torch.nn.functional.conv3d(x, w, b, padding=2)),
    "halve": (convolution.halve, 3, lambda x, w, b: torch.nn.functional.conv3d(x, w, b, stride=2, padding=1)),
    "double": (convolution.double, 4, lambda x, w, b: torch.nn.functional.conv_transpose3d(x, w, b, 2, 1)),
}


class Watch(TorchDispatchMode):
    """Refuses torch's own gradient of a weight in bfloat16 where a side is shorter than the kernel."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function is torch.ops.aten.convolution_backward.default:
            gradient, x, weight = arguments[:3]
            slides_over = gradient if arguments[7] else x
            pairs = zip(slides_over.shape[2:], weight.shape[2:], strict=True)
            untrusted = x.dtype == torch.bfloat16 and arguments[10][1] and any(n < k for n, k in pairs)
            assert not untrusted, (tuple(x.shape), tuple(weight.shape))
        return function(*arguments, **(named or {}))


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    ("layer", "few"),
    [
        ("same 3", 0),
        ("same 5", 0),
        ("halve", 0),
        ("halve", convolution.FEW),
        ("double", 0),
        ("double", convolution.FEW),
    ],
)
def test_gradients_on_every_small_lattice(layer, few, monkeypatch):
    """By torch's own gradients, and by those of windows written out."""
    monkeypatch.setattr(convolution, "FEW", few)
    ours, width, reference = PUT[layer]
    weight = channels_last((torch.randn(8, 8, *[width] * 3) / width).bfloat16().double())
    bias = torch.randn(8).bfloat16().double()
    for lattice in product(range(1, 7), repeat=3):
        x = channels_last(torch.randn(2, 8, *lattice).bfloat16())
        leaves = [x.clone().requires_grad_(), *(t.float().requires_grad_() for t in (weight, bias))]
        exact = [t.detach().double().requires_grad_() for t in leaves]
        expected = reference(*exact)
        like = channels_last(torch.randn(expected.shape).bfloat16())
        with Watch():
            got = ours(*leaves)
            gradients = torch.autograd.grad(got, leaves, like)
        wanted = torch.autograd.grad(expected, exact, like.double())
        for a, b in zip((got, *gradients), (expected, *wanted), strict=True):
            assert (a.double() - b).abs().max() <= ROUNDING * b.abs().max(), lattice


@pytest.mark.parametrize("whole", [False, True], ids=["float32 weights", "bfloat16 weights"])
@pytest.mark.parametrize(
    "network",
    [
        lambda: ConvOnly(3, features=4, layers=3),
        lambda: ResidualUNet(3, (2, 4, 8), (4, 8)),
        lambda: EncoderDecoder(3, (2, 4, 8), (8, 4, 2)),
        lambda: VoxelMorphUNet(3, encoder=(4, 8), decoder=(8, 8), full=(4, 4)),
    ],
    ids=["ConvOnly", "ResidualUNet", "EncoderDecoder", "VoxelMorphUNet"],
)
def test_no_network_asks_torch_for_a_gradient_it_gets_wrong(network, whole, monkeypatch):
    """Nor does one whose every weight is bfloat16: its last layer meets thin lattices too."""
    monkeypatch.setattr(convolution, "FEW", 0)
    net = network()
    lay_out(net, 3)
    torch.nn.init.normal_(net.last.weight, std=0.1)
    if whole:
        net.bfloat16()
    for lattice in [(1, 1, 1), (2, 2, 2), (2, 6, 6), (6, 3, 6), (4, 9, 8), (8, 8, 3)]:
        images = (channels_last(torch.randn(1, 1, *lattice).bfloat16()) for _ in range(2))
        with Watch():
            net(*images).sum().backward()
