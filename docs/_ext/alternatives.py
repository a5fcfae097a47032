"""Give each figure of a cell a text that stands for it, which a screen reader reads.

Without one, the text is the name of a file. A cell whose figure neither a plot of the library nor
the paragraph above describes says it itself, as `mystnb: image: alt:` in its header.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

import pyrovae as pv

PLOT = re.compile(r"pv\.plots\.(\w+)\(|(history)\.plot\(")


def describe(app: Sphinx, document: nodes.document) -> None:
    """Describe the figures of a page that have no text yet."""
    for image in document.findall(nodes.image):
        cell = _cell(image)
        if cell is not None and not image.get("alt"):
            image["alt"] = of_plot(_code(cell)) or sentence(_above(cell))


def of_plot(code: str) -> str:
    """Return what the last plot of a cell shows, by its docstring, "" if it is none of ours."""
    for name in reversed([first or second for first, second in PLOT.findall(code)]):
        if name != "save":
            text = inspect.getdoc(getattr(pv.plots, name)) or ""
            shown = sentence(re.sub(r"[`$\\]", "", text.split("\n\n")[0]))
            shown = re.sub(r"^(Plot|Animate|Draw) ", "", shown)
            return shown[:1].upper() + shown[1:]
    return ""


def sentence(text: str) -> str:
    """Return the first sentence of a text, on one line."""
    first = re.split(r"(?<=[.:])\s", " ".join(text.split()))[0]
    return first.rstrip(":.") + "." if first else ""


def _cell(node: nodes.Node) -> nodes.Element | None:
    """Return the cell that drew an image, None for an image that a page includes."""
    while (node := node.parent) is not None:
        if "cell" in getattr(node, "attributes", {}).get("classes", ()):
            return node
    return None


def _code(cell: nodes.Element) -> str:
    return next((block.astext() for block in cell.findall(nodes.literal_block)), "")


def _above(cell: nodes.Element) -> str:
    """Return the paragraph above a cell, and of a section's first cell, its title."""
    siblings = cell.parent.children
    for node in reversed(siblings[: siblings.index(cell)]):
        if isinstance(node, nodes.paragraph | nodes.title):
            return node.astext()
    return ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Describe figures when a page has been read."""
    app.connect("doctree-read", describe)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
