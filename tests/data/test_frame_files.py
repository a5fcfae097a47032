"""Frames are written whole, and read back as they were."""

import narwhals
import pandas
import polars
import pytest

from pyrovae.data import load, write_frame
from pyrovae.data.frames import read_frame

FRAME = polars.DataFrame(
    {"a": [1.5, None], "n": [3, 4], "c": ["x", "y"], "s": ["M", None]},
    schema={"a": polars.Float32, "n": polars.UInt8, "c": polars.Categorical, "s": polars.String},
)


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv"])
@pytest.mark.parametrize("frame", [FRAME, FRAME.to_pandas(), FRAME.to_arrow()])
def test_a_frame_is_read_as_it_was_written(tmp_path, suffix, frame):
    path = tmp_path / f"frame{suffix}"
    path.write_text("an earlier file")
    write_frame(frame, path)
    found = polars.from_arrow(read_frame(path).to_native())
    same = found if suffix == ".csv" else found.cast({"c": polars.String})
    assert same.to_dict(as_series=False)["a"] == [1.5, None]
    assert same["n"].to_list() == [3, 4]
    assert same["c"].to_list() == ["x", "y"]
    assert [path.name for path in tmp_path.iterdir()] == [f"frame{suffix}"]


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"written as .csv, .parquet, .feather; got .*frame.xlsx"):
        write_frame(pandas.DataFrame({"a": [1]}), tmp_path / "frame.xlsx")


def test_lines_are_as_long_as_they_are(tmp_path):
    """Arrow reads pieces of 1 MiB, and refused lines that lie across two."""
    path = tmp_path / "long.csv"
    name, text = "n" * 1_200_000, "t" * 3_000_000
    path.write_text(f"{name},b\n" + f"1.5,{text}\n" * 3)
    frame = read_frame(path)
    assert frame.columns == [name, "b"]
    assert frame["b"].to_list() == [text] * 3
    path.write_text("")
    with pytest.raises(ValueError, match="is no csv table: Empty CSV file"):
        read_frame(path)


def test_a_wide_file_is_looked_at_as_a_whole(tmp_path, monkeypatch):
    """narwhals makes a frame's schema anew at each use: 20,000 columns took half an hour."""
    made, schema = [], narwhals.DataFrame.schema
    counted = property(lambda frame: made.append(frame) or schema.fget(frame))
    monkeypatch.setattr(narwhals.DataFrame, "schema", counted)
    path = tmp_path / "wide.csv"
    rows = [[f"x{i}" for i in range(100)], *([f"{i}.5"] * 100 for i in range(20))]
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    assert load(path).shape == (100,)
    assert len(made) < 10


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("none.csv", "a,b\n", {}),
        ("none.csv", "a,b\n", {"covariates": {"b": ["u", "v"]}}),
        ("none.txt", "\n", {}),
    ],
)
def test_a_file_without_rows_is_refused(name, text, options, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{name} has no rows$"):
        load(path, **options)


def test_a_column_is_chosen_once(tmp_path):
    path = tmp_path / "some.csv"
    path.write_text("a,b\n" + "1.5,2\n" * 20)
    with pytest.raises(ValueError, match="the option key lists the column 'a' twice"):
        load(path, key=["a", "b", "a"])
