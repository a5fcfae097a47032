"""Tables: what kind each column is, coded and decoded without loss, and what is refused."""

import copy
import json
import math

import narwhals as nw
import numpy as np
import pandas
import polars
import pyarrow
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pyrovae as pv
from pyrovae.data import Table

LIBRARIES = {
    "pandas": pandas.DataFrame,
    "polars": polars.DataFrame,
    "pyarrow": lambda values: pyarrow.table(values),
}
SIZES = ["S", "M", "L"]


def kinds(frame, **columns):
    return [column.kind for column in Table.of(frame, columns=columns).columns]


def people():
    return pandas.DataFrame(
        {
            "height": [1.62, 1.8, None, 1.75],
            "children": [0, 2, 1, 0],
            "city": ["Bern", None, "Rome", "Oslo"],
            "size": pandas.Categorical(["S", "L", None, "S"], categories=SIZES, ordered=True),
            "member": pandas.array([True, False, None, True], dtype="boolean"),
        }
    )


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.5, 1.25, None], "numeric"),
        ([0.5, 1.5, 0.5], "numeric"),
        ([-1, 0, 5], "numeric"),
        ([0, 3, 7], "count"),
        ([4, 4, 4], "count"),
        ([0, 1, None, 1], "binary"),
        ([3, 7, 7], "binary"),
        ([True, True], "binary"),
        ([True, None, False], "binary"),
        (["a", "b", None], "binary"),
        (["a", "b", "c"], "categorical"),
    ],
)
def test_the_kind_follows_from_the_values(library, values, kind):
    assert kinds(LIBRARIES[library]({"a": values})) == [kind]


def test_the_kind_follows_from_categories():
    categories = pandas.CategoricalDtype([3, 1, 2])
    assert kinds(pandas.DataFrame({"a": pandas.Series([1, 2, None], dtype=categories)})) == [
        "categorical"
    ]
    ordered = pandas.CategoricalDtype(SIZES, ordered=True)
    assert kinds(pandas.DataFrame({"a": pandas.Series(["M"], dtype=ordered)})) == ["ordinal"]
    assert kinds(polars.DataFrame({"a": ["M"]}, schema={"a": polars.Enum(SIZES)})) == ["ordinal"]
    assert kinds(polars.DataFrame({"a": list("abc")}, schema={"a": polars.Categorical})) == [
        "categorical"
    ]


def test_an_order_survives_a_parquet_file(tmp_path):
    frame = pandas.DataFrame({"a": pandas.Categorical(["M", None, "L"], SIZES, ordered=True)})
    pv.data.write_frame(frame, tmp_path / "a.parquet")
    read = pv.data.frames.read_frame(tmp_path / "a.parquet")
    table = Table.of(read)
    assert (table.columns[0].kind, table.columns[0].levels) == ("ordinal", SIZES)
    back = table.decode(*table.encode(read))
    assert back.to_pandas().a.equals(frame.a)
    assert table.fill(read, torch.zeros(3, 1)).to_pandas().a.tolist() == ["M", "S", "L"]


def test_whole_numbers_are_counts_with_gaps_too():
    """Pandas stores integers with gaps as floats."""
    assert kinds(pandas.DataFrame({"a": [1, 2, 3, None]})) == ["count"]


def test_a_kind_can_be_given():
    frame = polars.DataFrame({"n": [1, 2, 3], "s": SIZES, "id": ["x", "y", "z"]})
    assert kinds(frame, n="numeric", id=None) == ["numeric", "categorical"]
    assert kinds(frame, n="ordinal", s=SIZES) == ["ordinal", "ordinal", "categorical"]
    table = Table.of(frame, columns={"s": SIZES, "id": None})
    assert table.columns[1].levels == SIZES
    assert table.encode(frame)[0][:, 1].tolist() == [0, 1, 2]


def test_a_table_prints_what_was_decided():
    shown = str(Table.of(people(), columns={"height": None})).splitlines()
    assert shown[0] == "Table of 4 columns, 4 rows, 3 of 16 values missing"
    assert shown[2].split()[:5] == "children count 0 mean 0.75,".split()
    assert shown[2].endswith("(3 distinct values: 'ordinal' or 'categorical' if classes)")
    assert shown[4].split() == "size ordinal 1 S (2) < M (0) < L (1)".split()
    assert shown[-1].strip() == "height: left out"


def test_codes_are_standardized_and_missing_ones_0():
    x, mask = Table.of(people()).encode(people(), dtype=torch.float64)
    seen = torch.tensor([1.62, 1.8, 1.75], dtype=torch.float64)
    expected = (seen - seen.mean()) / seen.std(correction=0)
    torch.testing.assert_close(x[[0, 1, 3], 0], expected)
    assert x[:, 1:].tolist() == [[0, 0, 0, 1], [2, 0, 2, 0], [1, 2, 0, 0], [0, 1, 0, 1]]
    assert (~mask).nonzero().tolist() == [[1, 2], [2, 0], [2, 3], [2, 4]]
    assert (x[~mask] == 0).all()


COLUMNS = {
    "float": (st.floats(-1e9, 1e9, allow_subnormal=False), "Float64"),
    "single": (st.floats(-1e9, 1e9, width=32, allow_subnormal=False), "Float32"),
    "count": (st.integers(0, 2**53), "Int64"),
    "small": (st.integers(0, 255), "UInt8"),
    "whole": (st.integers(-(2**31), 2**31 - 1), "Int32"),
    "bool": (st.booleans(), "Boolean"),
    "text": (st.sampled_from(["", "é", "no", "Zürich"]), "String"),
    "class": (st.sampled_from(["u", "v", "w"]), "Categorical"),
    "grade": (st.sampled_from(SIZES), "Enum"),
}


@st.composite
def frames(draw):
    """Draw a frame of any library, and its columns as plain values."""
    library = draw(st.sampled_from(sorted(LIBRARIES)))
    rows = draw(st.integers(2, 8))
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, unique=True))
    plain, series = {}, []
    for name in names:
        values, dtype = COLUMNS[name]
        column = draw(st.lists(st.none() | values, min_size=rows, max_size=rows))
        column[0] = draw(values) if column[0] is None else column[0]
        if name in ("text", "class"):
            column[:2] = "no" if name == "text" else "u", "é" if name == "text" else "v"
        if name == "grade" and library == "pyarrow":
            dtype = "String"
            column[:2] = SIZES[:2]
        plain[name] = column
        series.append(made(name, column, dtype, library))
    first, *others = series
    return nw.to_native(first.to_frame().with_columns(*others)), plain


def made(name, values, dtype, library):
    if library == "pandas":
        of_pandas = {"String": object, "Boolean": "boolean", "Categorical": "category"}
        kind = of_pandas.get(dtype, dtype)
        if dtype == "Enum":
            kind = pandas.CategoricalDtype(SIZES, ordered=True)
        elif None not in values and dtype[0] in "FIU":
            kind = dtype.lower()
        return nw.from_native(pandas.Series(values, name=name, dtype=kind), series_only=True)
    kind = nw.Enum(SIZES) if dtype == "Enum" else getattr(nw, dtype)
    return nw.new_series(name, values, kind, backend=library)


def same(values, wanted, table):
    """Compare values; a float may differ by the rounding of (v - m) / s * s + m."""
    for value, want, column in zip(values, wanted, table.columns, strict=True):
        for one, other in zip(value, want, strict=True):
            if not isinstance(other, float):
                assert one == other
                assert type(one) is type(other)
            else:
                bound = 2 * 2**-52 * (abs(other) + abs(column.loc)) + 1e-300
                assert abs(one - other) <= bound


@settings(max_examples=100, deadline=None)
@given(frames())
def test_a_frame_comes_back_from_its_codes(drawn):
    frame, plain = drawn
    table = Table.of(frame)
    x, mask = table.encode(frame, dtype=torch.float64)
    assert x.isfinite().all()
    assert mask.T.tolist() == [[v is not None for v in column] for column in plain.values()]
    back = table.decode(x, mask)
    assert type(back) is type(frame)
    old, new = (nw.from_native(each, eager_only=True) for each in (frame, back))
    assert new.columns == old.columns
    assert new.schema == old.schema
    if table.library == "pandas":
        assert (back.dtypes == frame.dtypes).all()
    plain_back = [pv.data.table_columns.plain(new[name]) for name in new.columns]
    same(plain_back, plain.values(), table)
    assert Table.from_record(json.loads(json.dumps(table.record))) == table


@settings(max_examples=50, deadline=None)
@given(frames())
def test_filling_keeps_what_was_observed_exactly(drawn):
    frame, plain = drawn
    table = Table.of(frame)
    filled = table.fill(frame, table.typical(len(next(iter(plain.values())))))
    old, new = (nw.from_native(each, eager_only=True) for each in (frame, filled))
    assert new.schema == old.schema
    for name, column in plain.items():
        values = pv.data.table_columns.plain(new[name])
        assert None not in values
        assert [v for v, old in zip(values, column, strict=True) if old is not None] == [
            old for old in column if old is not None
        ]


def test_filling_keeps_the_index_and_columns_left_out():
    frame = people().set_index(pandas.Index([7, 3, 9, 1])).assign(id=["a", "b", "c", "d"])
    table = Table.of(frame, columns={"id": None})
    filled = table.fill(frame, table.typical(4))
    assert filled.index.tolist() == [7, 3, 9, 1]
    assert filled.id.tolist() == ["a", "b", "c", "d"]
    assert filled.height.iloc[0] == 1.62


def test_another_library_and_another_order_code_the_same():
    table = Table.of(people())
    other = polars.from_pandas(people())[["member", "size", "city", "children", "height"]]
    for one, two in zip(table.encode(people()), table.encode(other), strict=True):
        assert torch.equal(one, two)
    assert isinstance(table.decode(table.encode(other)[0]), pandas.DataFrame)


def test_draws_outside_the_dtype_of_integers_get_a_wider_one():
    frame = pandas.DataFrame({"a": numpy_of([0, 3, 250], "uint8"), "b": [1, 2, 3]})
    table = Table.of(frame)
    assert table.decode(torch.tensor([[255.2, -3.0]])).dtypes.tolist() == ["uint8", "int64"]
    wide = table.decode(torch.tensor([[400.0, 1.0]]))
    assert wide.dtypes.tolist() == ["int64", "int64"]
    assert wide.a.tolist() == [400]
    gaps = table.decode(torch.tensor([[4.0, 1.0]]), torch.tensor([[False, True]]))
    assert str(gaps.dtypes["a"]) == "UInt8"


def numpy_of(values, dtype):
    return np.array(values, dtype)


@pytest.mark.parametrize("empty", [None, math.nan, "csv"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_column_without_values_is_filled_as_that_of_the_table(library, empty, tmp_path):
    known = {
        "h": [1.5, 2.5, 3.25],
        "n": [3, 4, 9],
        "below": [-1, 0, 2],
        "city": ["Bern", "Rome", "Oslo"],
        "ok": [True, False, True],
    }
    table = Table.of(LIBRARIES[library](known))
    x, _ = table.encode(LIBRARIES[library](known), dtype=torch.float64)
    for name, wanted in known.items():
        if empty == "csv":
            rows = pandas.DataFrame({**known, name: [None] * 3})
            rows.to_csv(tmp_path / "a.csv", index=False)
            frame = pv.data.frames.read_frame(tmp_path / "a.csv").to_native()
        elif library == "pyarrow":
            gap = pyarrow.nulls(3, pyarrow.float64() if empty else pyarrow.null())
            frame = pyarrow.table({**known, name: gap})
        else:
            frame = LIBRARIES[library]({**known, name: [empty] * 3})
        filled = nw.from_native(table.fill(frame, x), eager_only=True)
        found = filled[name].to_list()
        assert found == (wanted if name in ("city", "ok") else pytest.approx(wanted))
        own = nw.from_native(LIBRARIES[library](known), eager_only=True)
        if filled.implementation is own.implementation:
            assert filled.schema[name] == own.schema[name]


def test_log_scales_turn_the_density_of_codes_into_that_of_values():
    frame = polars.DataFrame({"a": [150.0, 170.5, 180.0], "n": [3, 0, 9], "b": [1e-4, None, 5e-4]})
    table = Table.of(frame)
    x, mask = table.encode(frame, dtype=torch.float64)
    loc, scale = torch.tensor([0.3, 0.7], dtype=torch.float64)
    normal = torch.distributions.Normal
    of_codes = (normal(loc, scale).log_prob(x[:, [0, 2]]) * mask[:, [0, 2]]).sum(1)
    expected = torch.zeros(3, dtype=torch.float64)
    for column in (table.columns[0], table.columns[2]):
        fn = normal(column.loc + loc * column.scale, scale * column.scale)
        for row, value in enumerate(frame[column.name].to_list()):
            if value is not None:
                expected[row] += fn.log_prob(torch.tensor(value, dtype=torch.float64))
    torch.testing.assert_close(of_codes - table.log_scales(mask), expected)


def test_a_constant_column_has_the_scale_1_whatever_its_mean_is_rounded_to():
    values = np.full(100, 0.1)
    assert values.std() > 0, "by rounding"
    frame = pandas.DataFrame({"dose": values, "y": np.linspace(-1, 1, 100)})
    varied = pandas.concat([frame, pandas.DataFrame({"dose": [0.3], "y": [0.5]})])
    for table in (Table.of(frame), Table.of(varied).measured(frame)):
        dose = table.columns[0]
        assert (dose.loc, dose.scale) == (0.1, 1.0)
        new = pandas.DataFrame({"dose": [0.1, 0.2], "y": [0.0, 1.0]})
        x, mask = table.encode(new, dtype=torch.float64)
        assert x[:, 0].tolist() == pytest.approx([0.0, 0.1])
        log_scale = np.log(frame.y.std(ddof=0))
        assert table.log_scales(mask).tolist() == pytest.approx([log_scale, log_scale])


def test_statistics_can_be_those_of_other_rows():
    table = Table.of(people())
    rows = people().iloc[[0, 2, 3]]
    measured = table.measured(rows)
    assert [column.levels for column in measured.columns] == [c.levels for c in table.columns]
    assert measured.columns[0].loc == pytest.approx((1.62 + 1.75) / 2)
    assert measured.columns[1].loc == pytest.approx(1 / 3)
    assert measured.columns[2].frequencies == [1, 1, 1]
    assert measured.columns[3].frequencies == [2, 0, 0]
    assert [column.missing for column in measured.columns] == [1, 0, 0, 1, 1]
    assert table.measured(people()) == table


@pytest.mark.parametrize(
    ("frame", "columns", "said"),
    [
        ({"a": [None, None]}, {}, "column 'a' has no observed value: leave it out with .*None"),
        ({"a": ["x", "x"]}, {}, "column 'a' is categorical and needs two or more .* got 'x'"),
        ({"a": [1, "x"]}, {}, "column 'a' holds int and str"),
        ({"a": [1.0, math.inf]}, {}, "takes finite numbers; got inf at row 1: make it missing"),
        ({"a": [1e308, -1e308, 0.5]}, {}, "too large to standardize: rescale them"),
        ({"a": [1.5, 2.0]}, {"a": "count"}, r"takes counts 0, 1, 2, ...; got 1.5 at row 0: make"),
        ({"a": [-1, 2]}, {"a": "count"}, "takes counts .*; got -1 at row 0"),
        ({"a": ["1", "2"]}, {"a": "numeric"}, "takes numbers; got '1' at row 0 .* convert"),
        ({"a": ["S", "M"]}, {"a": "ordinal"}, r"strings have no order .*=\{'a': \['M', 'S'\]\}"),
        ({"a": ["S", "M"]}, {"a": ["S", "L"]}, "has 'M' at row 1, which is none of the levels"),
        ({"a": [1, 2, 3]}, {"a": "binary"}, "is binary and needs two levels; got 1, 2, 3"),
        ({"a": [1, 2, 3]}, {"a": "number"}, "cannot be 'number': choose one of numeric, count"),
        ({"a": [1, 2]}, {"b": "count"}, "the frame has no column 'b'; it has a"),
        ({"a": [1, 2]}, {"a": None}, "a table needs one or more columns, each once; got none"),
        ({}, {}, "needs a frame with at least one row"),
        ({"a": [[1], [2]]}, {}, "column 'a' holds list"),
        ({"a": pandas.cut([1, 2, 9], 3)}, {}, "column 'a' holds Interval"),
        ({"a": [1, 2]}, {"a": 5}, "column 'a' cannot be 5: choose one of"),
        ({"a": [1, 2]}, {"a": []}, "column 'a' has 1 at row 0, which is none of the levels none"),
        ({0: [1, 2]}, {}, r"columns named by strings; got 0: frame.columns"),
        ({"a": pandas.to_datetime(["2020-01-01"])}, {}, "holds Timestamp .* leave it out"),
        (
            {"a": [f"name {i}" for i in range(60)]},
            {},
            "60 distinct strings in 60 rows: leave it out .*, or keep it with 'categorical'",
        ),
    ],
)
def test_what_no_rule_can_tell_is_asked_for(frame, columns, said):
    with pytest.raises(ValueError, match=said) as error:
        Table.of(pandas.DataFrame(frame), columns=columns)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"city": ["Bern", "Paris", None, None]}, "'city' has 'Paris' at row 1, which is none of"),
        ({"height": ["tall", "1", "2", "3"]}, "'height' takes numbers; got 'tall' at row 0"),
        ({"children": [0.5, 1, 2, 3]}, "'children' takes counts .*; got 0.5 at row 0"),
        ({"children": [2**24 + 1, 1, 2, 3]}, "16777217 at row 0, which torch.float32 cannot hold"),
        ({"city": [["Bern"]] * 4}, "column 'city' holds list"),
        ({"age": [1, 2, 3, 4]}, "has a column 'age', which the table does not know: drop it"),
        ({"height": [1e300, 1, 1, 1]}, "which torch.float32 cannot hold"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(change, said):
    with pytest.raises(ValueError, match=said) as error:
        Table.of(people()).encode(people().assign(**change))
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_or_decoded_is_refused():
    table = Table.of(people())
    with pytest.raises(ValueError, match="columns with different names: .* 'a' 2 times"):
        Table.of(pandas.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(ValueError, match="lacks the table's column 'city'"):
        table.encode(people().drop(columns="city"))
    with pytest.raises(ValueError, match=r"a frame of pandas, polars or pyarrow; got dict"):
        Table.of({"a": [1, 2]})
    with pytest.raises(ValueError, match=r"the table has 5 columns; got x of shape \(2, 4\)"):
        table.decode(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="column 'city' has levels 0 to 2; got the code 3"):
        table.decode(torch.tensor([[0.0, 0.0, 3.0, 0.0, 0.0]]))
    with pytest.raises(ValueError, match="column 'size' cannot be decoded from NaN"):
        table.decode(torch.tensor([[0.0, 0.0, 0.0, math.nan, 0.0]]))
    with pytest.raises(ValueError, match="the frame has 4 rows; got x with 2"):
        table.fill(people(), torch.zeros(2, 5))


RECORD = Table.of(people()).record


def paths(record, path=()):
    for key, value in record.items() if isinstance(record, dict) else enumerate(record):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*path, key))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(paths(json.loads(json.dumps(RECORD))), key=str)),
    st.none() | st.integers() | st.floats() | st.text() | st.just([]) | st.just({}),
)
def test_a_changed_record_is_refused_in_one_line(path, value):
    record = copy.deepcopy(json.loads(json.dumps(RECORD)))
    place = record
    for key in path[:-1]:
        place = place[key]
    if place[path[-1]] == value and type(place[path[-1]]) is type(value):
        return
    place[path[-1]] = value
    with pytest.raises(ValueError, match="table|column") as error:
        Table.from_record(record)
    assert len(str(error.value).splitlines()) == 1
