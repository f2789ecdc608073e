"""How the process asks the system for memory."""

import ctypes
import os
import subprocess
import sys

import pytest

from foldless import memory

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's allocator")


class Library:
    """Stands in for the C library, and remembers what it was told."""

    def __init__(self):
        self.told = {}

    def mallopt(self, name, value):
        self.told[name] = value


@linux
def test_the_allocator_is_told_once_to_keep_what_is_freed(monkeypatch):
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(os, "environ", {})
    memory.settle_memory()
    assert library.told == {-1: 1 << 30, -3: memory.LARGE}
    assert os.environ == {"THP_MEM_ALLOC_ENABLE": "1"}


@linux
def test_what_the_user_has_set_stays(monkeypatch):
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(os, "environ", {"MALLOC_ARENA_MAX": "1", "THP_MEM_ALLOC_ENABLE": "0"})
    memory.settle_memory()
    assert library.told == {}
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


HOLES = """
import os, sys
from foldless.memory import settle_memory
settle_memory()
import torch
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20
kept = [torch.ones(1 << 22) for _ in range(20)]  # 16 MiB each
before = resident()
del kept[1::2]
print(before - resident())
"""


@linux
def test_large_tensors_go_back_to_the_system():
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "THP_"))}
    found = subprocess.run([sys.executable, "-c", HOLES], env=bare, capture_output=True, text=True, check=True)
    assert int(found.stdout) > 150  # of the 160 MiB in ten holes


FREED = """
import ctypes, resource, sys
from foldless.memory import settle_memory
if sys.argv[1] == "settled":
    settle_memory()
import torch
for _ in range(3):
    torch.ones(1 << 20)  # 4 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(1 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@linux
def test_memory_that_was_freed_is_used_again_without_asking_the_system():
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "THP_"))}
    found = subprocess.run(
        [sys.executable, "-c", FREED, "settled"], env=bare, capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 8 * 1024  # pages; 50 tensors have 51200, some of which find their place late
