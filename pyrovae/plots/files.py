"""Figures as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from pyrovae.files import write_atomically
from pyrovae.plots.image_grid import png

__all__ = ["save"]


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG: whole, or not at all.

    Args:
        figure: any figure of matplotlib's.
        path: a file name that ends in .png; its folder is made.

    Raises:
        ValueError: for another ending.
        OSError: if it cannot be written; a file that was there stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Figure(), Path(folder) / "empty.png")
        ...     [path.name for path in Path(folder).iterdir()]
        ['empty.png']
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"figures are written as PNG; got the name '{path.name}': end it in .png")
    write_atomically(path, png(figure))
