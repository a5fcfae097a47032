"""Each public name is there when it is the first that a process uses."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae

ROOT = Path(pyrovae.__file__).parent
STUB = ast.parse((ROOT / "__init__.pyi").read_text())
MODULES = {
    alias.name: (node.module or "").replace(".", "/")
    for node in STUB.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
    if (ROOT / (node.module or "").replace(".", "/") / f"{alias.name}.py").exists()
}
"""The public modules that are files, with the folders that they are in."""


def imported(folder):
    """Return the modules of a folder that importing the folder imports."""
    tree = ast.parse((ROOT / folder / "__init__.py").read_text())
    home = ".".join(["pyrovae", *folder.split("/")])
    return {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == home
        for alias in node.names
    }


@pytest.mark.parametrize("name", sorted(name for name, folder in MODULES.items() if folder))
def test_a_folder_imports_its_public_modules(name):
    assert name in imported(MODULES[name])


def test_modules_are_there_in_a_fresh_session():
    code = "import pyrovae as pv; pv.types.Target; pv.paths.linear; pv.measure.novelty.surprise"
    subprocess.run([sys.executable, "-c", code], check=True)
