"""The figure of a forecast shows the quantiles of its draws."""

import pytest
import torch

from pyrovae import plots


def test_a_panel_shows_what_was_seen_the_intervals_and_what_came():
    draws = torch.linspace(0, 100, 201).reshape(-1, 1, 1) + torch.tensor([[0.0, 7.0], [1.0, 8.0]])
    seen, ahead = torch.tensor([[3.0, 4.0], [5.0, 6.0], [1.0, 2.0]]), torch.ones(2, 2)
    figure = plots.forecast(draws, seen, ahead=ahead, names=["bass", "flute"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["bass", "flute"]
    axes = figure.axes[1]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["seen"].get_ydata()) == [4, 6, 2]
    assert list(lines["seen"].get_xdata()) == [1, 2, 3]
    assert list(lines["median"].get_ydata()) == [57, 58]
    assert list(lines["came"].get_xdata()) == [4, 5]
    wide, narrow = (each.get_paths()[0].vertices for each in axes.collections)
    assert [wide[:, 1].min(), wide[:, 1].max()] == pytest.approx([12, 103])
    assert [narrow[:, 1].min(), narrow[:, 1].max()] == pytest.approx([32, 83])


def test_no_more_variables_are_shown_than_asked_for():
    assert len(plots.forecast(torch.randn(9, 2, 8), torch.zeros(3, 8), most=2).axes) == 2


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"got \(9, 2, 3\), \(4, 2\) and \(5, 2\)"):
        plots.forecast(torch.zeros(9, 2, 3), torch.zeros(4, 2), ahead=torch.zeros(5, 2))
