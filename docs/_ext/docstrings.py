"""Turn the plain text of docstrings into pages: formulas, names and words become links.

Docstrings are written for the reader of the source: `$...$` is a formula, a name in backticks is
code, an indented paragraph is shown as it stands. Here a name that the reference has becomes a
link to it, and the first of each word of the glossary a link to the glossary.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from names import elsewhere, resolve
from sphinx.application import Sphinx
from words import Unlinked

PIECES = re.compile(r"(`+)(?P<code>[^`]+)\1|\$(?P<math>[^$]+)\$", re.DOTALL)
DISPLAYED = re.compile(r" *\$\$(?P<math>.+)\$\$", re.DOTALL)
ENTRY = re.compile(r" {4}[A-Z].*, \d{4}[a-z]?\. ")
ONE_PARAGRAPH = "attribute", "data", "property"

_kept: dict[str, list[str]] = {}


def to_rst(text: str, scope: Any = None) -> str:
    """Return the text of a docstring as reStructuredText.

    Args:
        text: a docstring without its indentation.
        scope: the object that it documents, in whose module its names are looked up.
    """
    unlinked, margin, out = Unlinked(text), 0, []
    for paragraph in re.split(r"\n[ \n]*\n", text):
        depth = len(paragraph) - len(paragraph.lstrip())
        if ">>>" in paragraph:
            out.append(paragraph)
        elif formula := DISPLAYED.fullmatch(paragraph):
            lines = " ".join(formula["math"].split())
            out.append(f"{' ' * depth}.. math:: {lines}")
        elif depth >= margin + 4:
            out += [" " * margin + "::", paragraph]
        else:
            out.append(_prose(_references(paragraph), scope, unlinked))
            margin = depth
    return "\n\n".join(out)


def _prose(text: str, scope: Any, unlinked: Unlinked) -> str:
    """Mark up the formulas, names and words of a paragraph."""
    out, end = [], 0
    for found in PIECES.finditer(text):
        out.append(unlinked.link(_escaped(text[end : found.start()])))
        inside = " ".join((found["math"] or found["code"]).split())
        piece = f":math:`{inside}`" if found["math"] else code(inside, scope)
        before, after = text[: found.start()][-1:], text[found.end() :][:1]
        out.append("\\ " * before.isalnum() + piece + "\\ " * after.isalnum())
        end = found.end()
    return "".join([*out, unlinked.link(_escaped(text[end:]))])


def code(inside: str, scope: Any = None) -> str:
    """Return code in backticks as a link if the reference has what it names."""
    dotted = re.fullmatch(r"(?:pv\.|pyrovae\.)?([A-Za-z_][\w.]*)(\(\))?", inside)
    target = (resolve(dotted[1], scope) or elsewhere(dotted[1])) if dotted else None
    return f":py:obj:`{inside} <{target}>`" if target else f"``{inside}``"


def _escaped(text: str) -> str:
    """Escape what reStructuredText reads as markup; `*context:` names an argument."""
    text = re.sub(r"[|\\]|\*(?!\*?\w+:)", r"\\\g<0>", text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


def _references(paragraph: str) -> str:
    """Make an item of each reference, which begins with its authors and a year."""
    if not paragraph.lstrip().startswith("References:"):
        return paragraph
    title, *lines = paragraph.split("\n")
    return "\n".join([title, *map(_item, lines)])


def _item(line: str) -> str:
    return ("    - " if ENTRY.match(line) else "      ") + line.lstrip()


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the docstring of an object before napoleon reads its sections."""
    text = "\n".join(lines)
    undocumented = what == "data" and text.strip() == inspect.getdoc(type(obj))
    lines[:] = [""] if undocumented else to_rst(text, obj).split("\n")
    if what in ONE_PARAGRAPH:
        _kept[name] = lines[:]


def restore(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Undo what napoleon made of a constant or a property: a word before a colon is no type."""
    if what in ONE_PARAGRAPH:
        lines[:] = _kept.pop(name, lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Rewrite docstrings ahead of napoleon."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
