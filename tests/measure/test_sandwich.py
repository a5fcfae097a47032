"""The sandwich's figure shows the bounds that were found, and no error that is not known."""

from types import SimpleNamespace

import pytest
import torch

import pyrovae as pv
from pyrovae.weights.bounds import Estimate


def figure(below, above):
    """Draw bounds as annealing finds them; return the two panels."""
    below, above = torch.tensor(below), torch.tensor(above)
    found = {
        "simulated data, from below": Estimate(below, torch.zeros(len(below))),
        "simulated data, from above": Estimate(above, torch.zeros(len(below))),
        "simulated data, gap": Estimate(above - below, torch.zeros(len(below))),
    }
    return pv.plots.sandwich(SimpleNamespace(title="AIS", quantities=found)).axes


def test_the_bounds_and_their_gaps_are_the_points():
    both, apart = figure([-3.0, -1.0, -2.0], [-2.0, -1.0, -1.5])
    assert both.collections[0].get_offsets().tolist() == [[-3, -2], [-1, -1], [-2, -1.5]]
    assert apart.collections[0].get_offsets().tolist() == [[1, 0], [2, 0.5], [3, 1]]


def test_the_band_is_two_errors():
    _, apart = figure([0.0, 0.0, 0.0], [0.0, 0.5, 1.0])
    # Gaps of 0, 0.5 and 1 have a standard deviation of 0.5, a standard error of 0.5 / sqrt(3),
    # and Student's factor at three data is 4.303 / 1.96.
    half = 3**-0.5 * 4.3027 / 1.96
    (band,) = apart.patches
    assert [band.get_y(), band.get_y() + band.get_height()] == pytest.approx(
        [0.5 - half, 0.5 + half], rel=1e-4
    )
    assert apart.get_legend().texts[0].get_text() == "mean 0.50 ± 1.27 (two errors)"


def test_one_datum_has_no_error():
    _, apart = figure([-29.19], [-29.22])
    assert not apart.patches
    assert apart.get_legend().texts[0].get_text() == "mean -0.03"
