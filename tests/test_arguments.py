"""Arguments of another kind end in a sentence that says what was expected and what came.

Said to whoever has no type checker at run time, as these tests have; so all are tried in one process without.
"""

import json
import subprocess
import sys

import pytest

WRONG = {
    # what is called: (the error, what its sentence says)
    "f.ICON(500.)": ("TypeError", "positional argument"),
    "f.GradICON(1.5)": ("TypeError", "positional argument"),
    "f.LNCC(3.0)": ("TypeError", "positional argument"),
    "f.NCC(1)": ("TypeError", "positional argument"),
    "f.NMI(32)": ("TypeError", "positional argument"),
    "f.MINDSSC(2)": ("TypeError", "positional argument"),
    "f.ICON(at=500.)": ("TypeError", "at is 'jittered' or 'lattice'; got 500.0"),
    "f.GradICON(at='nodes')": ("ValueError", "at is 'jittered' or 'lattice'; got 'nodes'"),
    "f.ICON(noise='much')": ("TypeError", "noise is a number"),
    "f.ICON(noise=-1.)": ("ValueError", "noise is a finite number of 0 or more"),
    "f.ICON(noise_at='here')": ("ValueError", "noise_at is 'points' or 'lattice'"),
    "f.LNCC(window=3.0)": ("TypeError", "window is a whole number; got 3.0"),
    "f.LNCC(window=4)": ("ValueError", "its side is odd"),
    "f.LNCC(sigma=0.)": ("ValueError", "sigma is a finite number above 0"),
    "f.LNCC(sigma=float('nan'))": ("ValueError", "sigma is a finite number above 0"),
    "f.LNCC(squared=1)": ("TypeError", "squared is True or False"),
    "f.LNCC(epsilon=-1.)": ("ValueError", "epsilon is a finite number of 0 or more"),
    "f.NMI(bins=2.5)": ("TypeError", "bins is a whole number"),
    "f.MINDSSC(dilation=0)": ("ValueError", "dilation is 1 or more"),
    "f.MSE()(A.numpy(), A)": ("TypeError", "the warped image is a tensor (batch, channels, *lattice); got a numpy"),
    "f.LNCC()(A, A[0, 0])": ("ValueError", "add the axes it lacks"),
    "f.NCC()(A, A[..., :5])": ("ValueError", "images of one shape"),
    "f.NMI()(A, A, A[0])": ("ValueError", "a mask is a tensor|a mask for images of shape"),
    "f.MINDSSC()(A, phi)": ("TypeError", "the target is a tensor"),
    "f.MSE()(A * 1j, A)": ("TypeError", "holds real numbers"),
    "f.MSE()(A[:, :0], A[:, :0])": ("ValueError", "have voxels to compare"),
    "f.ICON()(u, u, grid)": ("TypeError", "a map was expected, such as Displacement(field)"),
    "f.GradICON()(phi, u, grid)": ("TypeError", "a map was expected"),
    "f.Diffusion()(phi, u.numpy(), grid)": ("TypeError", "a map was expected"),
    "f.ICON()(phi, phi, (8, 8))": ("TypeError", "a lattice is a Grid"),
    "f.inverse_consistency(u.numpy(), u, grid.points())": ("TypeError", "a displacement field is a tensor"),
    "phi(grid)": ("TypeError", "phi.on(grid) reads a map at its nodes"),
    "phi(grid.points().numpy())": ("TypeError", "points is a tensor (batch, dim, *at); got a numpy"),
    "phi(torch.rand(2, 5))": ("ValueError", "add the axes it lacks"),
    "f.Identity(2)(grid)": ("TypeError", "phi.on(grid) reads"),
    "phi.on((8, 8))": ("TypeError", "a lattice is a Grid"),
    "phi @ u": ("TypeError", "a map was expected"),
    "f.invert(u, grid)": ("TypeError", "a map was expected"),
    "f.Displacement(u.numpy())": ("TypeError", "a displacement field is a tensor"),
    "f.Displacement(u[0])": ("ValueError", "one component an axis; got (2, 8, 8)"),
    "f.Exponential(u.numpy())": ("TypeError", "a velocity is a tensor"),
    "f.Affine.from_matrix(torch.eye(3).numpy())": ("TypeError", "an affine matrix is a tensor"),
    "f.Affine(torch.eye(2), torch.zeros(2))": ("ValueError", "add the axes it lacks"),
    "f.sample(A.numpy(), grid.points())": ("TypeError", "values is a tensor"),
    "f.Grid.of((8, 8))": ("TypeError", "an image is a tensor"),
    "f.folds(u.numpy())": ("TypeError", "a displacement field is a tensor"),
    "f.sdlogj(u[0])": ("ValueError", "one component an axis; got (2, 8, 8)"),
    "f.ndv_percent(phi)": ("TypeError", "a displacement field is a tensor"),
    "f.dice([1, 2], [1, 2])": ("TypeError", "a label map is a tensor or an array"),
    "f.summary([1.0])": ("TypeError", "an error is a tensor"),
    "f.inverse_consistency_error(u, u, grid)": ("TypeError", "a map was expected"),
    "f.target_registration_error(u, [[1, 1]], [[1, 1]])": ("TypeError", "a set of landmarks is a tensor"),
    "f.certify_field(u[0].numpy(), torch.eye(2))": ("TypeError", "a displacement is a tensor"),
    "net(A.numpy(), A)": ("TypeError", "image_A is a tensor (batch, channels, *lattice); got a numpy"),
    "net(A, A[0, 0])": ("ValueError", "add the axes it lacks"),
    "net(A, A.expand(2, -1, -1, -1))": ("ValueError", "as many samples, channels and axes"),
    "net(A, A[..., :5])": ("ValueError", "one lattice; got (8, 8) and (8, 5)"),
    "net((255 * A).byte(), A)": ("TypeError", "holds floats; got torch.uint8"),
    "trained(2000 * A - 1000, A)": ("ValueError", "trained on intensities from 0 to 1; got"),
    "trained(A, A / 0)": ("NotFiniteError", "not finite"),
    "trained(A.expand(-1, 3, -1, -1), A.expand(-1, 3, -1, -1))": ("ValueError", "takes images (batch, 1,"),
    "trained(A[..., None], A[..., None])": ("ValueError", "in 2-D; got (1, 1, 8, 8, 1)"),
    "trained(5 * A, A)": ("UserWarning", "prepare images as in training"),
}  # fmt: skip

PREAMBLE = """
import json, sys, warnings
import torch
import foldless as f
from foldless.registration import Expected
warnings.simplefilter("error")
A = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
u = torch.zeros(1, 2, 8, 8)
grid, phi = f.Grid((8, 8)), f.Displacement(u)
net, trained = (f.Predict(f.ConvOnly(2, features=2, layers=2), f.Displacement) for _ in range(2))
trained.expects = Expected(2)
said = {}
for call in json.load(sys.stdin):
    try:
        said[call] = ["no error", repr(eval(call))]
    except Exception as error:
        said[call] = [type(error).__name__, str(error)]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said():
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE], input=json.dumps(list(WRONG)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_argument_ends_in_a_sentence(said, call):
    kind, sentence = WRONG[call]
    got, words = said[call]
    assert got == kind, words
    assert any(part in words for part in sentence.split("|"))
    assert "\n" not in words
