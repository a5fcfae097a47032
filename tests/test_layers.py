"""Imports point down: the tree of the package is drawn from its imports, and has layers."""

import ast
import functools
from collections import defaultdict
from pathlib import Path

import pytest

import pyrovae

ROOT = Path(pyrovae.__file__).parent

ORDER = (
    ("randomness", "types", "parts", "files"),
    ("data", "graphs", "composition"),
    ("weights", "nets"),
    ("distributions", "vae"),
    ("priors", "likelihoods", "measure", "objectives"),
    ("guides", "plots"),
    ("runs",),
    ("train",),
    ("cli", "sklearn"),
    ("__main__",),
)
"""The units of the package from the ground up; a unit imports from layers below its own."""

UNITS, LAYERS, ARROWS = 22, 10, 90


def unit(module):
    """Return the file or folder at the top of the package that a module lies in."""
    return module.split(".")[1]


@functools.cache
def arrows():
    """Return, for each unit, the units that it imports from and the modules that do."""
    found = defaultdict(lambda: defaultdict(set))
    for path in ROOT.rglob("*.py"):
        module = ".".join(["pyrovae", *path.relative_to(ROOT).with_suffix("").parts])
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.ImportFrom) and node.module and node.level == 0):
                continue
            if node.module == "pyrovae":
                names = [f"pyrovae.{alias.name}" for alias in node.names]
            else:
                names = [node.module] if node.module.startswith("pyrovae.") else []
            for name in names:
                if unit(name) != unit(module):
                    found[unit(module)][unit(name)].add(module)
    return found


def units():
    inside = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    return inside | {path.parent.name for path in ROOT.glob("*/__init__.py")}


def test_the_table_names_every_unit():
    assert {name for layer in ORDER for name in layer} == units()
    assert len(units()) <= UNITS
    assert len(ORDER) <= LAYERS


@pytest.mark.parametrize("importer", sorted(units()))
def test_imports_point_down(importer):
    height = {name: level for level, layer in enumerate(ORDER) for name in layer}
    for imported, modules in arrows()[importer].items():
        assert height[imported] < height[importer], f"{sorted(modules)} import up: {imported}"


def test_few_arrows():
    assert sum(len(imported) for imported in arrows().values()) <= ARROWS
