"""Recognize the data that a model was trained on, from a record of a few kilobytes.

The record has a hash of each split, which tells whether a split is the same as before, and a
sketch of the training rows: the smallest of their hashes. Other data have rows in common with
the training data to the extent that their smallest hashes are in the sketch (the bottom-k sketch
of Broder, 1997). Data with few distinct rows repeat themselves, so the record also has how many
of the held-out rows equal a training row.
"""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from pyrovae.data.datasets import DataSet, Split

__all__ = ["Content", "Overlap"]

KEPT: Final = 1024
"""The number of hashes in a sketch."""


@dataclass(frozen=True)
class Overlap:
    """How many rows of a split are training rows.

    Attributes:
        found: the number of rows that are in the sketch.
        checked: the number of rows whose hashes are small enough to be in it.
        expected: the share of held-out rows that equal a training row.
        error: the standard error of the difference between the two shares.
    """

    found: int
    checked: int
    expected: float
    error: float

    @property
    def share(self) -> float:
        """The share of the rows that are training rows."""
        return self.found / max(1, self.checked)

    @property
    def trained_on(self) -> bool:
        """Whether that is more, by 3 standard errors, than rows repeat by chance."""
        return self.found > 0 and self.share > self.expected + 3 * self.error


@dataclass(frozen=True)
class Content:
    """A record of the rows of a data set.

    Attributes:
        splits: a hash of each split, by its name.
        sketch: the smallest hashes of training rows, increasing, in base 64.
        rows: the number of distinct training rows.
        held_out: the number of rows in the other splits.
        repeated: how many of these equal a training row.

    Example:
        >>> from pyrovae.data import load
        >>> from pyrovae.data.content import Content
        >>> digits = load("digits")
        >>> content = Content.of(digits)
        >>> content.differs("test", digits.test), content.differs("test", digits.train)
        (False, True)
        >>> content.overlap(digits.test).trained_on, content.overlap(digits.train).trained_on
        (False, True)
    """

    splits: dict[str, str] = field(default_factory=dict)
    sketch: str = ""
    rows: int = 0
    held_out: int = 0
    repeated: int = 0

    @classmethod
    def of(cls, data: DataSet) -> Content:
        """Return the record of a data set, before its pixels are binarized."""
        train = np.unique(_hashes(data.train))
        others = np.concatenate([_hashes(data.validation), _hashes(data.test)])
        smallest = train[:KEPT].astype("<u8").tobytes()
        return cls(
            splits={name: _hash(split) for name, split in data.splits.items()},
            sketch=base64.b64encode(smallest).decode(),
            rows=len(train),
            held_out=len(others),
            repeated=int(np.isin(others, train).sum()),
        )

    def differs(self, name: str, split: Split) -> bool:
        """Return whether a split has other rows, or another order, than the recorded one."""
        return self.splits.get(name) != _hash(split)

    def overlap(self, split: Split) -> Overlap:
        """Return how many rows of a split are training rows.

        Raises:
            ValueError: if the record is damaged.
        """
        try:
            sketch = np.frombuffer(base64.b64decode(self.sketch, validate=True), "<u8")
        except ValueError as damage:
            raise ValueError(f"the sketch of the training rows is damaged: {damage}") from damage
        hashes = _hashes(split)
        if self.rows > len(sketch):
            hashes = hashes[hashes <= sketch.max(initial=0)]
        checked, held_out = len(hashes), self.held_out
        expected = (self.repeated + 1) / (held_out + 2)
        error = math.sqrt(expected * (1 - expected) * (1 / max(1, checked) + 1 / (held_out + 2)))
        return Overlap(
            found=int(np.isin(hashes, sketch).sum()),
            checked=checked,
            expected=self.repeated / max(1, held_out),
            error=error if held_out else 0.0,
        )


def _rows(split: Split) -> Any:
    # Adding zero turns -0.0 into 0.0.
    return np.ascontiguousarray(split.x.detach().cpu().numpy()) + np.float32(0)


def _hashes(split: Split) -> Any:
    """Return a hash of 8 bytes for each row of x; of a sequence, for its steps without padding."""
    rows = _rows(split)
    if rows.ndim == 3 and split.context:
        lengths = split.context[-1].sum(1).tolist()
        rows = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, "<u8")


def _hash(split: Split) -> str:
    whole = hashlib.blake2b(_rows(split), digest_size=16)
    for value in split.context:
        whole.update(value.contiguous().numpy().tobytes())
    return whole.hexdigest()
