"""Read arrays, frames and sparse matrices as tensors of the kind that programs take.

`tensors` is the one door. What x becomes follows from its dtype and from the domain of the
likelihood, never from its values:

    floats, booleans    the dtype of the parameters; NumPy's float64 too
    whole numbers       the same, if that dtype holds them exactly
    uint8, domain [0, 1]               intensities, x / 255
    uint8, a domain of whole numbers   levels or counts, as they are
    uint8, any other domain            refused, with the two readings to choose from

Context keeps its kind: floats get the dtype of the parameters, whole numbers become int64, and
booleans stay booleans. Tensors of torch are left as they are, except uint8.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data.domains import open_unit_interval

__all__ = ["Intake", "Mapped", "Sparse", "as_rows", "native", "numbers", "tensors"]

IN_MEMORY: Final = 2**30
"""The size in bytes up to which a memory-mapped array or a parquet file is read whole, 1 GiB."""

INTENSITIES: Final = (constraints.unit_interval, open_unit_interval)
FRAMES: Final = ("pandas", "polars", "pyarrow", "modin", "cudf")


@dataclass(frozen=True)
class Intake:
    """What programs take.

    Attributes:
        dtype: the dtype of their parameters; None for torch's default.
        domain: the domain of x; None if the likelihood has none.
        in_memory: the size in bytes up to which data on disk are read whole.
    """

    dtype: torch.dtype | None = None
    domain: constraints.Constraint | None = None
    in_memory: int = field(default=IN_MEMORY, repr=False)

    @property
    def floats(self) -> torch.dtype:
        """The dtype of x."""
        return self.dtype or torch.get_default_dtype()


def tensors(intake: Intake, x: Any, *context: Any) -> list[Any]:
    """Return x and the context as tensors in memory; what is no array is returned unchanged.

    So is an array in the context that does not have one row per datum, which all data share.

    NumPy arrays, SciPy sparse matrices, AnnData objects and the frames of pandas, polars and
    Arrow become dense tensors. Four-dimensional arrays whose last axis alone can be the channels
    become images [N, C, H, W].

    Raises:
        ValueError: if an array is not numeric, cannot be converted exactly, or can be read in two
            ways; the message says which lines to choose from.

    Example:
        >>> import numpy as np
        >>> from torch.distributions import constraints
        >>> from pyrovae.data import Intake, tensors
        >>> image = np.full((1, 2), 255, dtype="uint8")
        >>> tensors(Intake(domain=constraints.unit_interval), image, np.array([True]))
        [tensor([[1., 1.]]), tensor([True])]
        >>> tensors(Intake(domain=constraints.integer_interval(0, 255)), image)
        [tensor([[255., 255.]])]
    """
    found = [as_rows(intake, x)]
    for value in context:
        own = tuple(getattr(value, "shape", ())[:1]) == tuple(getattr(found[0], "shape", (0,))[:1])
        found.append(as_rows(intake, value, context=True) if own else value)
    return [value[:] if isinstance(value, Sparse | Mapped) else value for value in found]


def as_rows(intake: Intake, value: Any, *, context: bool = False) -> Any:
    """Return an array as a tensor, or as rows that become tensors when they are indexed.

    Sparse matrices, and memory-mapped arrays beyond `intake.in_memory`, become such rows.

    Raises:
        ValueError: as `tensors`.
    """
    reading = _Reading(intake, context=context)
    home = type(value).__module__.partition(".")[0]
    if isinstance(value, Tensor):
        return reading.tensor(value)
    if home == "anndata" and hasattr(value, "obs_names"):
        return as_rows(intake, _in_memory(value).X, context=context)
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            "a masked array hides which values are missing: give x.filled(0) as x, and the mask "
            "~np.ma.getmaskarray(x) as the last context"
        )
    if isinstance(value, np.memmap):
        rows = Mapped(value, reading)
        return rows if rows.nbytes > intake.in_memory else rows[:]
    if isinstance(value, np.ndarray):
        return reading.array(value)
    sparse = sys.modules.get("scipy.sparse")  # no import: who has a sparse matrix has done so
    if sparse is not None and sparse.issparse(value):
        return Sparse(value, reading)
    if home in FRAMES or hasattr(value, "__narwhals_dataframe__"):
        return _frame(value, reading)
    return value


class Sparse:
    """The rows of a sparse matrix, dense when they are indexed.

    Args:
        matrix: a SciPy sparse matrix or array [N, D].
        reading: makes tensors of its values.
    """

    def __init__(self, matrix: Any, reading: _Reading) -> None:
        self.matrix, self.reading = matrix.tocsr(), reading
        self.shape = torch.Size(matrix.shape)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Return some rows as a dense tensor."""
        chosen = self.matrix[rows if isinstance(rows, slice) else rows.numpy()]
        return self.reading.array(chosen.toarray())


class Mapped:
    """The rows of a memory-mapped array, read when they are indexed, in the order on disk.

    Args:
        array: a memory-mapped array [N, ...].
        reading: makes tensors of its values.
    """

    def __init__(self, array: np.memmap[Any, Any], reading: _Reading) -> None:
        self.array, self.reading = array, reading
        self.nbytes = array.size * reading.intake.floats.itemsize

    @property
    def shape(self) -> torch.Size:
        """The shape of all rows."""
        return torch.Size([len(self), *self[:1].shape[1:]])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.array) if self.array.ndim else 0

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Return some rows as a tensor in memory."""
        if isinstance(rows, slice):
            return self.reading.array(np.array(self.array[rows]))
        order = rows.argsort()
        found = self.reading.array(np.asarray(self.array[rows[order].numpy()]))
        return torch.empty_like(found).index_copy_(0, order, found)


@dataclass(frozen=True)
class _Reading:
    """How the values of x, or of a context, become a tensor."""

    intake: Intake
    context: bool

    def tensor(self, value: Tensor) -> Tensor:
        """Convert 8-bit pixels, if they are x and its domain is known."""
        pixels = value.dtype == torch.uint8 and value.layout == torch.strided
        known = not self.context and self.intake.domain is not None
        return self._numbers(value) if pixels and known else value

    def array(self, value: np.ndarray[Any, Any]) -> Tensor:
        """Convert an array."""
        value = native(value, "the context" if self.context else "x", pixels=not self.context)
        if self.context:
            found = torch.from_numpy(value)
            return found.to(self.intake.floats) if found.is_floating_point() else found
        return self._numbers(torch.from_numpy(_channels_first(value)))

    def _numbers(self, x: Tensor) -> Tensor:
        domain, dtype = self.intake.domain, self.intake.floats
        if x.dtype == torch.uint8:
            return _pixels(x, domain, dtype)
        whole = not (x.is_floating_point() or x.dtype == torch.bool)
        return x if whole and domain is None else numbers(x, dtype)


def numbers(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert numbers to a floating-point dtype.

    Raises:
        ValueError: if the dtype does not hold a whole number exactly.

    Example:
        >>> numbers(torch.tensor([2**24 + 1]), torch.float32)
        Traceback (most recent call last):
        ValueError: x has the whole number 16777217, which torch.float32 does not hold exactly...
    """
    found = x.to(dtype)
    if x.is_floating_point() or x.dtype == torch.bool:
        return found
    exact = 2 / torch.finfo(dtype).eps  # whole numbers up to here, about 1.7e7 in float32
    if x.numel() and max(-int(x.min()), int(x.max())) > exact:
        lost = found.to(torch.float64) != x.to(torch.float64)
        if lost.any():
            raise ValueError(
                f"x has the whole number {int(x[lost][0])}, which {dtype} does not hold exactly: "
                "scale x, or use parameters of torch.float64"
            )
    return found


def _pixels(x: Tensor, domain: constraints.Constraint | None, dtype: torch.dtype) -> Tensor:
    """Convert 8-bit numbers as the domain asks."""
    if any(domain is known for known in INTENSITIES):
        return x.to(dtype).div_(255)
    if domain is None or domain is constraints.real:
        takes = "takes any real numbers" if domain is constraints.real else "states no domain"
        raise ValueError(
            f"x has 8-bit numbers (uint8), and the likelihood {takes}: give x / 255 for the "
            'intensities of pixels, or x.astype("float32") for the numbers themselves'
        )
    if domain is constraints.boolean and x.numel() and int(x.max()) > 1:
        raise ValueError(
            f"x has 8-bit numbers (uint8) up to {int(x.max())}, and the likelihood takes 0 or 1: "
            "give x > 127, or pyrovae.data.Split(torch.from_numpy(x) / 255, labels, dynamic=True) "
            "to sample pixels with their intensity as probability in each batch"
        )
    return x.to(dtype)


def native(value: np.ndarray[Any, Any], what: str, *, pixels: bool) -> np.ndarray[Any, Any]:
    """Return an array that torch can hold: of its own dtypes, writable and in order.

    Args:
        value: the array.
        what: its name, for error messages.
        pixels: whether uint8 stays as it is; other whole numbers become int64.

    Raises:
        ValueError: if it is not numeric, or has whole numbers that int64 cannot hold.
    """
    kind = value.dtype.kind
    if kind not in "fiub":
        remedy = {
            "c": "give its real and imaginary parts as columns",
            "M": "give days or seconds as numbers",
            "m": "give days or seconds as numbers",
        }.get(kind, "give numeric columns, and codes in place of words")
        raise ValueError(f"{what} must be numeric; got an array of {value.dtype}: {remedy}")
    if kind == "u" and value.dtype.itemsize == 8 and value.size and value.max() > 2**63 - 1:
        raise ValueError(f"{what} has whole numbers above 2^63 - 1: give floats")
    wanted = value.dtype.newbyteorder("=")
    if kind == "f" and wanted.itemsize > 8:
        wanted = np.dtype("float64")
    if kind in "iu" and not (pixels and value.dtype == "uint8"):
        wanted = np.dtype("int64")
    value = np.ascontiguousarray(value, dtype=wanted)
    return value if value.flags.writeable else value.copy()


def _channels_first(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return images [N, H, W, C] as [N, C, H, W].

    Raises:
        ValueError: if both the second and the last axis can be the channels.
    """
    if x.ndim != 4 or not 1 <= x.shape[3] <= 4:
        return x
    if min(x.shape[1:3]) <= 4:
        raise ValueError(
            f"images of shape {x.shape[1:]} can have their channels first or last: give "
            "torch.from_numpy(x) if they are [N, C, H, W], and "
            "torch.from_numpy(x).movedim(-1, 1) if they are [N, H, W, C], as floats"
        )
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def _in_memory(data: Any) -> Any:
    """Return an AnnData object whose matrix is in memory, and that has one."""
    if getattr(data, "X", None) is None:
        raise ValueError(
            "the AnnData object has no X: give one of its matrices, adata.layers[name] or "
            "adata.raw.X"
        )
    return data.to_memory() if data.isbacked else data


def _frame(value: Any, reading: _Reading) -> Any:
    """Return the columns of a frame as a tensor [N, D], and a series as [N]."""
    narwhals = _narwhals()
    if narwhals is None:
        return value
    frame = narwhals.from_native(value, pass_through=True, allow_series=True)
    if isinstance(frame, narwhals.LazyFrame):
        raise ValueError("a lazy frame has no rows yet: give frame.collect()")
    if isinstance(frame, narwhals.Series):
        return reading.array(_column(frame))
    if not isinstance(frame, narwhals.DataFrame):
        return value
    columns = [_column(series) for series in frame.iter_columns()]
    if not columns:
        raise ValueError("the frame has no columns")
    # Whole numbers beside whole numbers stay so; floats beside anything are floats.
    stacked = np.stack(columns, axis=1)
    return reading.array(stacked.astype("int64") if stacked.dtype.kind in "iu" else stacked)


def _narwhals() -> Any:
    try:
        import narwhals.stable.v2 as narwhals
    except ImportError:
        return None
    return narwhals


def _column(series: Any) -> np.ndarray[Any, Any]:
    """Return a numeric column, with NaN for its missing values."""
    dtype = series.dtype
    if not (dtype.is_numeric() or "Boolean" in str(dtype)):
        raise ValueError(
            f"the column '{series.name}' is not numeric but {dtype}: give numeric columns, and "
            "codes in place of words, as pyrovae.data.Table.of(frame).encode(frame) returns them"
        )
    if dtype.is_decimal() or series.null_count():
        import narwhals.stable.v2 as narwhals

        series = series.cast(narwhals.Float64)
    return np.asarray(series.to_numpy())
