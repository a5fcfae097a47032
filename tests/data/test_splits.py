"""Rows of train, validation and test: by the seed, by a column, or as a data set gives them."""

import numpy as np
import pytest
import torch

from pyrovae.data.reading import Reading
from pyrovae.data.splits import divided


def sizes(rows):
    return [len(rows[name]) for name in ("train", "validation", "test")]


@pytest.mark.parametrize("size", [3, 10, 11, 999])
@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.34, 0.33, 0.33), (0.0, 0.0, 1.0)])
def test_every_row_is_in_one_split(size, fractions):
    if size == 3 and fractions[0] == 0.8:
        with pytest.raises(ValueError, match="has no rows in test, of 3"):
            divided(size, None, Reading(), "x")
        return
    rows = divided(size, None, Reading(fractions=fractions, seed=4), "x")
    assert sorted(torch.cat([*rows.values()]).tolist()) == list(range(size))
    wanted = [share * size for share in fractions]
    assert all(abs(a - b) <= 1.0 for a, b in zip(sizes(rows), wanted, strict=True))


def test_named_rows_stay_in_order():
    names = ["test", "Train", "val", "train", "dev", "testing"]
    rows = divided(6, names, Reading(), "x")
    assert {name: chosen.tolist() for name, chosen in rows.items()} == {
        "train": [1, 3],
        "validation": [2, 4],
        "test": [0, 5],
    }


def test_validation_is_drawn_from_training_where_none_is_named():
    names = ["train"] * 90 + ["test"] * 7
    rows = divided(97, names, Reading(), "x")
    assert sizes(rows) == [80, 10, 7]
    assert sorted(torch.cat([rows["train"], rows["validation"]]).tolist()) == list(range(90))
    assert sizes(divided(97, names, Reading(fractions=(0, 0, 1)), "x")) == [90, 0, 7]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train", "test", "holdout"], "x has a row in the split 'holdout': the names are"),
        (["train", "test"], r"x has 3 rows, and the names of splits have shape \(2,\)"),
        (["train"] * 3, "x has no rows in test, of 3: say how they are split"),
        (["test"] * 3, "x has no rows in train, of 3"),
    ],
)
def test_names_that_are_wrong_are_one_line(names, message):
    with pytest.raises(ValueError, match=message):
        divided(3, names, Reading(), "x")


def test_an_array_of_names_may_be_given_from_python(tmp_path):
    from pyrovae.data import load

    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(6, 2))
    names = np.array(["train", "test", "train", "valid", "train", "test"])
    data = load(tmp_path / "x.npy", split=names)
    assert data.test.x[:, 0].tolist() == [2.0, 10.0]
    again = load(tmp_path / "x.npy", **data.reading.record)
    assert torch.equal(again.train.x, data.train.x)


@pytest.mark.parametrize("fractions", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_a_split_of_all_rows_has_them_in_their_order(fractions):
    rows = divided(20, None, Reading.of({"fractions": fractions, "seed": 3}), "x")
    assert [row for split in rows.values() for row in split.tolist()] == list(range(20))
