"""Networks: published sizes, start at zero, any image size, and the authors' own implementation as a judge."""

import pytest
import torch
from tables import ANY_SIZE, BATCH_FREE_IN_TRAINING, DIMS, NETWORKS, SHAPES, every_network, stirred
from torch.testing import assert_close

from foldless.kernels.thin import thin
from foldless.networks import MLP, ConvOnly, EncoderDecoder, Refinement, ResidualUNet, VoxelMorphUNet
from foldless.networks.normalisation import BatchNorm

PUBLISHED = {
    "MLP 28x28": (lambda: MLP((28, 28)), 41_260_568),
    "EncoderDecoder 2-D": (lambda: EncoderDecoder(2), 4_145_570),
    "ConvOnly 2-D": (lambda: ConvOnly(2), 30_152),
    "ResidualUNet 2-D": (lambda: ResidualUNet(2), 4_756_902),
    "ResidualUNet 3-D": (lambda: ResidualUNet(3), 17_670_229),
    "VoxelMorphUNet 3-D": (lambda: VoxelMorphUNet(3), 259_675),
    "Refinement 3-D": (lambda: Refinement(3), 27 * 3 * 16 + 16 + 27 * 16 * 3 + 3),
}
ODD = {
    1: [(29,), (64,), (5,), (1,)],
    2: [(29, 31), (32, 32), (7, 18), (1, 9)],
    3: [(17, 13, 19), (16, 16, 16), (9, 8, 5), (1, 2, 6)],
}
SAME = 1e-10  # float64: convolutions may add in another order for another batch
SAME_32 = 1e-5  # float32: the authors' network on the same weights, the same sums in another order
HALF = 0.05  # relative error of the largest output when hidden layers round to bfloat16's 8 bits (0.4 % each)

every_dim = pytest.mark.parametrize("dim", DIMS)


def images(shape, batch=2, dtype=torch.float64):
    return torch.rand(batch, 1, *shape, dtype=dtype), torch.rand(batch, 1, *shape, dtype=dtype)


def network(name, dim, shape=None):
    return stirred(every_network(dim, shape or SHAPES[dim])[name]).double()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes(name):
    build, count = PUBLISHED[name]
    with torch.device("meta"):
        net = build()
    assert sum(p.numel() for p in net.parameters()) == count


@every_dim
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_starts_at_exactly_zero(dim, name):
    net = every_network(dim, SHAPES[dim])[name]
    for training in (True, False):
        out = net.train(training)(*images(SHAPES[dim], dtype=torch.float32))
        assert out.shape == (2, dim, *SHAPES[dim])
        assert (out == 0).all()


@every_dim
@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_step_leaves_zero_and_the_second_reaches_every_parameter(dim, name):
    net = every_network(dim, SHAPES[dim])[name].double()
    a, b = images(SHAPES[dim])
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(2):
        optimiser.zero_grad()
        (net(a, b) - 1).square().sum().backward()
        optimiser.step()
    assert net(a, b).abs().max() > 0
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None
        silent = parameter_name.startswith("up.") and parameter_name.endswith("bias") and "Residual" in name
        normalised = silent and "none" not in name  # a normalisation takes a bias away again
        assert normalised or (parameter.grad != 0).any(), parameter_name


@every_dim
@pytest.mark.parametrize("name", ANY_SIZE)
@pytest.mark.parametrize("which", range(4))
def test_any_image_size(dim, name, which):
    shape = ODD[dim][which]
    out = network(name, dim)(*images(shape))
    assert out.shape == (2, dim, *shape)
    assert torch.isfinite(out).all()
    assert (out != 0).any()


def test_an_mlp_names_the_size_it_was_made_for():
    with pytest.raises(ValueError, match=r"made for images of \(5, 6\); got \(6, 5\)"):
        MLP((5, 6), hidden=(4,))(*images((6, 5), dtype=torch.float32))


def test_a_u_net_wants_as_many_steps_up_as_down():
    with pytest.raises(ValueError, match="2 steps down need as many up; got 1"):
        ResidualUNet(2, down=(2, 4, 8), up=(4,))
    with pytest.raises(ValueError, match="2 encoder widths need as many decoder widths; got 1"):
        VoxelMorphUNet(2, encoder=(4, 8), decoder=(4,))


def test_a_bottleneck_is_bound_to_a_size():
    net = ResidualUNet(2, (2, 4, 6), (5, 7), bottleneck=(12, 9))
    assert net(*torch.rand(2, 1, 1, 12, 16)).shape == (1, 2, 12, 16)
    with pytest.raises(ValueError, match=r"12 nodes on the coarsest lattice; the images have \(3, 5\)"):
        net(*torch.rand(2, 1, 1, 12, 20))


def test_normalisations_are_listed():
    with pytest.raises((ValueError, TypeError), match="batch"):
        ResidualUNet(2, (2, 4), (4,), normalisation="layer")


@every_dim
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_a_batch_is_its_samples(dim, name, training):
    if training and name not in BATCH_FREE_IN_TRAINING:
        pytest.skip("batch normalisation in training is about the batch")
    net = network(name, dim).train(training)
    a, b = images(SHAPES[dim], batch=3)
    whole = net(a, b)
    for i in range(3):
        assert_close(whole[i : i + 1], net(a[i : i + 1], b[i : i + 1]), rtol=0, atol=SAME)
    assert (whole[0] - whole[1]).abs().max() > 1000 * SAME


@every_dim
@pytest.mark.parametrize("name", NETWORKS)
def test_the_order_of_the_images_matters(dim, name):
    net = network(name, dim).eval()
    a, b = images(SHAPES[dim])
    assert (net(a, b) - net(b, a)).abs().max() > 1000 * SAME


@every_dim
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("how", ["images", "autocast"])
def test_in_bfloat16_the_last_layer_stays_in_float32(dim, name, how):
    """Hidden layers follow the dtype of the images; autocast may change what it reaches of them."""
    net = network(name, dim).float().eval()
    a, b = images(SHAPES[dim], dtype=torch.float32)
    expected = net(a, b)
    if how == "images":
        got = net(a.bfloat16(), b.bfloat16())
        assert not torch.equal(got, expected)  # the hidden layers did round
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = net(a, b)
    assert got.dtype == torch.float32
    assert_close(got, expected, rtol=0, atol=HALF * expected.abs().max().item())
    assert (got != got.bfloat16().float()).float().mean() > 0.5  # more than 8 bits in most outputs


def test_gradients_on_two_nodes_hold_nothing_that_was_left_in_memory():
    net = VoxelMorphUNet(3, encoder=(16, 32), decoder=(32, 32), full=(8, 8))
    torch.nn.init.normal_(net.last.weight, std=0.1)
    a, b = (image.bfloat16() for image in images((4, 4, 4), batch=1, dtype=torch.float32))
    for _ in range(20):
        left = [torch.full((n,), float("nan")) for n in (100, 1000, 10_000, 100_000)]
        del left
        net.zero_grad()
        net(a, b).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())


# ICON's U-Net against its authors'


OUR_NAMES = {"downConvs": "down", "upConvs": "up", "batchNorms": "normalise", "lastConv": "last"}


def our_name(name):
    layer, _, rest = name.partition(".")
    return f"{OUR_NAMES[layer]}.{rest}"


def with_weights_of(theirs, ours):
    ours.load_state_dict({our_name(name): value for name, value in theirs.state_dict().items()})
    return ours


@pytest.mark.parametrize("shape", [(29, 31), (32, 64), (17, 13, 19), (33, 18, 20)])
@pytest.mark.parametrize("training", [False, True])
def test_the_residual_u_net_is_icons(shape, training):
    theirs_of = pytest.importorskip("icon_registration.networks", reason="the optional icon_registration").UNet2
    down, up = ((2, 16, 32, 64, 32), (16, 32, 8, 40))  # narrowing, widening and matching steps
    theirs = stirred(theirs_of(len(up), [list(down), list(up)], len(shape)))
    ours = with_weights_of(theirs, ResidualUNet(len(shape), down, up))
    a, b = images(shape, dtype=torch.float32)
    expected, got = (net.train(training)(a, b) for net in (theirs, ours))
    assert expected.abs().max() > 0.01
    assert_close(got, expected, rtol=0, atol=SAME_32)
    for mine, its in zip(ours.normalise, theirs.batchNorms, strict=True):
        assert_close(mine.running_mean, its.running_mean)
        assert_close(mine.running_var, its.running_var)


@pytest.mark.parametrize("shape", [(29, 31), (17, 13, 19)])
@pytest.mark.parametrize("training", [False, True])
def test_the_residual_u_nets_gradients_are_icons(shape, training):
    theirs_of = pytest.importorskip("icon_registration.networks", reason="the optional icon_registration").UNet2
    down, up = ((2, 16, 32, 64, 32), (16, 32, 8, 40))
    theirs = stirred(theirs_of(len(up), [list(down), list(up)], len(shape))).double().train(training)
    ours = with_weights_of(theirs, ResidualUNet(len(shape), down, up).double()).train(training)
    a, b = images(shape)
    toward = torch.randn(len(a), len(shape), *shape, dtype=torch.float64)
    for net in (theirs, ours):
        (net(a, b) * toward).sum().backward()
    mine = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        assert_close(mine[our_name(name)].grad, parameter.grad, rtol=1e-9, atol=SAME)


def test_the_published_u_net_is_icons():
    networks = pytest.importorskip("icon_registration.networks", reason="the optional icon_registration")
    theirs = stirred(networks.tallUNet2(dimension=2), scale=0.02).eval()
    ours = with_weights_of(theirs, ResidualUNet(2)).eval()
    a, b = images((40, 28), dtype=torch.float32)
    expected = theirs(a, b)
    assert_close(ours(a, b), expected, rtol=1e-4, atol=SAME_32)


# VoxelMorph's levels


def voxelmorph(dim, depth=2):
    """Positive weights and no biases: a response has no zeros by chance."""
    net = VoxelMorphUNet(dim, encoder=(3,) * depth, decoder=(3,) * depth, full=(2, 2)).double()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(torch.rand_like(parameter) if name.endswith("weight") else torch.zeros_like(parameter))
    return net


def in_voxels(out):
    scale = torch.tensor([n - 1.0 for n in out.shape[2:]], dtype=out.dtype)
    return out * scale.reshape(1, -1, *[1] * (out.ndim - 2))


def impulse(shape, at):
    image = torch.zeros(1, 1, *shape, dtype=torch.float64)
    image[(0, 0, *at)] = 1
    return image, torch.zeros_like(image)


@every_dim
def test_voxelmorph_moves_with_its_input(dim):
    net, shape = voxelmorph(dim), {1: (61,), 2: (61, 62), 3: (45, 46, 47)}[dim]
    centre = tuple(n // 2 // 4 * 4 for n in shape)
    still = net(*impulse(shape, centre))
    moved = net(*impulse(shape, tuple(c + 4 for c in centre)))
    assert_close(moved, still.roll((4,) * dim, dims=tuple(range(2, 2 + dim))), rtol=0, atol=SAME)
    around = still[(0, 0, *centre)]
    assert around > 0


@every_dim
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_voxelmorphs_padding_keeps_all_levels_aligned(dim, missing):
    """An image padded by hand at its end, to a size that needs no padding, has the same prediction at each node."""
    net, full = voxelmorph(dim), {1: (32,), 2: (20, 24), 3: (16, 12, 20)}[dim]
    inside = tuple(slice(0, n - missing) for n in full)
    a, b = images(tuple(n - missing for n in full), batch=1)
    padded = [torch.zeros(1, 1, *full, dtype=torch.float64) for _ in range(2)]
    for target, image in zip(padded, (a, b), strict=True):
        target[(..., *inside)] = image
    expected = in_voxels(net(*padded))[(..., *inside)]
    assert_close(in_voxels(net(a, b)), expected, rtol=0, atol=SAME * expected.abs().max().item())


@pytest.mark.parametrize("size", [61, 62, 63, 64])
@pytest.mark.parametrize("path", ["coarsest", "skip 2", "skip 1", "images"])
def test_every_level_of_voxelmorph_answers_where_it_was_asked(size, path):
    """One way through the network at a time, with even weights: the response is centred on the impulse.

    Each nearest doubling puts a node's value on itself and the next: half a voxel of its level late.
    """
    doublings = {"coarsest": 3, "skip 2": 2, "skip 1": 1, "images": 0}[path]
    net = voxelmorph(1, depth=3)
    layers = {2: net.decoder[1], 1: net.decoder[2], 0: net.after}  # where what was kept before a doubling joins in
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0 if parameter.ndim > 1 else 0.0)
        for level, layer in layers.items():
            from_below = 2 if level == 0 else 3
            layer.weight[:, :from_below] *= level < doublings
            layer.weight[:, from_below:] *= level == doublings
    out = in_voxels(net(*impulse((size,), (32,))))[0, 0]
    centre = (out * torch.arange(size, dtype=torch.float64)).sum() / out.sum()
    assert abs(centre - (32 + (2**doublings - 1) / 2)) < SAME


# Kuang's refinement


def refinement(dim, **options):
    return stirred(Refinement(dim, hidden=5, **options), 0.3).double()


def seen_by(net, dim, batch=2):
    return torch.randn(batch, dim, *SHAPES[dim], dtype=torch.float64), *images(SHAPES[dim], batch)


@every_dim
@pytest.mark.parametrize("leaky", [True, False])
def test_a_refinement_is_two_convolutions_and_what_was_there(dim, leaky):
    """Torch's own layers with the same weights are the judge."""
    net = refinement(dim, leaky=leaky)
    kind = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[dim]
    layers = [kind(dim, 5, 3, padding="same"), torch.nn.LeakyReLU(0.2), kind(5, dim, 3, padding="same")]
    judge = torch.nn.Sequential(*layers, *([torch.nn.LeakyReLU(0.2)] if leaky else [])).double()
    for theirs, ours in ((judge[0], net.hidden), (judge[2], net.last)):
        theirs.load_state_dict(ours.state_dict())
    u, warped, fixed = seen_by(net, dim)
    assert_close(net(u, warped, fixed), u + judge(u), rtol=0, atol=SAME)
    assert_close(net(u, fixed, warped), net(u, warped, fixed), rtol=0, atol=0)


@every_dim
def test_the_published_refinement_corrects_downwards_at_a_fifth(dim):
    u, warped, fixed = seen_by(None, dim)
    for leaky, downwards in ((True, -0.2), (False, -1.0)):
        net = Refinement(dim, leaky=leaky).double()
        for bias, expected in ((1.0, 1.0), (-1.0, downwards)):
            torch.nn.init.constant_(net.last.bias, bias)
            assert_close(net(u, warped, fixed) - u, torch.full_like(u, expected), rtol=0, atol=SAME)


@every_dim
def test_our_refinement_sees_both_images(dim):
    net = refinement(dim, leaky=False, channels=2)
    u, warped, fixed = seen_by(net, dim)
    still = net(u, warped, fixed)
    assert (net(u, warped + 1, fixed) - still).abs().max() > 1e-3
    assert (net(u, warped, fixed + 1) - still).abs().max() > 1e-3
    assert (net(u, fixed, warped) - still).abs().max() > 1e-3


@every_dim
@pytest.mark.parametrize("options", [{}, {"leaky": False}, {"channels": 2}])
def test_a_refinement_starts_with_what_was_there_and_learns(dim, options):
    net = Refinement(dim, **options).double()
    u, warped, fixed = seen_by(net, dim)
    assert torch.equal(net(u, warped, fixed), u)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(2):
        optimiser.zero_grad()
        (net(u, warped, fixed) - 1).square().mean().backward()
        optimiser.step()
    assert all((p.grad != 0).any() for p in net.parameters())


def test_batch_normalisation_before_the_last_layer_remembers_alike():
    """What evaluation will use: fused with the last layer or apart, the same means and variances after two steps."""
    apart, fused = (BatchNorm(16) for _ in range(2))
    weight, bias = torch.randn(3, 16, 3, 3, 3), torch.randn(3)
    for _ in range(2):
        x = 3 * torch.randn(2, 16, 5, 6, 7) + 2
        wanted = thin(apart(x), weight, bias)
        assert_close(fused.before_thin(x, weight, bias), wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())
    for (name, one), (_, other) in zip(apart.named_buffers(), fused.named_buffers(), strict=True):
        assert_close(one, other, rtol=0, atol=SAME_32, msg=name)
    assert fused.running_mean.min() > 0.3, "after two steps a fifth of the images' own mean of 2"
