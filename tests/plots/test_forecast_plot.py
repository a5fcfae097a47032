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
    assert list(lines["median"].get_xdata()) == [3, 4, 5]
    assert list(lines["median"].get_ydata()) == [2, 57, 58]
    assert list(lines["held out"].get_xdata()) == [4, 5]
    wide, narrow = (each.get_paths()[0].vertices for each in axes.collections)
    for drawn, low, high in ((wide, 12, 103), (narrow, 32, 83)):
        ahead = drawn[drawn[:, 0] > 3]
        assert [ahead[:, 1].min(), ahead[:, 1].max()] == pytest.approx([low, high])


def test_no_more_variables_are_shown_than_asked_for():
    assert len(plots.forecast(torch.randn(9, 2, 8), torch.zeros(3, 8), most=2).axes) == 2


def test_a_forecast_of_one_step_is_a_line_from_the_last_step_seen():
    figure = plots.forecast(torch.ones(9, 1, 1), torch.zeros(3, 1, requires_grad=True))
    median = next(line for line in figure.axes[0].lines if line.get_label() == "median")
    assert [list(median.get_xdata()), list(median.get_ydata())] == [[3, 4], [0, 1]]


def test_what_does_not_fit_is_refused():
    draws, seen = torch.zeros(9, 2, 3), torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"got \(9, 2, 3\), \(4, 2\), \(5, 2\)"):
        plots.forecast(draws, torch.zeros(4, 2), ahead=torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"got \(9, 2, 3\), \(\)"):
        plots.forecast(draws, torch.zeros(()))
    for names in (["a", "a", "b"], ["a"], list("abcd")):
        with pytest.raises(ValueError, match="3 different names"):
            plots.forecast(draws, seen, names=names)
    with pytest.raises(ValueError, match="most=0"):
        plots.forecast(draws, seen, most=0)
