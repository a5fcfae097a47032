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
        axes = plots.assignment(found).axes[0]
        labels = [t.get_text() for t in axes.get_yticklabels()]
        assert len(labels) == 30
        assert axes.get_title(loc="left").endswith("The 30 of 43 units that tell most")
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
        assert figure.get_suptitle() == (
            "colored: held by the unit. The 10 of 43 units that tell most"
        )

    def test_are_colored_by_the_assignment(self):
        """Of 40 values in 60 data, a unit of noise varies between them, but tells nothing."""
        generator = np.random.default_rng(0)
        factors = np.column_stack([np.arange(80) % 40, generator.integers(2, size=80)])
        z = np.column_stack([generator.standard_normal(80), factors[:, 1]])
        means = np.stack([z[factors[:, 0] == v, 0].mean() for v in factors[:, 0]])
        assert means.var() > 0.3 * z[:, 0].var()  # between the values of a factor it ignores
        found = pv.assign(z, factors)
        for given in (None, found):
            panels = np.array(plots.factor_responses(z, factors, assigned=given).axes)
            colors = [
                to_hex(axes.lines[0].get_color(), keep_alpha=False).upper() for axes in panels
            ]
            held = [
                f"factor {k}" in found.contents.get(f"z[{j}]", ()) for j, k in np.ndindex(2, 2)
            ]
            assert held == [False, False, False, True]
            assert colors == [style.TRAIN if each else style.OBJECTIVE for each in held]
        with pytest.raises(ValueError, match="assignment is of the units.*assign the same ones"):
            plots.factor_responses(z, factors, names=["a", "b"], assigned=found)

    def test_write_the_values_as_they_are(self):
        generator = np.random.default_rng(0)
        values = {
            "shape": np.array(["square", "heart", "<b>"])[generator.integers(3, size=200)],
            "size": np.array([0.0, 10.0, 25.0])[generator.integers(3, size=200)],
            "many": np.arange(200) % 50 + 7,
        }
        figure = plots.factor_responses(generator.standard_normal((200, 1)), values)
        shown = [[t.get_text() for t in axes.get_xticklabels()] for axes in figure.axes]
        assert shown[0] == sorted({*values["shape"]})
        assert shown[1] == ["0", "10", "25"]
        assert shown[2][0] == "7"
        assert shown[2][-1] == "56"
        assert [axes.get_xticks()[-1] for axes in figure.axes] == [2, 2, 49]

    def test_bad_input_is_refused(self, world):
        z, factors = world
        with pytest.raises(ValueError, match="600 rows and the factors have 5"):
            plots.factor_responses(z, factors[:5])
