"""Figures of factors show the numbers of the assignment, and the moments of each unit."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

import pyrovae as pv
from pyrovae import plots
from pyrovae.plots import style


@pytest.fixture(scope="module")
def world():
    generator = np.random.default_rng(0)
    factors = generator.integers(5, size=(600, 2))
    noise = generator.standard_normal((600, 2))
    z = np.column_stack([noise[:, 0], factors[:, 1] + 0.1 * noise[:, 1], -factors[:, 0]])
    return z, factors


class TestAssignment:
    def test_shows_shares_and_frames_the_holders(self, world):
        found = pv.assign(*world, names=["hue", "size"])
        figure = plots.assignment(found)
        axes, bar = figure.axes
        image = axes.images[0]
        shown = np.asarray(image.get_array())
        np.testing.assert_allclose(shown, found.share)
        assert image.get_clim() == (0.0, 1.0)
        assert [t.get_text() for t in axes.get_xticklabels()] == ["hue", "size"]
        assert [t.get_text() for t in axes.get_yticklabels()] == list(found.units)
        framed = {(round(p.get_x() + 0.47), round(p.get_y() + 0.45)) for p in axes.patches}
        assert framed == {(1, 1), (0, 2)}
        texts = {t.get_position(): t.get_text() for t in axes.texts}
        assert texts[(0, 2)] == f"{found.share[2, 0]:.0%}"
        assert (0, 0) not in texts
        assert "share" in bar.get_ylabel()

    def test_of_many_units_shows_those_that_tell_most(self, world):
        z, factors = world
        noise = np.random.default_rng(1).standard_normal((600, 40))
        found = pv.assign(np.hstack([noise, z]), factors)
        labels = [t.get_text() for t in plots.assignment(found).axes[0].get_yticklabels()]
        assert len(labels) == 30
        assert {"z[41]", "z[42]"} <= {*labels}
        assert labels == sorted(labels, key=found.units.index)


class TestResponses:
    def test_show_the_mean_and_the_deviation_at_each_value(self, world):
        z, factors = world
        figure = plots.factor_responses(torch.from_numpy(z), factors, names=["hue", "size"])
        panels = np.array(figure.axes).reshape(3, 2)
        for j in range(3):
            for k in range(2):
                groups = [z[factors[:, k] == value, j] for value in range(5)]
                (line,) = panels[j, k].lines
                np.testing.assert_allclose(line.get_ydata(), [g.mean() for g in groups])
                band = panels[j, k].collections[0].get_paths()[0].vertices[:, 1]
                assert band.max() == pytest.approx(max(g.mean() + g.std() for g in groups))
                told = (j, k) in {(1, 1), (2, 0)}
                assert to_hex(line.get_color(), keep_alpha=False).upper() == (
                    style.TRAIN if told else style.OBJECTIVE
                )
        assert [axes.get_ylabel() for axes in panels[:, 0]] == ["z[0]", "z[1]", "z[2]"]
        assert [axes.get_xlabel() for axes in panels[-1]] == ["hue", "size"]

    def test_of_many_units_show_the_ten_that_answer_most(self, world):
        z, factors = world
        noise = np.random.default_rng(1).standard_normal((600, 40))
        figure = plots.factor_responses(np.hstack([noise, z]), factors)
        labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
        assert len(labels) == 10
        assert {"z[41]", "z[42]"} <= {*labels}

    def test_bad_input_is_refused(self, world):
        z, factors = world
        with pytest.raises(ValueError, match="600 rows and the factors have 5"):
            plots.factor_responses(z, factors[:5])
