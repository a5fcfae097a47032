"""A .ts file becomes series and classes; what is no such file is refused by the line."""

import math

import pytest
import torch

import pyrovae as pv

HEADER = "# a comment\n@problemName waves\n@timestamps false\n@univariate false\n"


def read(tmp_path, text):
    path = tmp_path / "waves.ts"
    path.write_text(text, encoding="utf-8")
    return pv.data.read_series(path)


def test_series_of_several_lengths_and_classes(tmp_path):
    data = "@classLabel true up down\n\n@data\n1,2.5,-3e-1:4,5,6:up\n# why\n7, ?:8,9: down \n"
    found = read(tmp_path, HEADER + data)
    torch.testing.assert_close(
        found.x,
        torch.tensor([[[1.0, 4], [2.5, 5], [-0.3, 6]], [[7, 8], [torch.nan, 9], [0, 0]]]),
        equal_nan=True,
    )
    assert found.mask.tolist() == [[True, True, True], [True, True, False]]
    assert found.labels.tolist() == [1, 0], "down, up"
    assert found.classes == ("down", "up")


def test_the_classes_of_a_data_set_keep_their_names(tmp_path):
    read(tmp_path, "@classLabel true up down\n@data\n1,2:up\n3,4:down\n")
    data = pv.data.load(tmp_path / "waves.ts", fractions=(1, 0, 0)).train
    assert data.named_labels == [["down", "up"][label] for label in data.labels]


def test_a_mark_of_the_byte_order_is_passed_over(tmp_path):
    found = read(tmp_path, "\ufeff@classLabel false\n@data\n1,2\n3,4\n")
    assert found.x.squeeze(-1).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_series_without_classes(tmp_path):
    found = read(tmp_path, HEADER + "@classLabel false\n@data\n1,2\n3,4\n")
    assert found.x.squeeze(-1).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found.labels is None


def test_series_for_regression_have_a_number_each(tmp_path):
    found = read(tmp_path, "% of % signs\n@targetLabel true\n@data\n1,2:0.5\n3,4:?\n")
    assert found.x.squeeze(-1).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found.labels is None
    assert found.targets.tolist() == pytest.approx([0.5, math.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2\n", "waves.ts has no line @data"),
        ("@data\n", "no series after the line @data"),
        ("@targetlabel true\n@data\n1,2:up\n", "series 1: 'up' is no number"),
        ("@timestamps true\n@data\n(0,1)\n", "has timestamps"),
        ("@data\n1,2\n1,x\n", "line 3: 'x' is no number, and not '\\?'"),
        ("@data\n1,2:3\n", r"line 2: expected dimensions of one length; got lengths \[1, 2\]"),
        ("@data\n1:2\n3\n", "line 3: expected 2 dimensions, as in the first series; got 1"),
        (
            "@classLabel true a\n@data\n1,2\n",
            "line 3: expected dimensions of one length; got none",
        ),
        ("@data\n1,\n", "line 2: '' is no number"),
    ],
    ids=["header", "none", "target", "times", "value", "lengths", "dimensions", "class", "empty"],
)
def test_what_is_no_series_is_refused(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        read(tmp_path, text)


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "waves.ts"
    path.write_bytes(b"@data\n1,2\xff\n")
    with pytest.raises(ValueError, match="waves.ts is not in UTF-8: "):
        pv.data.read_series(path)
