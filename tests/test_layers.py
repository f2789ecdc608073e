"""Knowledge flows downwards, and commands that need no torch do not wait for it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SWIG = "ignore:builtin type:DeprecationWarning"
"""What SimpleITK 2.4 says while it is imported, and which ends the process where it is an error."""


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", SWIG, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_point_downwards():
    """Every contract of pyproject.toml, on the sources as they are."""
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " kept, 0 broken" in done.stdout


@pytest.mark.parametrize("module", ["foldless", "foldless.cli"])
@pytest.mark.parametrize("heavy", ["torch", "SimpleITK", "matplotlib", "nibabel"])
def test_the_package_and_its_command_line_import_without(module, heavy):
    assert python(f"import sys, {module}; print({heavy!r} in sys.modules)") == "False\n"


def test_the_mathematics_imports_without_files_and_pictures():
    names = [
        "grid",
        "maps",
        "networks",
        "registration",
        "similarity",
        "regularity",
        "weighting",
        "objective",
        "pairwise",
    ]
    imports = ", ".join(f"foldless.{name}" for name in names)
    loaded = python(f"import sys, {imports}; print(*sys.modules)").split()
    assert not {"SimpleITK", "matplotlib", "nibabel", "scipy", "foldless.io", "foldless.data"} & set(loaded)


def test_every_public_name_is_there():
    code = "import foldless; print(*[name for name in foldless.__all__ if getattr(foldless, name, None) is None])"
    assert python(code).split() == []
    assert len(python("import foldless; print(*foldless.__all__)").split()) > 5


def test_the_table_of_contents_lists_each_name_twice_and_no_other():
    """By its module, as names are served, and in `__all__`, as type checkers ask of a stub."""
    stub = ast.parse((ROOT / "src/foldless/__init__.pyi").read_text(encoding="utf-8"))
    served = sorted(name.name for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names)
    (listed,) = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    assert sorted(listed) == served
    assert len(set(served)) == len(served)
