"""`foldless points`: tables, markups, surfaces and streamlines, of which all but the points stays."""

import json
import struct
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from transform_cases import geometry, itk_of, transform

from foldless.io import Linear, Transform, read_transform, write_transform
from foldless.io.points import read_points


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A warp and a turn."""
    monkeypatch.chdir(tmp_path)
    fixed = geometry("oblique")
    write_transform(transform("smooth warp", fixed), tmp_path / "warp.nii.gz")
    write_transform(transform("rotation", fixed), tmp_path / "turn.tfm")
    return tmp_path


def some_points(count=20):
    return geometry("oblique").index_to_physical(np.random.default_rng(0).uniform(2, 7, (count, 3)))


def csv_file(path, points):
    path.write_text(
        "name,x,y,z\n" + "".join(f"p{k},{x!r},{y!r},{z!r}\n" for k, (x, y, z) in enumerate(points.tolist()))
    )


def fcsv_file(path, points):
    rows = "".join(f"{k},{-x!r},{-y!r},{z!r},0,0,0,1,1,1,0,F,,\n" for k, (x, y, z) in enumerate(points.tolist()))
    path.write_text("# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n# columns = id,x,y,z\n" + rows)


def markups_file(path, points):
    control = [{"id": str(k), "position": point} for k, point in enumerate(points.tolist())]
    path.write_text(json.dumps({"markups": [{"coordinateSystem": "LPS", "controlPoints": control}]}))


RAS = np.array([-1.0, -1.0, 1.0])


def gifti_file(path, points):
    array = nib.gifti.GiftiDataArray((points * RAS).astype(np.float32), intent="NIFTI_INTENT_POINTSET")
    faces = nib.gifti.GiftiDataArray(np.array([[0, 1, 2]], np.int32), intent="NIFTI_INTENT_TRIANGLE")
    nib.save(nib.gifti.GiftiImage(darrays=[array, faces]), path)


def tract_file(path, points):
    lines = [(points * RAS).astype(np.float32)[:7], (points * RAS).astype(np.float32)[7:]]
    nib.streamlines.save(nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4)), str(path))


TETRAHEDRA = [[0, 1, 2], [1, 2, 3]]


def vtk_file(path, points, binary=False):
    head = f"# vtk DataFile Version 4.2\nsurface\n{'BINARY' if binary else 'ASCII'}\nDATASET POLYDATA\n"
    faces = np.array([[3, *face] for face in TETRAHEDRA])
    numbers, cells = points.astype(">f8"), faces.astype(">i4")
    body = [one.tobytes() if binary else " ".join(map(repr, one.ravel().tolist())).encode() for one in (numbers, cells)]
    text = f"{head}POINTS {len(points)} double\n".encode() + body[0] + b"\nPOLYGONS 2 8\n" + body[1] + b"\n"
    path.write_bytes(text)


def ply_file(path, points, order=None):
    kind = {None: "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[order]
    head = (
        f"ply\nformat {kind} 1.0\ncomment SPACE=RAS\nelement vertex {len(points)}\nproperty double x\n"
        "property double y\nproperty double z\nproperty uchar red\nelement face 2\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    rows, faces = [(*point, k) for k, point in enumerate((points * RAS).tolist())], [(3, *face) for face in TETRAHEDRA]
    if order is None:
        body = "".join(" ".join(map(repr, row)) + "\n" for row in (*rows, *faces)).encode()
    else:
        packed = [struct.pack(f"{order}3dB", *row) for row in rows]
        body = b"".join([*packed, *(struct.pack(f"{order}B3i", *face) for face in faces)])
    path.write_bytes(head.encode() + body)


POINT_FILES = {
    "p.vtk": vtk_file, "pb.vtk": partial(vtk_file, binary=True),
    "p.ply": ply_file, "pl.ply": partial(ply_file, order="<"), "pb.ply": partial(ply_file, order=">"),
    "p.csv": csv_file, "p.fcsv": fcsv_file, "p.mrk.json": markups_file, "p.surf.gii": gifti_file,
    "p.trk": tract_file, "p.tck": tract_file,
}  # fmt: skip


@pytest.mark.parametrize("name", POINT_FILES)
def test_points_are_pushed(foldless, home, name):
    """What lies at p in the fixed image lies at warp(p) in the moving one; the inverse brings it back."""
    points = some_points()
    warp = itk_of(transform("smooth warp", geometry("oblique")))
    POINT_FILES[name](home / name, np.array([warp.TransformPoint(point) for point in points.tolist()]))
    output = f"out{name[name.index('.') :]}"
    code, said, complained = foldless("points", "warp.nii.gz", name, "--output", output)
    assert (code, complained) == (0, "")
    assert "by the inverse of the warp" in said
    np.testing.assert_allclose(read_points(output).points, points, atol=2e-3)
    assert foldless("points", "warp.nii.gz", output, "--of", "fixed", "--output", f"again-{name}")[0] == 0
    np.testing.assert_allclose(read_points(f"again-{name}").points, read_points(name).points, atol=2e-3)


def test_the_rest_of_a_table_stays(foldless, home):
    csv_file(home / "p.csv", some_points(2))
    assert foldless("points", "turn.tfm", "p.csv", "--output", "q.csv")[0] == 0
    lines = (home / "q.csv").read_text().splitlines()
    assert lines[0] == "name,x,y,z"
    assert [line.split(",")[0] for line in lines[1:]] == ["p0", "p1"]


@pytest.mark.parametrize("name", [name for name in POINT_FILES if name.endswith(("vtk", "ply"))])
def test_the_rest_of_a_surface_stays(foldless, home, name):
    """Points that stay where they are leave every byte of a binary file, and every word of text."""
    POINT_FILES[name](home / name, some_points(4))
    write_transform(Transform((Linear(np.eye(3, 4)),)), home / "still.tfm")
    assert foldless("points", "still.tfm", name, "--output", f"q-{name}")[0] == 0
    before, after = (home / name).read_bytes(), (home / f"q-{name}").read_bytes()
    if name in ("p.vtk", "p.ply"):
        before, after = ([word[:9] for word in text.split()] for text in (before, after))
    assert after == before


def test_a_surface_may_be_ras(foldless, home):
    vtk_file(home / "p.vtk", some_points(4) * RAS)
    assert np.allclose(read_points("p.vtk", ras=True).points, some_points(4))
    assert foldless("points", "turn.tfm", "p.vtk", "--ras", "--output", "q.vtk", "--of", "fixed")[0] == 0
    moved = read_transform("turn.tfm")(some_points(4))
    np.testing.assert_allclose(read_points("q.vtk").points, moved * RAS, atol=1e-6)


BAD_POINTS = {
    "v.vtk": ("# vtk DataFile Version 3.0\na\nASCII\nDATASET POLYDATA\nPOINTS 9 float\n1 2 3\n", "damaged or missing"),
    "w.vtk": ("# vtk DataFile Version 3.0\na\nASCII\nDATASET STRUCTURED_POINTS\n", "no POINTS"),
    "x.ply": ("ply\nformat ascii 1.0\nelement face 1\nend_header\n", "do not come first"),
    "y.ply": ("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "damaged or missing"),
    "a.csv": ("hello\n1\n", "names x, y"),
    "b.csv": ("x,y,z\n1,2,no\n", "damaged or missing"),
    "c.csv": ("x,y\n1,2\n", "2-D points"),
    "d.mrk.json": ("{}", "damaged or missing"),
    "e.docx": ("", "no file of points"),
    "f.csv": ("x,y,z\n", "no points"),
}


@pytest.mark.parametrize("name", BAD_POINTS)
def test_bad_points(foldless, home, name):
    text, says = BAD_POINTS[name]
    (home / name).write_text(text)
    output = f"out{name[1:]}" if "docx" not in name else "out.docx"
    code, _, complained = foldless("points", "warp.nii.gz", name, "--output", output)
    assert code == 2
    assert complained.count("\n") == 1
    assert says in complained or "points are written as they came" in complained
    assert not (home / output).exists()
