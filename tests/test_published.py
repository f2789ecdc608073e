"""Weights of the ICON family: its own modules, with random weights, and what the loader makes of them, say the same."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from tables import smooth_image, stirred

from foldless.errors import InputError
from foldless.grid import Grid
from foldless.published import load_published, published_registration
from foldless.registration import Downsample, Predict, TwoStep

networks = pytest.importorskip("icon_registration.networks", reason="the optional icon_registration")
wrappers = pytest.importorskip("icon_registration.network_wrappers")
losses = pytest.importorskip("icon_registration.losses")

EQUAL = 1e-5  # of the unit cube; float32, and the whole point
NARROW = [[2, 6, 8, 12], [5, 7, 4]]
KNEES = [[2, 6, 512], [16, 8]]  # two halvings of 8 x 12 x 12 end on the 2 x 3 x 3 that theirs is made for


def u_net(dim, channels=NARROW, kind=networks.UNet2):
    """One of their networks with random numbers throughout, displacing by up to a fifth of the cube."""
    net = stirred(kind(len(channels[1]), channels, dim), scale=0.05).eval()
    shape = (8, 12, 12) if kind is networks.UNet2ChunkyMiddle else (33,) * dim
    with torch.no_grad():
        largest = net(*torch.rand(2, 1, channels[0][0] // 2, *shape)).abs().max()
        for parameter in net.lastConv.parameters():
            parameter *= 0.2 / largest
    return wrappers.FunctionFromVectorField(net)


def gradicon(dim):
    """Their networks at a quarter, a half and full resolution, and one more: lung, brain, knees and universal."""
    net = u_net(dim)
    for _ in range(2):
        net = wrappers.TwoStepRegistration(wrappers.DownsampleRegistration(net, dim), u_net(dim))
    return wrappers.TwoStepRegistration(net, u_net(dim))


def knees(channels=KNEES, hires=NARROW):
    """The paper's four networks: two at half resolution, the first with a bottleneck, two at full; 3-D."""
    low = wrappers.TwoStepRegistration(u_net(3, channels, networks.UNet2ChunkyMiddle), u_net(3, channels))
    high = wrappers.TwoStepRegistration(wrappers.DownsampleRegistration(low, 3), u_net(3, hires))
    return wrappers.TwoStepRegistration(high, u_net(3, hires))


THEIRS = {
    "tallUNet2 2-D": (lambda: u_net(2, [[2, 16, 32, 64, 256, 512], [16, 32, 64, 128, 256]]), (40, 28)),
    "tallUNet2 3-D": (lambda: u_net(3, [[2, 16, 32, 64, 256, 512], [16, 32, 64, 128, 256]]), (17, 19, 33)),
    "two channels": (lambda: u_net(2, [[4, 6, 8], [5, 7]]), (21, 20)),
    "bottleneck": (lambda: u_net(3, KNEES, networks.UNet2ChunkyMiddle), (8, 12, 12)),
    "downsampled": (lambda: wrappers.DownsampleRegistration(u_net(2), 2), (25, 38)),
    "two steps": (lambda: wrappers.TwoStepRegistration(u_net(3), u_net(3)), (12, 15, 14)),
    "four networks 2-D": (lambda: gradicon(2), (45, 38)),
    "four networks 3-D": (lambda: gradicon(3), (21, 24, 19)),
    "knees": (knees, (16, 24, 24)),
}


def theirs_and_images(name, batch=2):
    build, shape = THEIRS[name]
    theirs = build().eval()
    channels = 2 if name == "two channels" else 1
    theirs.assign_identity_map((batch, channels, *shape))
    return theirs, *(smooth_image(shape, batch, channels).float() for _ in range(2))


@pytest.mark.parametrize("name", THEIRS)
def test_the_maps_are_theirs(name):
    theirs, a, b = theirs_and_images(name)
    ours = published_registration(theirs.state_dict()).eval()
    grid = Grid.of(a)
    with torch.no_grad():
        expected, got = theirs(a, b), ours(a, b)
        for points in (grid.points().expand(2, -1, *grid.shape), grid.jittered(2, a)):
            difference = (got(points) - expected(points)).abs().max()
            assert difference < EQUAL
            assert (expected(points) - points).abs().max() > 1000 * EQUAL


def test_the_composition_is_theirs():
    def shape_of(registration):
        match registration:
            case TwoStep():
                return shape_of(registration.first), shape_of(registration.second)
            case Downsample():
                return registration.factor, shape_of(registration.inner)
            case Predict():
                return "bottleneck" if registration.net.bottleneck else "net"

    assert shape_of(published_registration(gradicon(2).state_dict())) == (((2, ((2, "net"), "net")), "net"), "net")
    assert shape_of(published_registration(knees().state_dict())) == (((2, ("bottleneck", "net")), "net"), "net")


@pytest.mark.parametrize(("name", "count"), [("GradICON", 4 * 17_670_229), ("knees", 4 * 17_670_229 + 42_478_848)])
def test_the_published_sizes_fit(name, count):
    """Names and shapes only: the whole networks would be 400 MB."""
    tall = [[2, 16, 32, 64, 256, 512], [16, 32, 64, 128, 256]]

    def field(kind=networks.UNet2):
        return wrappers.FunctionFromVectorField(kind(5, tall, 3))

    two = wrappers.TwoStepRegistration
    with torch.device("meta"):
        if name == "knees":
            low = two(field(networks.UNet2ChunkyMiddle), field())
            theirs = two(two(wrappers.DownsampleRegistration(low, 3), field()), field())
        else:
            half = two(wrappers.DownsampleRegistration(field(), 3), field())
            theirs = two(two(wrappers.DownsampleRegistration(half, 3), field()), field())
    ours = published_registration(theirs.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == count


def test_the_weights_are_copies_and_can_be_trained():
    theirs, a, b = theirs_and_images("two steps")
    state = theirs.state_dict()
    ours = published_registration(state)
    before = {name: value.clone() for name, value in state.items()}
    assert all(parameter.requires_grad for parameter in ours.parameters())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 1
    ours.train()(a, b)
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())


# Files


def saved(path, state):
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.trch", "weights.pth"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_files_are_read(tmp_path, file, wrapped):
    """Also those of the whole objective, with the buffers that older versions kept."""
    theirs, a, b = theirs_and_images("two steps")
    state = theirs.state_dict()
    if wrapped:
        whole = losses.InverseConsistentNet(theirs, losses.SSD(), 3600.0)
        state = {**whole.state_dict(), "regis_net.identity_map": torch.zeros(1), "spacing": torch.zeros(3)}
        assert all(name.startswith("regis_net.") or name == "spacing" for name in state)
    ours = load_published(saved(tmp_path / file, state))
    assert not ours.training
    grid = Grid.of(a)
    with torch.no_grad():
        expected = theirs(a, b)(grid.points().expand(2, -1, *grid.shape))
        assert (ours(a, b).on(grid) - expected).abs().max() < EQUAL


class Trap:
    def __reduce__(self):
        return (open, ("sprung", "w"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (pickle.dumps(Trap()), "code in weights is never run"),
        (b"", "no plain tensors"),
        (b"PK\x03\x04 not a zip", "no plain tensors"),
    ],
)
def test_code_and_rubbish_are_refused(tmp_path, monkeypatch, content, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.trch").write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        load_published(tmp_path / "weights.trch")
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_and_other_contents_are_named(tmp_path):
    with pytest.raises(InputError, match="do not exist"):
        load_published(tmp_path / "none.trch")
    with pytest.raises(InputError, match="no state dictionary"):
        load_published(saved(tmp_path / "list.trch", [torch.zeros(2)]))
    with pytest.raises(InputError, match="no state dictionary"):
        load_published(saved(tmp_path / "step.trch", {"step": 3}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: {}, "made of netPhi and netPsi"),
        (lambda state: {"encoder.weight": torch.zeros(2)}, "got .'encoder'."),
        (lambda state: state | {"net.residues.0.weight": torch.zeros(2)}, "ICON's residual U-Net"),
        (lambda state: {k: v for k, v in state.items() if "upConvs.1.weight" not in k}, "ICON's residual U-Net"),
        (lambda state: state | {"net.lastConv.weight": torch.zeros(2, 3, 3, 3)}, "ICON's residual U-Net"),
        (lambda state: state | {"net.downConvs.0.weight": torch.zeros(2)}, "ICON's residual U-Net"),
    ],
)
def test_other_networks_are_refused(change, complaint):
    with pytest.raises(InputError, match=complaint):
        published_registration(change(u_net(2).state_dict()))
