"""Compiles the CPU kernel when foldless is installed or packed; without a compiler the plain form serves instead."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ["-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]


class NativeKernel(BuildHookInterface):
    def initialize(self, version, build_data):
        source = Path(self.root, "src/foldless/kernels/sample.cpp")
        library = source.with_name("libfoldless.so")
        if self.target_name == "wheel" and compiled(source, library):
            build_data["artifacts"].append("src/foldless/kernels/libfoldless.so")
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"


def compiled(source, library):
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        print("foldless: no C++ compiler; the plain kernel will serve", file=sys.stderr)
        return False
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, library.name)
        for extra in (["-fopenmp"], []):
            command = [compiler, *FLAGS, *extra, "-o", str(built), str(source)]
            if subprocess.run(command, capture_output=True).returncode == 0:
                shutil.copyfile(built, library)
                return True
    print(f"foldless: {compiler} could not build the kernel; the plain kernel will serve", file=sys.stderr)
    return False
