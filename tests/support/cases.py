"""One VAE around each part, with data that suit it: what every part is put through.

`tests/cases_<family>.py` fills a table `CASES` with constructors; `test_protocol.py` runs all.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import pyrovae as pv


@dataclass(frozen=True)
class Case:
    """A small VAE (fresh at each call of its constructor) and a batch in its likelihood's domain.

    Attributes:
        vae: at most 6 data dimensions (images are larger) and 3 latents, in float32.
        x: [N, D], N at most 5.
        context: what the programs take beside x, one row per datum.
    """

    vae: pv.VAE
    x: Tensor
    context: tuple[Tensor, ...] = ()
