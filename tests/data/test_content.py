"""Data that a model was trained on are known again by their rows."""

from dataclasses import replace

import pytest
import torch

from pyrovae.data import Split, load
from pyrovae.data.content import KEPT, Content

DIGITS = load("digits", binarization=None)


def data_of(train, test):
    return replace(DIGITS, train=Split(train), validation=Split(test[:0]), test=Split(test))


def test_a_split_is_the_same_or_differs():
    content = Content.of(DIGITS)
    for name, split in DIGITS.splits.items():
        assert not content.differs(name, split)
        assert content.differs(name, split.take(slice(1, None)))
        assert content.differs(name, split.take(torch.arange(len(split)).flip(0)))
        assert content.differs(name, replace(split, context=(torch.ones(len(split), 1),)))
    assert content.repeated == 0


def test_training_rows_are_counted_exactly_while_all_hashes_are_kept():
    x = torch.randn(KEPT + 500, 3)
    content = Content.of(data_of(x[:KEPT], x[KEPT:]))
    overlap = content.overlap(Split(torch.cat([x[:7], x[KEPT:]])))
    assert (overlap.found, overlap.checked) == (7, 507)
    assert content.overlap(Split(x[KEPT:])).found == 0


def test_of_many_training_rows_a_sketch_is_kept():
    """Of 40,000 rows 1,024 hashes are kept, so of 20,000 others 512 are compared, +- 4 errors."""
    x = torch.randn(60_000, 2)
    content = Content.of(data_of(x[:40_000], x[40_000:]))
    assert len(content.sketch) < 12_000
    seen, unseen = (content.overlap(Split(rows)) for rows in (x[:20_000], x[40_000:]))
    for overlap in (seen, unseen):
        assert abs(overlap.checked - 512) < 4 * 512**0.5
    assert (seen.share, seen.trained_on) == (1.0, True)
    assert (unseen.share, unseen.trained_on) == (0.0, False)
    half = content.overlap(Split(torch.cat([x[:10_000], x[40_000:50_000]])))
    assert abs(half.share - 0.5) < 4 * 0.5 / half.checked**0.5
    assert half.trained_on


def test_rows_that_repeat_by_chance_are_no_training_data():
    """Three binary columns have eight rows, which all occur everywhere."""
    x = torch.bernoulli(torch.full((900, 3), 0.5))
    content = Content.of(data_of(x[:400], x[400:600]))
    assert (content.rows, content.repeated) == (8, 200)
    overlap = content.overlap(Split(x[600:]))
    assert (overlap.share, overlap.trained_on) == (1.0, False)


def test_zeros_have_no_sign():
    zeros = torch.zeros(5, 2)
    assert Content.of(data_of(zeros, zeros)).overlap(Split(-zeros)).found == 5


def test_a_damaged_sketch_is_one_line():
    content = replace(Content.of(DIGITS), sketch="?")
    with pytest.raises(ValueError, match="the sketch of the training rows is damaged"):
        content.overlap(DIGITS.test)
