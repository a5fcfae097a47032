"""Read images with known factors of variation: dSprites, 3D Shapes, MPI3D and Cars3D.

Their files hold every combination of the factors, up to a million images. Rows are read piece by
piece as uint8, and a random part of them is kept (`rows_kept`).
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch

from pyrovae.data.factors import FactorGrid
from pyrovae.data.image_folders import stacked
from pyrovae.data.reading import Contents, Reading, extra

__all__ = ["KEPT", "is_cars3d", "of_npz", "read_cars3d", "read_h5", "rows_kept", "with_factors"]

KEPT: Final = 50_000
"""The number of images that are kept, where the option limit does not say."""

MOST: Final = 2**28
"""The number of values up to which so many are kept: 1 GiB as floats."""

PIECE: Final = 2**26
"""The number of bytes that are read at once."""

DSPRITES: Final[tuple[str, ...]] = ("color", "shape", "scale", "orientation", "x", "y")
SHAPES3D: Final = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
CARS3D: Final = ("elevation", "azimuth", "object")
CARS3D_SIDE: Final = 64

_MPI3D: Final = (
    *("object_color", "object_shape", "object_size", "camera_height", "background_color"),
    *("horizontal_axis", "vertical_axis"),
)
MPI3D: Final = {
    len(grid): grid
    for grid in (
        FactorGrid(_MPI3D, (6, 6, 2, 3, 3, 40, 40)),
        FactorGrid(_MPI3D, (4, 4, 2, 3, 3, 40, 40)),
    )
}
"""The factors of MPI3D (toy, realistic, real) and of its complex objects, by their number."""


def rows_kept(number: int, width: int, reading: Reading) -> Any:
    """Return which rows of a set are kept, increasing: `reading.limit` of them, at random.

    Without a limit they are 50,000, or as many as take 1 GiB as float32.
    """
    limit = reading.limit or min(KEPT, MOST // width)
    order = torch.randperm(number, generator=torch.Generator().manual_seed(reading.seed))
    return order[:limit].sort().values.numpy()


def with_factors(x: Any, factors: Any, names: tuple[str, ...], reading: Reading) -> Contents:
    """Return images with their factors, which may also be labels, covariates or splits."""
    columns = dict(zip(names, factors.T, strict=True))
    beside = {name: columns[name] for name in reading.asked() if name in columns}
    return Contents(x, beside=beside, images=True, factors=factors, factor_names=names)


def of_npz(path: Path, reading: Reading) -> Contents | None:
    """Read the .npz file of dSprites or of MPI3D; None if it is another.

    The arrays are found by their names. Others, such as the pickled metadata of dSprites, are
    not read.

    Raises:
        ValueError: if the arrays of dSprites do not fit one another.
    """
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if {"imgs.npy", "latents_classes.npy"} <= names:
            with archive.open("latents_classes.npy") as file:
                factors = np.load(file, allow_pickle=False)
            number, key, columns = len(factors), "imgs.npy", DSPRITES
            if factors.shape[1:] != (len(DSPRITES),):
                raise ValueError(f"latents_classes is not [N, 6] but {list(factors.shape)}")
            if not (factors >= 0).all():
                raise ValueError(f"latents_classes are indices from 0; got {factors.min()}")
        elif names == {"images.npy"}:
            with archive.open("images.npy") as file:
                number = _header(file)[0][0]
            if number not in MPI3D:
                return None
            factors = MPI3D[number].at(torch.arange(number)).numpy()
            key, columns = "images.npy", _MPI3D
        else:
            return None
        with archive.open(key) as file:
            shape, kind, fortran = _header(file)
            if shape[0] != number:
                raise ValueError(f"there are {shape[0]} images and {number} rows of factors")
            rows = rows_kept(number, math.prod(shape[1:]), reading)
            if fortran:  # The rows are not one after another: nothing but the whole can be read.
                (whole,) = _pieces(file, (1, *shape[::-1]), kind)
                x = whole[0].T[rows]
            else:
                x = _chosen(_pieces(file, shape, kind), rows)
    return with_factors(x, factors[rows], columns, reading)


def read_h5(path: Path, reading: Reading) -> Contents:
    """Read the file of 3D Shapes, with h5py.

    Raises:
        ValueError: if h5py is not installed, or the file is damaged or does not hold 3D Shapes.
    """
    h5py = extra("h5py", "h5")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file, or is damaged: {error}") from error
    with file:
        shapes = {name: getattr(value, "shape", None) for name, value in file.items()}
        number, *shape = shapes.get("images") or (0,)
        if len(shape) != 3 or shapes.get("labels") != (number, len(SHAPES3D)):
            raise ValueError(
                f"{path} does not hold 3D Shapes, images [N, H, W, 3] and labels [N, 6]: it has "
                f"{', '.join(shapes) or 'nothing'}; save other arrays as .npz"
            )
        labels = file["labels"][:]
        if not np.isfinite(labels).all():
            row = int(np.argwhere(~np.isfinite(labels))[0, 0])
            raise ValueError(f"{path} has labels that are not finite, first in row {row}")
        rows = rows_kept(number, math.prod(shape), reading)
        step = max(1, PIECE // math.prod(shape))
        pieces = (file["images"][first : first + step] for first in range(0, number, step))
        x = _chosen(pieces, rows)
    factors = np.stack([np.unique(column, return_inverse=True)[1] for column in labels.T], 1)
    return with_factors(x, factors[rows], SHAPES3D, reading)


def is_cars3d(folder: Path) -> bool:
    """Return whether a folder holds files of MATLAB, as Cars3D does."""
    return any(path.suffix == ".mat" for path in folder.iterdir())


def read_cars3d(folder: Path, reading: Reading) -> Contents:
    """Read the folder of Cars3D, one file for each object, scaled to 64 x 64 pixels.

    Raises:
        ValueError: if a file is damaged, does not hold images "im" [H, W, 3, azimuths,
            elevations], or differs from the others in its numbers of views.
    """
    from PIL import Image

    size = reading.size or CARS3D_SIDE
    images, factors, first = [], [], ()
    for place, path in enumerate(sorted(folder.glob("*.mat"))):
        im = _im(path)
        first = first or im.shape[3:]
        if im.shape[3:] != first:
            raise ValueError(f"{path} has {im.shape[3:]} views, other files {first}")
        views = im.transpose(4, 3, 0, 1, 2).reshape(-1, *im.shape[:3])
        drawn = (Image.fromarray(view) for view in views)
        images.append(stacked(drawn, Reading(size=size), names=[str(path)] * len(views)))
        elevation, azimuth = np.indices(first[::-1]).reshape(2, -1)
        factors.append(np.stack([elevation, azimuth, np.full(len(views), place)], 1))
    x = np.concatenate(images)
    rows = rows_kept(len(x), math.prod(x.shape[1:]), reading)
    return with_factors(x[rows], np.concatenate(factors)[rows], CARS3D, reading)


def _im(path: Path) -> Any:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    damaged = (MatReadError, ValueError, TypeError, NotImplementedError, OSError, EOFError)
    try:
        im = loadmat(path, variable_names=["im"]).get("im")
    except damaged as error:
        raise ValueError(f"{path} is no file of MATLAB 5, or is damaged: {error}") from error
    if im is None or im.ndim != 5 or im.shape[2] != 3 or im.dtype != np.uint8:
        met = "none" if im is None else f"{im.dtype} {list(im.shape)}"
        raise ValueError(
            f"{path} must hold images im, uint8 [H, W, 3, azimuths, elevations], as the files of "
            f"Cars3D do; got {met}"
        )
    return im


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Read the header of an .npy file: the shape, the dtype, and whether in Fortran's order.

    Raises:
        ValueError: if it holds Python objects, or one number without an axis.
    """
    readers: dict[Any, Callable[..., Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"an array is stored by version {version} of NumPy's format")
    shape, fortran, kind = readers[version](file)
    if kind.hasobject or not shape:
        raise ValueError(f"images are numbers [N, H, W]; got {kind} of shape {shape}")
    return shape, kind, fortran


def _pieces(file: IO[bytes], shape: tuple[int, ...], kind: np.dtype[Any]) -> Iterator[Any]:
    """Yield the rows of an array that follow, some at a time."""
    width = math.prod(shape[1:]) * kind.itemsize
    step = max(1, PIECE // width)
    for first in range(0, shape[0], step):
        rows = min(step, shape[0] - first)
        read = file.read(rows * width)
        if len(read) < rows * width:
            raise ValueError(f"the file ends after row {first + len(read) // width} of {shape[0]}")
        yield np.frombuffer(read, kind).reshape(rows, *shape[1:])


def _chosen(pieces: Iterator[Any], rows: Any) -> Any:
    """Return rows, which increase, of an array that comes in pieces."""
    found, first = [], 0
    for piece in pieces:
        low, high = np.searchsorted(rows, [first, first + len(piece)])
        found.append(piece[rows[low:high] - first])
        first += len(piece)
    return np.concatenate(found)
