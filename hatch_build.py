"""Compiles the CPU kernel when foldless is installed or packed; without a compiler the plain form serves instead."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
FLAGS += ["-Wno-psabi"]
VARIANTS = {  # the loader takes the widest that the processor runs
    "libfoldless.so": [],
    "libfoldless-avx2.so": ["-march=x86-64-v3"],
    "libfoldless-avx512.so": ["-march=x86-64-v4"],
}


class NativeKernel(BuildHookInterface):
    """The build hook: hatchling calls `initialize` before it packs."""

    def initialize(self, version, build_data):
        folder = Path(self.root, "src/foldless/kernels")
        built = [name for name, flags in VARIANTS.items() if compiled(folder, folder / name, flags)]
        if self.target_name == "wheel" and built:
            build_data["artifacts"] += [f"src/foldless/kernels/{name}" for name in built]
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"


def compiled(folder, library, flags):
    """Whether the variant could be built; without OpenMP if there is none."""
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        print("foldless: no C++ compiler; the plain kernel will serve", file=sys.stderr)
        return False
    with tempfile.TemporaryDirectory() as scratch:
        for openmp in (["-fopenmp"], []):
            built = Path(scratch, library.name)
            if linked(compiler, [*FLAGS, *flags, *openmp], sorted(folder.glob("*.cpp")), built):
                beside = library.with_suffix(".new")
                shutil.copyfile(built, beside)
                beside.replace(library)  # a process that runs the old one keeps it
                return True
    print(f"foldless: {compiler} could not build {library.name}; another form will serve", file=sys.stderr)
    return False


def linked(compiler, flags, sources, library):
    """Whether all sources compile, as many at once as there are processors, the largest first, and link."""
    largest = sorted(sources, key=lambda source: -source.stat().st_size)
    commands = [[compiler, *flags, "-c", "-o", f"{library}.{one.stem}.o", str(one)] for one in largest]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if not all(pool.map(runs, commands)):
            return False
    return runs([compiler, *flags, "-shared", "-o", str(library), *(f"{library}.{one.stem}.o" for one in sources)])


def runs(command):
    """Whether a command ends well."""
    return subprocess.run(command, capture_output=True).returncode == 0
