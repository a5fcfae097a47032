"""Render mathematics as MathML, which browsers draw without a script and without a network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

SPACE = '<mspace width="0.167em"/>'
FUNCTION = r"(?:<mi>(?:log|exp)</mi>)"
BASED = rf"(?:<msub>{FUNCTION}<mrow>.*?</mrow></msub>)"
SPACED = (
    (re.compile(rf"((?<!<msub>){FUNCTION}|{BASED})(?=<(?!mo|/))"), rf"\1{SPACE}"),
    (re.compile(rf"(</(?:mi|mn|msub|msup|mfrac)>)(?={FUNCTION}|{BASED})"), rf"\1{SPACE}"),
    (re.compile("<mi>&#x0007E;</mi>"), "<mo>&#x0223C;</mo>"),
)
"""What the converter leaves out: the space around the name of a function, and that of `\\sim`."""


def mathml(formula: str, display: str = "inline") -> str:
    """Return a formula of LaTeX as MathML.

    Args:
        formula: without its dollars.
        display: "inline" or "block".
    """
    text = convert(formula, display=display)
    for pattern, spaced in SPACED:
        text = pattern.sub(spaced, text)
    return text


def inline(writer: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    writer.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def display(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on lines of its own, with its number if it has one."""
    writer.body.append(writer.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(writer, node)
        writer.body.append(f'<span class="eqno">({number})</span>')
    writer.body.append(mathml(node.astext(), "block"))
    writer.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
