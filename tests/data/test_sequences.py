"""Sequences are padded at their ends, and the mask has their lengths."""

import numpy as np
import pytest
import torch

import pyrovae as pv


def test_the_mask_takes_the_sequences_out_again():
    own = [np.arange(2.0 * n).reshape(n, 2) + n for n in (3, 1, 5)]
    x, mask = pv.data.pad(own)
    assert x.shape == (3, 5, 2)
    for row, kept, wanted in zip(x, mask, own, strict=True):
        np.testing.assert_array_equal(row[kept].numpy(), wanted)
        assert not row[~kept].any()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "at least one sequence; got none"),
        ([torch.ones(2, 3), torch.ones(0, 3)], r"sequence 1 of shape \(0, 3\)"),
        ([torch.ones(2)], r"sequence 0 of shape \(2,\)"),
        ([torch.ones(2, 3), torch.ones(2, 4)], "all of one shape"),
    ],
    ids=["none", "empty", "flat", "widths"],
)
def test_what_is_no_sequence_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        pv.data.pad(given)


def test_a_long_sequence_that_pads_all_others_is_warned_of(monkeypatch):
    """The memory is taken after the warning: one line of a text may take all there is."""
    rows = [torch.ones(4, 2)] * 20 + [torch.ones(500, 2)]
    pv.data.pad(rows)
    monkeypatch.setattr("pyrovae.data.sequences.LARGE", 21 * 500 * 2 * 4 - 1)
    said = "sequence 20 has 500 steps, and half of them have at most 4: .* of which 5.5% are steps"
    with pytest.warns(UserWarning, match=said):
        pv.data.pad(rows)
    pv.data.pad([torch.ones(500, 2)] * 21)  # large, and no padding
