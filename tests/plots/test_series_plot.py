"""Curves show the values of each step, and no padding."""

import pytest
import torch

from pyrovae import plots

X = torch.arange(2 * 3 * 2.0).reshape(2, 3, 2)
MASK = torch.tensor([[True, True, True], [True, True, False]])


def drawn(axes):
    return {
        line.get_label(): [list(line.get_xdata()), list(line.get_ydata())] for line in axes.lines
    }


def test_steps_are_drawn_and_padding_is_not():
    figure = plots.series(X, MASK, names=["a", "b"])
    first, second = map(drawn, figure.axes)
    assert first == {"a": [[1, 2, 3], [0, 2, 4]], "b": [[1, 2, 3], [1, 3, 5]]}
    assert second == {"a": [[1, 2], [6, 8]], "b": [[1, 2], [7, 9]]}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_reconstructions_are_lines_over_the_data():
    x, means = X.clone(), 10 + X
    x[1, 2] = means[1, 2] = torch.nan  # padding
    axes = plots.series(x, MASK, reconstructions=means).axes[1]
    data, line, *_ = axes.lines
    assert [data.get_linestyle(), line.get_linestyle()] == ["None", "-"]
    assert data.get_color() == line.get_color() != axes.lines[2].get_color()
    assert drawn(axes) == {
        "variable 0, data": [[1, 2], [6, 8]],
        "variable 0, reconstruction": [[1, 2], [16, 18]],
        "variable 1, data": [[1, 2], [7, 9]],
        "variable 1, reconstruction": [[1, 2], [17, 19]],
    }


def test_a_figure_says_which_variables_it_leaves_out():
    axes = plots.series(torch.zeros(1, 3, 6)).axes[0]
    assert len(axes.lines) == 4
    assert axes.get_xlabel() == "step (the first 4 of 6 variables)"


def test_a_single_step_has_a_marker():
    (line,) = plots.series(torch.ones(1, 1, 1)).axes[0].lines
    assert line.get_marker() == "o"


@pytest.mark.parametrize(
    ("x", "given", "said"),
    [
        (X[0], {}, r"got shapes \(3, 2\)"),
        (X[:0], {}, r"got shapes \(0, 3, 2\)"),
        (X, {"mask": MASK[:1]}, r"and \(1, 3\)"),
        (X, {"reconstructions": X[:1]}, r"\(1, 3, 2\) and"),
        (X.log(), {}, "finite numbers; got -inf at a step"),
        (X, {"names": ["a"]}, "one name for each of 2 variables; got 1"),
    ],
    ids=["axes", "none", "mask", "reconstructions", "infinite", "names"],
)
def test_what_is_no_curve_is_refused(x, given, said):
    with pytest.raises(ValueError, match=said):
        plots.series(x, **given)
