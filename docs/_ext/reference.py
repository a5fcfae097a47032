"""Write the reference: one page for each folder of the package, from its docstrings.

A page has the module docstring of its folder, the public names that are defined there, and the
files with the first line of each. Pages are written before Sphinx reads the sources.
"""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path
from textwrap import indent
from typing import Any

from commands import commands
from docstrings import to_rst
from public import ROOT, Public, everything, modules
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

TABLE = ".. list-table::\n   :class: names\n   :widths: 1 3\n"
PAGES = Path(__file__).parents[1] / "reference"


def folders() -> list[str]:
    """Return the pages of the reference: the top of the package, and each of its folders."""
    return ["pyrovae", *sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))]


def page(folder: str) -> str:
    """Return the page of a folder: its own names, then those of each public module in it."""
    title = folder if folder == "pyrovae" else f"pyrovae.{folder}"
    names = [item for item in everything() if item.page == folder]
    here = [item for item in names if item.holder in ("pyrovae", title)]
    parts = [_title(title, "="), f".. py:module:: {title}", to_rst(_docstring(_init(folder)))]
    parts += commands() if folder == "cli" else _listed(here)
    for holder in [name for name in modules() if name not in ("pyrovae", title)]:
        inside = [item for item in names if item.holder == holder]
        if inside:
            text = to_rst(inspect.getdoc(modules()[holder]) or "", modules()[holder])
            parts += [_title(holder, "-"), f".. py:module:: {holder}", text, *_listed(inside)]
    others = [item for item in names if item.holder not in modules()]
    if others:
        parts += [_title("Taken and returned", "-"), *_listed(others)]
    return "\n\n".join([*parts, _files(folder)]) + "\n"


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}"


def _listed(names: list[Public]) -> list[str]:
    """Return a table of names, and the description of each."""
    return [_table(names), *map(_documented, names)] if names else []


def _init(folder: str) -> Path:
    return ROOT / ("" if folder == "pyrovae" else folder) / "__init__.py"


def _docstring(path: Path) -> str:
    return inspect.cleandoc(ast.get_docstring(ast.parse(path.read_text())) or "")


def _sentence(docstring: str) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join(to_rst(docstring.split("\n\n")[0]).split())


def _table(names: list[Public]) -> str:
    rows = [
        f"   * - :py:obj:`~{item.name}`\n     - {_sentence(described(item))}"
        for item in sorted(names, key=lambda item: item.name.lower())
    ]
    return "\n".join([TABLE, *rows])


def described(item: Public) -> str:
    """Return the docstring of an object, or what stands under a constant or an alias."""
    if inspect.isclass(item.value) or inspect.isroutine(item.value):
        return inspect.cleandoc(item.value.__doc__ or "")
    last = item.name.rpartition(".")[2]
    holders = [name for name, held in sys.modules.items() if _has(held, last, item.value)]
    texts = [_under(name, last) for name in (item.module, *sorted(holders))]
    return next(filter(None, texts), "")


def _has(module: Any, name: str, value: Any) -> bool:
    own = getattr(module, "__name__", "").startswith("pyrovae.")
    return own and vars(module).get(name) is value


def _under(module: str, name: str) -> str:
    """Return what stands under a constant in the source of a module, "" if nothing."""
    lines = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name), [])
    return "\n".join(lines).strip()


def _documented(item: Public) -> str:
    if inspect.isclass(item.value):
        called = getattr(vars(item.value).get("__call__"), "__doc__", None)
        return (
            f".. autoclass:: {item.name}\n   :members:"
            + "\n   :special-members: __call__" * bool(called)
        )
    if inspect.isroutine(item.value):
        return f".. autofunction:: {item.name}"
    seen = _under(item.module, item.name.rpartition(".")[2])
    text = "" if seen else to_rst(described(item))  # of a constant that its package imports
    return f".. autodata:: {item.name}\n\n{indent(text, '   ')}".rstrip()


def _files(folder: str) -> str:
    home = _init(folder).parent
    found = home.glob("*.py") if folder == "pyrovae" else home.rglob("*.py")
    rows = [
        f"   * - ``{path.relative_to(ROOT)}``\n     - {_sentence(_docstring(path))}"
        for path in sorted(found)
        if path.name not in ("__init__.py", "__main__.py")
    ]
    return "\n".join([f"{_title('Files', '-')}\n", TABLE, *rows])


def write(app: Sphinx) -> None:
    """Write the pages that have changed, and take away those of folders that are gone."""
    pages = {f"{folder}.rst": page(folder) for folder in folders()}
    for path in PAGES.glob("*.rst"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = PAGES / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the reference when a build begins."""
    app.connect("builder-inited", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
