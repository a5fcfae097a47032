"""Tables of numbers from files: columns of x, and those that are something else."""

import decimal

import numpy as np
import pandas
import pyarrow
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from torch.distributions import constraints

from pyrovae.data import frames, load

RNG = np.random.default_rng(0)
WRITE = {
    ".csv": pyarrow.csv.write_csv,
    ".parquet": pyarrow.parquet.write_table,
    ".feather": pyarrow.feather.write_feather,
}
COLUMNS = {
    "a": RNG.normal(size=40),
    "b": RNG.normal(size=40),
    "kind": np.array(["x", "y"] * 20),
    "set": np.array(["train"] * 20 + ["validation"] * 10 + ["test"] * 10),
}


def written(folder, columns, suffix=".parquet"):
    path = folder / f"table{suffix}"
    WRITE[suffix](pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("suffix", WRITE)
def test_numeric_columns_are_x(suffix, tmp_path):
    path = written(tmp_path, COLUMNS, suffix)
    data = load(path, labels="kind", covariates=["kind"], split="set")
    assert data.columns == ("a", "b")
    wanted = np.stack([COLUMNS["a"], COLUMNS["b"]], 1).astype(np.float32)
    assert torch.equal(data.test.x, torch.tensor(wanted[30:]))
    assert data.train.labels.tolist() == [0, 1] * 10
    assert data.train.context[0].tolist() == [[1.0, 0.0], [0.0, 1.0]] * 10
    assert (data.shape, data.domain) == ((2,), constraints.real)
    assert frames.read_frame(path).columns == list(COLUMNS)


ORDER = np.roll(np.arange(40), 3)


def of_pandas(name):
    """Return a frame of pandas whose index is written as a column, whole numbers or named."""
    frame = pandas.DataFrame({"a": COLUMNS["a"], "b": COLUMNS["b"]}).iloc[ORDER]
    return frame if name is None else frame.set_index(frame.index.astype(float).rename(name))


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
@pytest.mark.parametrize("name", [None, "cell"])
def test_the_index_of_pandas_is_no_column(name, suffix, tmp_path):
    frame, path = of_pandas(name), tmp_path / f"table{suffix}"
    getattr(frame, f"to_{suffix[1:]}")(path)
    written = [*frame.columns, name or "__index_level_0__"]
    data = load(path, fractions=(1, 0, 0))
    assert data.columns == ("a", "b")
    wanted = torch.tensor(frame.to_numpy(), dtype=torch.float32)[data.rows["train"]]
    assert torch.equal(data.train.x, wanted)
    assert frames.read_frame(path).columns == ["a", "b"]
    assert frames.read_frame(path, index=True).columns == written
    frame.loc[3, "a"] = None
    getattr(frame, f"to_{suffix[1:]}")(path)
    table = load(path).table
    assert [column.name for column in table.columns] == ["a", "b"]
    assert load(path, table=table.record).columns == ("a", "b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (",a,b\n0,1.5,2\n1,3,4\n", "column 1 of .* has no name, like an index that pandas writes"),
        (",0,1\n0,1.5,2\n1,3,4\n", "column 1 of .* has no name, like an index that pandas writes"),
        ("1.5,2.5\n3.5,4.5\n", "has numbers, '1.5', '2.5', in place of the names of columns: add"),
        ("5,0,0\n3,4,5\n", "has numbers, '5', '0', '0', in place of the names of columns: add"),
        ("1.5,,-2e3\n3,4,5\n", "has numbers, '1.5', '-2e3', in place of the names of columns"),
        ("a,b,a\n3,4,5\n", "has several columns named 'a': give each a name of its own"),
    ],
)
def test_a_first_line_without_names_is_refused(text, said, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        load(tmp_path / "a.csv")


@pytest.mark.parametrize("header", ["0,1", "x1,2", "year,2"])
def test_names_with_numbers_are_names(header, tmp_path):
    (tmp_path / "a.csv").write_text(f"{header}\n1.5,2\n-3,4\n")
    data = load(tmp_path / "a.csv", fractions=(1, 0, 0))
    assert data.columns == tuple(header.split(","))
    assert sorted(data.train.x.tolist()) == [[-3.0, 4.0], [1.5, 2.0]]


def test_a_column_without_a_name_may_be_left_out(tmp_path):
    (tmp_path / "a.csv").write_text(",a,b\n0,1.5,2\n1,-3,4\n")
    data = load(tmp_path / "a.csv", fractions=(1, 0, 0), key=["b", "a"])
    assert sorted(data.train.x.tolist()) == [[2.0, 1.5], [4.0, -3.0]]


def test_an_index_of_pandas_that_is_named_is_read(tmp_path):
    of_pandas("cell").to_parquet(tmp_path / "a.parquet")
    path, whole = tmp_path / "a.parquet", {"fractions": (1, 0, 0)}
    labels = load(path, labels="cell", **whole)
    assert labels.columns == ("a", "b")
    assert labels.train.labels.tolist() == ORDER[labels.rows["train"]].tolist()
    assert load(path, key=["a", "cell"], **whole).columns == ("a", "cell")
    data = load(path, columns={"cell": "count"}, **whole)
    assert data.columns == ("a", "b", "cell")
    assert load(path, table=data.table.record, **whole).columns == ("a", "b", "cell")
    assert load(path, columns={"cell": None}, **whole).columns == ("a", "b")


def test_whole_numbers_are_counts_and_columns_can_be_chosen(tmp_path):
    columns = {"id": np.array(["r"] * 30), "n": np.arange(30), "m": np.arange(30) % 3}
    path = written(tmp_path, columns, ".csv")
    data = load(path, key=["m", "n"])
    assert (data.columns, data.domain) == (("m", "n"), constraints.nonnegative_integer)
    assert torch.equal(data.train.x[:, 0], data.train.x[:, 1] % 3)
    flags = written(tmp_path, {"p": [True, False] * 10, "q": [False, False] * 10})
    assert load(flags).domain is constraints.boolean


GAPS = {**COLUMNS, "a": [None, float("nan"), *COLUMNS["a"][2:].tolist()]}


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            COLUMNS,
            {"table": False},
            "column 'kind' of .* holds String, not numbers: .* pv.data.Table",
        ),
        (COLUMNS, {"labels": "sort"}, "has no column 'sort'; it has 'a', 'b', 'kind', 'set'"),
        (COLUMNS, {"key": ["a", "c"]}, "has no column 'c'"),
        (
            GAPS,
            {"key": ["a", "b"], "table": False},
            "column 'a' .* has 2 missing values of 40: .*pv.data.Table",
        ),
        ({"a": [1.0]}, {"labels": "a"}, "has no columns besides 'a': nothing is left for x"),
    ],
)
def test_what_is_no_table_of_numbers_is_one_line(columns, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(written(tmp_path, columns), **options)


def test_a_folder_of_a_partition_is_no_column(tmp_path):
    folder = tmp_path / "year=2020"
    folder.mkdir()
    assert frames.read_frame(written(folder, {"a": [1.0]})).columns == ["a"]


@pytest.mark.parametrize("suffix", WRITE)
def test_a_damaged_table_is_one_line(suffix, tmp_path):
    (tmp_path / f"table{suffix}").write_bytes(b"")
    with pytest.raises(ValueError, match=f"is no {suffix[1:]} table"):
        load(tmp_path / f"table{suffix}")


def test_an_empty_cell_is_missing_and_a_quoted_word_is_not(tmp_path):
    """In columns of words as in those of numbers: an empty cell is no class of its own."""
    path = tmp_path / "table.csv"
    path.write_text('city,height\nBern,1.5\n,\n"NA",2.5\nNA,NaN\n')
    frame = frames.read_frame(path)
    assert frame["city"].to_list() == ["Bern", None, "NA", None]
    assert frame["height"].null_count() == 2


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_a_csv_file_with_other_separators_is_no_column_of_words(sign, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("\n".join([sign.join("ab"), *(f"{i},5{sign}{i}" for i in range(40))]))
    with pytest.raises(ValueError, match="in place of commas between the names: convert it"):
        load(path)
    # A name in quotes is one name, whatever it holds.
    path.write_text("\n".join([f'"a{sign}b"', *(f"{i}.5" for i in range(40))]))
    assert load(path).columns == (f"a{sign}b",)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("head", ["a,b", "a,é"])
def test_a_csv_file_in_another_encoding_is_said(head, encoding, tmp_path):
    path = tmp_path / "table.csv"
    rows = [head, *(f"{i},{'é' if i % 2 else 'e'}" for i in range(40))]
    path.write_bytes("\n".join(rows).encode(encoding))
    with pytest.raises(ValueError, match="is not in UTF-8, the first time in .*: convert it"):
        load(path)


def test_decimal_numbers_are_floats(tmp_path):
    exact = [decimal.Decimal(i) / 4 for i in range(40)]
    data = load(written(tmp_path, {"a": COLUMNS["a"], "b": exact}), covariates=["b"], key="b")
    both = torch.cat([split.x for split in data.splits.values()]).flatten().sort().values
    assert torch.equal(both, torch.arange(40) / 4)
    assert dict(data.reading.covariates) == {"b": "number"}
    assert torch.equal(data.test.context[0], data.test.x)
