"""Write tables and sentences as HTML for notebooks: escaped, without scripts, in any colors.

Text and lines take the colors of the notebook, so that they are legible in light and dark.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

__all__ = ["block", "sentence", "table"]

LINE = "1px solid rgba(128, 128, 128, 0.45)"
CELL = "padding: 0.15em 0 0.15em 1.4em; color: inherit; background: none; border: 0;"


def block(*parts: str) -> str:
    """Return HTML as one block, which scrolls where it is too wide."""
    return f'<div style="overflow-x: auto; max-width: 46em;">{"".join(parts)}</div>'


def sentence(text: str) -> str:
    """Return a paragraph of text, with what is in backticks as code.

    Example:
        >>> sentence("a < b: run `fit`")
        '<p style="margin: 0.4em 0;">a &lt; b: run <code>fit</code></p>'
    """
    said = re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text))
    return f'<p style="margin: 0.4em 0;">{said}</p>'


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: Iterable[int] = ()
) -> str:
    """Return a table whose first column names the rows.

    Args:
        title: the caption.
        columns: the heads of the columns, the first included.
        rows: the cells of each row, as text.
        words: the further columns, from 1, that hold words and are aligned to the left.
    """
    left = {0, *words}
    caption = f"caption-side: top; text-align: left; opacity: 0.75; {CELL} padding-left: 0;"
    head = _row("th", columns, left, "font-weight: 600;")
    body = "".join(_row("td", row, left, "") for row in rows)
    return (
        '<table style="border-collapse: collapse; font-variant-numeric: tabular-nums; '
        f'margin: 0.4em 0; border: 0;"><caption style="{caption}">{html.escape(title)}</caption>'
        f'<thead style="border-bottom: {LINE};">{head}</thead><tbody>{body}</tbody></table>'
    )


def _row(tag: str, cells: Sequence[str], left: set[int], style: str) -> str:
    found = []
    for i, cell in enumerate(cells):
        side = "left" if i in left else "right"
        first = " padding-left: 0;" if i == 0 else ""
        look = f"{CELL} {style} text-align: {side};{first}"
        found.append(f'<{tag} style="{look}">{html.escape(cell)}</{tag}>')
    return f'<tr style="background: none;">{"".join(found)}</tr>'
