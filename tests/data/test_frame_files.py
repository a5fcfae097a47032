"""Frames are written whole, and read back as they were."""

import pandas
import polars
import pytest

from pyrovae.data import write_frame
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
