"""Write figures to files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from pyrovae.files import write_atomically
from pyrovae.plots.image_grid import png

__all__ = ["save"]


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically.

    Args:
        figure: any matplotlib figure.
        path: a file name that ends in .png; its folder is created if needed.

    Raises:
        ValueError: if the name does not end in .png.
        OSError: if the file cannot be written; an existing file is left unchanged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Figure(), Path(folder) / "empty.png")
        ...     [path.name for path in Path(folder).iterdir()]
        ['empty.png']
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"figures are written as .png files; got the name '{path.name}'")
    write_atomically(path, png(figure))
