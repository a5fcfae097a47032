"""Write the reference: one page for each folder of the package, from its docstrings.

A page has the module docstring of its folder, the public names that are defined there, and the
files with the first line of each. Pages are written before Sphinx reads the sources.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

from docstrings import to_rst
from public import ROOT, Public, everything
from sphinx.application import Sphinx

PAGES = Path(__file__).parents[1] / "reference"


def folders() -> list[str]:
    """Return the pages of the reference: the top of the package, and each of its folders."""
    return ["pyrovae", *sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))]


def page(folder: str) -> str:
    """Return the page of a folder."""
    title = folder if folder == "pyrovae" else f"pyrovae.{folder}"
    names = [item for item in everything() if item.page == folder]
    parts = [f"{title}\n{'=' * len(title)}", to_rst(_docstring(_init(folder)))]
    if names:
        parts += [_table(names), *map(_documented, names)]
    return "\n\n".join([*parts, _files(folder)]) + "\n"


def _init(folder: str) -> Path:
    return ROOT / ("" if folder == "pyrovae" else folder) / "__init__.py"


def _docstring(path: Path) -> str:
    return inspect.cleandoc(ast.get_docstring(ast.parse(path.read_text())) or "")


def _sentence(docstring: str) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join(to_rst(docstring.split("\n\n")[0]).split())


def _table(names: list[Public]) -> str:
    rows = [
        f"   * - :py:obj:`~{item.name}`\n     - {_sentence(_text(item))}"
        for item in sorted(names, key=lambda item: item.name.lower())
    ]
    return "\n".join([".. list-table::\n   :widths: 1 3\n", *rows])


def _text(item: Public) -> str:
    return inspect.cleandoc(item.value.__doc__ or "") if callable(item.value) else ""


def _documented(item: Public) -> str:
    if inspect.isclass(item.value):
        return f".. autoclass:: {item.name}\n   :members:"
    kind = "autofunction" if inspect.isroutine(item.value) else "autodata"
    return f".. {kind}:: {item.name}"


def _files(folder: str) -> str:
    home = _init(folder).parent
    found = home.glob("*.py") if folder == "pyrovae" else home.rglob("*.py")
    rows = [
        f"   * - ``{path.relative_to(ROOT)}``\n     - {_sentence(_docstring(path))}"
        for path in sorted(found)
        if path.name not in ("__init__.py", "__main__.py")
    ]
    return "\n".join(["Files\n-----\n", ".. list-table::\n   :widths: 1 3\n", *rows])


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
