"""Data sets, batches on the device of the parameters, and checks of a likelihood's domain.

`load` takes the name of a data set or the path of a file; `readers.py` has the table of both. Data
are flat float vectors [N, D]. Grayscale images are intensities in [0, 1]. For a Bernoulli
likelihood they are binarized: each pixel is 1 with its intensity as probability, sampled once
(static) or anew at each use (dynamic; Salakhutdinov and Murray, 2008).
"""

from pyrovae.data import frames
from pyrovae.data.arrays import Intake, tensors
from pyrovae.data.batches import Batch, Batches
from pyrovae.data.by_length import ByLength
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
from pyrovae.data.factors import FactorGrid
from pyrovae.data.frame_files import write_frame
from pyrovae.data.images import Shape, fold, rotated
from pyrovae.data.labeled import Labeled
from pyrovae.data.reading import Reading
from pyrovae.data.sequences import pad
from pyrovae.data.series import Series, read_series
from pyrovae.data.sprites import Sprites
from pyrovae.data.streams import Streamed
from pyrovae.data.table import Table
from pyrovae.data.text import Vocabulary, read_texts
from pyrovae.data.transformed import Transformed

__all__ = [
    "Batch",
    "Batches",
    "Binarization",
    "ByLength",
    "DataSet",
    "FactorGrid",
    "HELD_OUT",
    "Intake",
    "Labeled",
    "PIXELS",
    "Reading",
    "Series",
    "Shape",
    "Split",
    "Sprites",
    "Streamed",
    "Table",
    "Transformed",
    "Vocabulary",
    "check_context",
    "check_domain",
    "check_finite",
    "drawn_once",
    "flat_line",
    "fold",
    "frames",
    "load",
    "pad",
    "named",
    "open_unit_interval",
    "read_series",
    "read_texts",
    "rotated",
    "tensors",
    "value_in",
    "write_frame",
]
