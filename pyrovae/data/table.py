r"""Tables: frames with columns of mixed kinds and missing values, as x and a mask, and back.

A `Table` is the schema of a frame. It codes a frame as floats x [N, D] and a mask of observed
entries, which `likelihoods.Columns` and `likelihoods.Masked` score, and decodes x to a frame of
the same library and dtypes. It is plain JSON, and is saved with a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data.reading import extra
from pyrovae.data.table_columns import Column, Kind, Level, column_of, declared, dtype_of, plain
from pyrovae.data.table_dtypes import restored

if TYPE_CHECKING:
    import narwhals as nw

__all__ = ["Table"]

VERSION: Final = 1
"""The version of a table's record."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    r"""The schema of a frame, which codes it as x and a mask, and decodes x.

    Numeric columns are standardized, $x = (v - m) / s$ with the mean and standard deviation of the
    observed values. So bounds are on the density of x; that of the values v themselves is

    $$ \log p(v) = \log p(x) - \sum_{\text{observed numeric}} \log s $$

    (`log_scales`). All other columns hold counts or the indices of levels, whose probabilities do
    not depend on a unit.

    Attributes:
        columns: the schema of each column, in the order of x.
        left_out: the names of columns that the table ignores.
        library: the library of the frame, such as "pandas"; decoding returns its frames.
        rows: the number of rows of the frame.

    References:
        Nazabal, Olmos, Ghahramani, Valera, 2020. Handling Incomplete Heterogeneous Data using
        VAEs.

    Example:
        >>> import pandas, pyrovae as pv
        >>> people = pandas.DataFrame({
        ...     "height": [1.62, 1.8, None, 1.75],
        ...     "children": [0, 2, 1, 0],
        ...     "city": ["Bern", "Rome", "Bern", "Oslo"],
        ... })
        >>> table = pv.data.Table.of(people)
        >>> print(table)
        Table of 3 columns, 4 rows, 1 of 12 values missing
          column    kind         missing  values
          height    numeric            1  mean 1.723, sd 0.07587
          children  count              0  mean 0.75, sd 0.8292 (3 distinct values: ...)
          city      categorical        0  Bern (2), Oslo (1), Rome (1)
        >>> x, mask = table.encode(people)
        >>> x
        tensor([[-1.3621,  0.0000,  0.0000],
                [ 1.0106,  2.0000,  2.0000],
                [ 0.0000,  1.0000,  0.0000],
                [ 0.3515,  0.0000,  1.0000]])
        >>> table.decode(x, mask)
           height  children  city
        0    1.62         0  Bern
        1    1.80         2  Rome
        2     NaN         1  Bern
        3    1.75         0  Oslo
    """

    columns: tuple[Column, ...]
    left_out: tuple[str, ...] = ()
    library: str = "pandas"
    rows: int = 0

    def __post_init__(self) -> None:
        """Check that there are columns, each once.

        Raises:
            ValueError: otherwise.
        """
        names = [*(column.name for column in self.columns), *self.left_out]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not self.columns:
            met = f"{twice} twice" if twice else "none"
            raise ValueError(f"a table needs one or more columns, each once; got {met}")

    @classmethod
    def of(
        cls, frame: Any, *, columns: Mapping[str, Kind | Sequence[Level] | None] | None = None
    ) -> Self:
        """Return the schema of a frame; `print` it to see what was decided.

        The kind of a column follows from its values. NaN and null are missing values.

        | values | kind |
        |---|---|
        | booleans, or whole numbers or strings with exactly two distinct values | binary |
        | whole numbers from 0, in floats too (pandas stores integers with gaps so) | count |
        | other numbers | numeric |
        | an ordered categorical, an Enum | ordinal |
        | strings and other categoricals | categorical |

        Whole numbers can also be classes, ordered grades, years or identifiers, which no rule can
        tell: give their kind in `columns`. Strings that hardly recur, such as names, are asked
        about.

        Args:
            frame: a pandas, polars or pyarrow frame, or any other that narwhals reads.
            columns: for columns by name, the kind; the levels of an ordinal column from low to
                high; or None to leave the column out.

        Raises:
            ValueError: if a column's kind cannot be told or does not fit its values, or a name is
                unknown.
        """
        data = _read(frame)
        given = dict(columns or {})
        unknown = [name for name in given if name not in data.columns]
        if unknown:
            raise ValueError(
                f"the frame has no column {unknown[0]!r}; it has {', '.join(data.columns)}"
            )
        left_out = tuple(name for name in given if given[name] is None)
        kept = [name for name in data.columns if name not in left_out]
        made = tuple(column_of(data[name], given.get(name)) for name in kept)
        return cls(made, left_out, data.implementation.value, len(data))

    def measured(self, frame: Any) -> Self:
        """Return the same columns with the means, scales and frequencies of another frame.

        So kinds and levels can come from all data, and what is estimated from the training data.

        Raises:
            ValueError: as `encode`.
        """
        data = self._columns_of(frame)
        columns = tuple(column.measured(data[column.name]) for column in self.columns)
        return msgspec.structs.replace(self, columns=columns, rows=len(data))

    @property
    def record(self) -> dict[str, Any]:
        """The JSON record, for `pv.save(vae, folder, table=table.record)`."""
        content = msgspec.to_builtins(self)
        return {"version": VERSION, **content, "sha256": _digest(content)}

    @classmethod
    def from_record(cls, record: Any) -> Self:
        """Return the table of a record.

        Raises:
            ValueError: if the record is damaged or was changed, or has another version.
        """
        if not isinstance(record, dict) or record.get("version") != VERSION:
            met = record.get("version") if isinstance(record, dict) else type(record).__name__
            raise ValueError(f"expected the record of a table, version {VERSION}; got {met!r}")
        content = {name: record[name] for name in record if name not in ("version", "sha256")}
        try:
            table = msgspec.convert(content, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"the record of the table is damaged: {error}") from error
        if record.get("sha256") != _digest(content):
            raise ValueError(
                "the record of the table was changed since it was written: its levels and scales "
                "would not be those that the VAE was trained with"
            )
        return table

    @property
    def domain(self) -> constraints.Constraint:
        """The domain of x, a `constraints.stack` over columns."""
        return constraints.stack([column.domain for column in self.columns], dim=-1)

    def encode(self, frame: Any, *, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return x [N, D] and the mask [N, D], True where a value is observed; missing x are 0.

        Args:
            frame: a frame with the table's columns, in any order and of any library.
            dtype: the floating dtype of x; by default torch's default.

        Raises:
            ValueError: if a column is missing or unknown, or a value is not of its column's kind,
                such as an unseen category.
        """
        data = self._columns_of(frame)
        coded = [column.encode(data[column.name]) for column in self.columns]
        exact = torch.from_numpy(np.stack([codes for codes, _ in coded], 1))
        mask = torch.from_numpy(np.stack([seen for _, seen in coded], 1))
        x = exact.to(torch.get_default_dtype() if dtype is None else dtype)
        for index, column in enumerate(self.columns):
            _check_held(column, exact[:, index], x[:, index])
        return x, mask

    def decode(self, x: Tensor, mask: Tensor | None = None) -> Any:
        """Return the frame of x [N, D], of the table's library and dtypes.

        Counts and indices of levels are rounded. Integers outside the range of their dtype get 64
        bits, and missing values in pandas' integers and booleans its nullable dtypes.

        Args:
            x: codes, as `encode` and `vae.sample` return.
            mask: where it is False, the frame has a missing value.

        Raises:
            ValueError: if x is not finite, has another number of columns, or the index of no
                level.
        """
        import narwhals as nw

        series = []
        for index, (column, values) in enumerate(zip(self.columns, self._values(x), strict=True)):
            if mask is not None:
                seen = mask[:, index].tolist()
                values = [v if there else None for v, there in zip(values, seen, strict=True)]
            known: dict[str, Any] = {
                "dtype": column.dtype,
                "levels": column.levels,
                "library": self.library,
            }
            series.append(restored(column.name, values, **known))
        return nw.to_native(series[0].to_frame().with_columns(*series[1:]))

    def fill(self, frame: Any, x: Tensor) -> Any:
        """Return the frame with its missing values replaced by those of x.

        Observed values, and columns that the table leaves out, stay as they are. A column without
        any observed value gets the dtype that it had in the table's frame.

        Args:
            frame: a frame as `encode` takes it.
            x: codes [N, D] for its rows, such as `Imputation.modes`.

        Raises:
            ValueError: as `encode` and `decode`, and if x has another number of rows.
        """
        nw = extra("narwhals", "frames")
        data = self._columns_of(frame)
        if len(x) != len(data):
            raise ValueError(f"the frame has {len(data)} rows; got x with {len(x)}")
        filled = []
        for column, new in zip(self.columns, self._values(x), strict=True):
            old = data[column.name]
            values = plain(old)
            if None not in values:
                continue
            library = data.implementation.value
            dtype, levels = dtype_of(old), declared(old) or column.levels
            if not any(value is not None for value in values):  # The dtype says nothing then.
                dtype, levels = column.dtype if library == self.library else "", column.levels
            values = [b if a is None else a for a, b in zip(values, new, strict=True)]
            filled.append(
                restored(column.name, values, dtype=dtype, levels=levels, library=library)
            )
        return nw.to_native(data.with_columns(*_aligned(filled, data)))

    def sample(self, vae: Any, n: int, *context: Tensor) -> Any:
        """Return a frame of n rows, drawn from a VAE that takes the mask as its last context.

        Example:
            >>> import pandas, pyrovae as pv
            >>> table = pv.data.Table.of(pandas.DataFrame({"a": [1.5, 2.5], "b": ["u", "v"]}))
            >>> list(table.sample(pv.table_vae(table, latents=2), 3).columns)
            ['a', 'b']
        """
        device = next(iter(vae.parameters())).device
        mask = torch.ones(n, len(self.columns), dtype=torch.bool, device=device)
        return self.decode(vae.sample(n, *context, mask))

    def log_scales(self, mask: Tensor) -> Tensor:
        """Return the sum of log s over the observed numeric entries of each row, [N].

        Subtract it from a bound on log p(x) of each datum to have one on log p(v), the density of
        the values in the frame's own units.
        """
        scales = [column.scale if column.kind == "numeric" else 1.0 for column in self.columns]
        logs = torch.tensor(scales, dtype=torch.float64, device=mask.device).log()
        return mask.to(logs.dtype) @ logs

    def typical(self, n: int = 1000) -> Tensor:
        """Return codes [n, D] whose columns have about the observed distributions.

        A likelihood starts at their means; the columns are not paired as in the data.
        """
        u = (np.arange(n) + 0.5) / n
        codes = np.stack([column.quantiles(u) for column in self.columns], 1)
        return torch.from_numpy(codes).to(torch.get_default_dtype())

    def __str__(self) -> str:
        """Return the table's columns, kinds and values as text."""
        missing, size = sum(c.missing for c in self.columns), self.rows * len(self.columns)
        head = f"Table of {len(self.columns)} columns, {self.rows:,} rows"
        lines = [f"{head}, {missing:,} of {size:,} values missing"]
        wide = max(len("column"), *(len(column.name) for column in self.columns))
        lines.append(f"  {'column':<{wide}}  kind         missing  values")
        for column in self.columns:
            said, note = column.in_words()
            note = f" ({note})" if note else ""
            lines.append(
                f"  {column.name:<{wide}}  {column.kind:<11}  {column.missing:>7}  {said}{note}"
            )
        return "\n".join([*lines, *(f"  {name}: left out" for name in self.left_out)])

    def _columns_of(self, frame: Any) -> nw.DataFrame[Any]:
        """Return a frame as narwhals', with the table's columns and no unknown ones."""
        data = _read(frame)
        names = [column.name for column in self.columns]
        lacking = [name for name in names if name not in data.columns]
        if lacking:
            raise ValueError(
                f"the frame lacks the table's column {lacking[0]!r}: add it, empty where unknown"
            )
        unknown = [name for name in data.columns if name not in (*names, *self.left_out)]
        if unknown:
            raise ValueError(
                f"the frame has a column {unknown[0]!r}, which the table does not know: drop it"
            )
        return data

    def _values(self, x: Tensor) -> list[list[Any]]:
        if x.ndim != 2 or x.shape[1] != len(self.columns):
            raise ValueError(
                f"the table has {len(self.columns)} columns; got x of shape {tuple(x.shape)}, not "
                f"[N, {len(self.columns)}]"
            )
        codes = x.detach().double().cpu().numpy()
        return [column.decode(codes[:, i]) for i, column in enumerate(self.columns)]


def _read(frame: Any) -> nw.DataFrame[Any]:
    """Return a frame as narwhals'."""
    nw = extra("narwhals", "frames")
    try:
        data = nw.from_native(frame, eager_only=True)
    except TypeError as error:
        raise ValueError(
            f"a table takes a frame of pandas, polars or pyarrow; got {type(frame).__name__}: "
            "give pandas.DataFrame(data), or collect a lazy frame"
        ) from error
    except nw.exceptions.DuplicateError as error:
        told = " ".join(str(error).split())
        raise ValueError(f"a table needs columns with different names: {told}") from error
    named = [name for name in data.columns if not isinstance(name, str)]
    if named:
        raise ValueError(
            f"a table needs columns named by strings; got {named[0]!r}: "
            "frame.columns = frame.columns.astype(str)"
        )
    if not len(data):
        raise ValueError("a table needs a frame with at least one row; got none")
    return data


def _aligned(series: list[nw.Series[Any]], data: nw.DataFrame[Any]) -> list[nw.Series[Any]]:
    """Give series of pandas the index of a frame, by which its columns are aligned."""
    import narwhals as nw

    index = nw.maybe_get_index(data)
    if index is None:
        return series
    return [nw.maybe_set_index(each, index=index) for each in series]


def _check_held(column: Column, exact: Tensor, x: Tensor) -> None:
    """Check that a dtype holds a column's codes: counts exactly, numbers without overflow."""
    lost = ~x.isfinite() if column.kind == "numeric" else x.double() != exact
    if lost.any():
        row = int(lost.nonzero()[0])
        raise ValueError(
            f"column {column.name!r} has the code {exact[row]:.17g} at row {row}, which {x.dtype} "
            "cannot hold: make the column numeric, or give dtype=torch.float64"
        )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
