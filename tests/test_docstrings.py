"""Examples in docstrings run as they are copied: they import what they name."""

import ast
import builtins
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import pyrovae as pv

PARSER = doctest.DocTestParser()
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(pv.__path__, "pyrovae.")
    if not module.name.endswith("__main__")
)


def undefined(example):
    """Return the names that the code of an example neither imports, binds nor finds built in."""
    nodes = list(ast.walk(ast.parse(example)))
    bound = set(dir(builtins))
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    return {node.id for node in nodes if isinstance(node, ast.Name)} - bound


def test_a_name_that_is_not_imported_is_found():
    assert undefined("x = pv.f(torch.zeros(3))") == {"pv", "torch"}
    assert not undefined("import torch, pyrovae as pv\nx = [pv.f(y) for y in torch.ones(2)]")


@pytest.mark.parametrize("module", MODULES)
def test_an_example_that_imports_the_library_imports_all_it_names(module):
    finder = doctest.DocTestFinder(exclude_empty=True, parser=PARSER)
    missing = {}
    for found in finder.find(importlib.import_module(module)):
        code = "".join(example.source for example in found.examples)
        if "pyrovae as pv" in code and undefined(code):
            missing[found.name] = undefined(code)
    assert not missing


def examples(value):
    """Yield the name and the code of the examples of an object, and of a class's own members."""
    objects = [value]
    if inspect.isclass(value):
        members = [member for name, member in vars(value).items() if not name.startswith("_")]
        objects += [getattr(member, "fget", None) or member for member in members]
    for found in objects:
        found = getattr(found, "__func__", found)
        if inspect.isclass(found) or inspect.isfunction(found):
            shown = PARSER.get_examples(found.__doc__ or "")
            yield found.__qualname__, "".join(example.source for example in shown)


def test_examples_of_what_the_reference_has_import_all_they_name(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs" / "_ext"))
    documented = importlib.import_module("public").everything()
    missing = {
        f"{item.name}, {name}": undefined(code)
        for item in documented
        for name, code in examples(item.value)
        if undefined(code)
    }
    assert not missing
