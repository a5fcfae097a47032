"""Write figures and animations to files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from pyrovae.files import write_atomically
from pyrovae.plots.animation import Animation
from pyrovae.plots.image_grid import png

__all__ = ["save"]


def save(figure: Figure | Animation, path: str | Path) -> None:
    """Write a figure as PNG, or an animation as GIF, atomically.

    Args:
        figure: any matplotlib figure, or the result of `animation`.
        path: a file name that ends in .png, or .gif; its folder is created if needed.

    Raises:
        ValueError: if the name has another ending.
        OSError: if the file cannot be written; an existing file is left unchanged.

    Example:
        >>> import tempfile
        >>> from matplotlib.figure import Figure
        >>> from pathlib import Path
        >>> from pyrovae.plots import save
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Figure(), Path(folder) / "empty.png")
        ...     [path.name for path in Path(folder).iterdir()]
        ['empty.png']
    """
    path = Path(path)
    ending, what = (".gif", "animations") if isinstance(figure, Animation) else (".png", "figures")
    if path.suffix.lower() != ending:
        raise ValueError(f"{what} are written as {ending} files; got the name '{path.name}'")
    write_atomically(path, figure.gif if isinstance(figure, Animation) else png(figure))
