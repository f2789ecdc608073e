"""The versions that are tested are those that are promised: the newest, and the oldest that pyproject.toml admits."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def canonical(name):
    return re.sub("[-_.]+", "-", name).lower()


def pinned(file):
    lines = (ROOT / file).read_text().splitlines()
    return {canonical(name): Version(version) for name, _, version in (line.partition("==") for line in lines)}


def required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["test"]])
    return {canonical(one.name): one.specifier for one in found}


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
def test_every_requirement_is_pinned_to_what_is_admitted(file):
    versions = pinned(file)
    for name, admitted in required().items():
        assert versions[name] in admitted, f"{file}: {name}"


def test_the_oldest_is_the_floor():
    """triton comes with torch, whose release names its own."""
    versions = pinned("constraints-oldest.txt")
    floors = {
        name: [Version(s.version) for s in admitted if s.operator == ">="] for name, admitted in required().items()
    }
    assert [name for name, floor in floors.items() if not floor] == ["triton"]
    del floors["triton"]
    assert {name: versions[name] for name in floors} == {name: floor for name, (floor,) in floors.items()}
