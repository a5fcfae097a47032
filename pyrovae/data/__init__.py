"""Data sets, batches on the device, and the domain that a likelihood checks.

Data are flat float vectors [N, D]. Gray images are intensities in [0, 1]; for a Bernoulli
likelihood they are binarized, either once (static) or afresh at each use (dynamic), each pixel
being 1 with its intensity as probability (Salakhutdinov and Murray, 2008).
"""

from pyrovae.data.batches import Batch, Batches
from pyrovae.data.datasets import HELD_OUT, PIXELS, Binarization, DataSet, Split, drawn_once, load
from pyrovae.data.domains import (
    check_context,
    check_domain,
    check_finite,
    flat_line,
    named,
    open_unit_interval,
    value_in,
)

__all__ = [
    "Batch",
    "Batches",
    "Binarization",
    "DataSet",
    "HELD_OUT",
    "PIXELS",
    "Split",
    "check_context",
    "check_domain",
    "check_finite",
    "drawn_once",
    "flat_line",
    "load",
    "named",
    "open_unit_interval",
    "value_in",
]
