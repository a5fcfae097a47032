"""A piano roll shows each note at its step and pitch, and padding as what it is."""

import pytest
import torch
from matplotlib.colors import to_rgba

from pyrovae import plots
from pyrovae.plots import piano

X = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.25, 1.0]], [[0.0, 1.0, 0.0], [0.5, 0.5, 0.5]]])
MASK = torch.tensor([[True, True], [True, False]])


def test_notes_are_where_they_sound():
    figure = plots.piano_rolls(X, MASK, names=["data", "sample"], lowest=59)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["data", "sample"]
    for axes, x, mask in zip(figure.axes, X, MASK, strict=True):
        (image,) = axes.images
        shown = image.get_array()
        assert (~shown.mask).T.tolist() == mask.unsqueeze(-1).expand(-1, 3).tolist()
        assert shown.data.T[mask.numpy()].tolist() == x[mask].tolist()
        assert image.get_extent() == [0.5, 2.5, 58.5, 61.5]
        assert image.origin == "lower"
        assert image.get_clim() == (0.0, 1.0)
        assert [label.get_text() for label in axes.get_yticklabels()] == ["C4"]
        assert axes.get_yticks().tolist() == [60]
    colors = image.cmap([0.0, 1.0])
    assert colors.tolist() == [[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
    assert tuple(image.cmap.get_bad()) == pytest.approx(to_rgba(piano.PADDING))


def test_a_piano_has_eight_octaves_of_c():
    figure = plots.piano_rolls(torch.zeros(1, 4, 88))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"C{octave}" for octave in range(1, 9)]


@pytest.mark.parametrize(
    ("x", "mask", "names", "said"),
    [
        (X[0], None, (), r"got shapes \(2, 3\)"),
        (X[:0], None, (), r"got shapes \(0, 2, 3\)"),
        (X, MASK[:1], (), r"and \(1, 2\)"),
        (3 * X, None, (), "from 0 to 1; got 3: give notes"),
        (X * float("nan"), None, (), "from 0 to 1; got nan"),
        (X, MASK, ["one"], "one name for each of 2 sequences; got 1"),
    ],
    ids=["axes", "none", "mask", "logits", "NaN", "names"],
)
def test_what_is_no_music_is_refused(x, mask, names, said):
    with pytest.raises(ValueError, match=said):
        plots.piano_rolls(x, mask, names=names)


def test_padding_may_hold_anything():
    x = X.clone()
    x[1, 1] = float("nan")
    assert plots.piano_rolls(x, MASK).axes[1].images[0].get_array().mask.sum() == 3


def test_keys_without_a_pitch_are_numbered():
    axes = plots.piano_rolls(torch.zeros(1, 4, 15), lowest=None).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "12"]
    assert axes.images[0].get_extent() == [0.5, 4.5, -0.5, 14.5]
