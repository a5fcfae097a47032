"""The commands of the command line, with the help that each prints."""

from __future__ import annotations

import io
from textwrap import indent

from rich.console import Console

from pyrovae.cli.grammar import APP

WIDTH = 96
"""The number of characters in a line, as in a terminal: paragraphs of the help have as many."""


def commands() -> list[str]:
    """Return a section for each command, as reStructuredText."""
    return [_section(name) for name in APP if not name.startswith("-")]


def _section(name: str) -> str:
    title = f"pyrovae {name}"
    printed = io.StringIO()
    APP.help_print([name], console=Console(file=printed, width=WIDTH, highlight=False))
    lines = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
    heading = f"{title}\n{'-' * len(title)}"
    return f"{heading}\n\n.. code-block:: text\n   :class: help\n\n{indent(lines, '   ')}"
