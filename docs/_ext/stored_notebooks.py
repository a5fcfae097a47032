"""Copy the notebooks beside the pages, with the outputs that are stored in them.

They are not executed here: the suite runs them (`tests/test_notebooks.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

SOURCE = Path(__file__).parents[2] / "notebooks"
COPIES = Path(__file__).parents[1] / "notebooks"
LINKS = {
    "](../benchmarks/README.md)": "](../benchmarks.md)",
    "](../benchmarks/": "](../../benchmarks/",
    "](../examples/": "](../../examples/",
    "](../docs/": "](../",
}
"""Where links lead from a notebook's own folder, and where from its copy."""


def copy(app: Sphinx) -> None:
    """Copy each notebook that has changed; a copy whose source is gone is taken away."""
    COPIES.mkdir(exist_ok=True)
    texts = {path.name: path.read_text() for path in SOURCE.glob("*.ipynb")}
    for path in COPIES.glob("*.ipynb"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        for link, led in LINKS.items():
            text = text.replace(link, led)
        path = COPIES / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Copy the notebooks when a build begins."""
    app.connect("builder-inited", copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
