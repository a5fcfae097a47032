"""Known factors of variation follow the rows of their data, and no program gets them."""

import numpy as np
import pytest
import torch

from pyrovae.data import Batches, Split, load, readers
from pyrovae.data.reading import Contents

VALUES = np.stack([np.arange(40) % 4, np.arange(40) // 4], 1).astype("uint8")


@pytest.fixture
def known(monkeypatch) -> dict:
    """A data set named "known", whose only pixel tells the row."""
    x = np.arange(40, dtype="float32")[:, None] / 64
    contents = {"x": x, "factors": VALUES, "factor_names": ("hue", "size")}
    monkeypatch.setitem(readers.SETS, "known", lambda place, reading: Contents(**contents))
    return contents


def test_factors_are_those_of_their_rows_in_every_split(known):
    data = load("known", fractions=(0.5, 0.25, 0.25))
    assert data.factors == ("hue", "size")
    for split in data.splits.values():
        rows = (split.x.flatten() * 64).long()
        assert split.factors.dtype == torch.int64
        assert split.labels is None
        assert torch.equal(split.factors, torch.from_numpy(VALUES)[rows].long())
    assert torch.equal(data.test.take(slice(3)).factors, data.test.factors[:3])


def test_programs_do_not_get_factors(known):
    (batch,) = Batches(load("known").test, 10)
    assert len(batch) == 1


def test_other_data_have_no_factors():
    digits = load("digits")
    assert digits.factors == ()
    assert digits.test.factors is None
    assert digits.test.take(slice(2)).factors is None
    assert Split(torch.zeros(3, 2)).factors is None


@pytest.mark.parametrize("factors", [VALUES[:, :1], VALUES[:39], VALUES[:, 0]])
def test_factors_that_do_not_fit_the_rows_and_names_are_refused(known, factors):
    known["factors"] = factors
    with pytest.raises(ValueError, match=r"known has 40 rows of x and the factors hue, size; "):
        load("known")
