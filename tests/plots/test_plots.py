"""A figure shows the numbers it was given: every plotted value is read back and compared."""

import math
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

import pyrovae as pv
from pyrovae import plots
from pyrovae.plots import image_grid as mosaics
from pyrovae.plots import style
from pyrovae.plots.image_grid import png
from pyrovae.train.callbacks import Epoch

SHAPE = (1, 4, 4)


def vae(latents: int = 3, width: int = 16, *, likelihood=pv.likelihoods.Bernoulli) -> pv.VAE:
    return pv.VAE(
        prior=pv.priors.StandardNormal(latents),
        likelihood=likelihood(pv.nets.MLP(latents, 8, width)),
        guide=pv.guides.MeanFieldNormal(pv.nets.MLP(width, 8, 2 * latents)),
    )


def binary(n: int, width: int = 16) -> torch.Tensor:
    return torch.bernoulli(torch.full((n, width), 0.5))


def tile(figure, row: int, column: int, shape=SHAPE) -> torch.Tensor:
    """Cut one image out of a mosaic with a gap of one pixel."""
    pixels = torch.as_tensor(figure.axes[0].images[0].get_array().filled(math.nan))
    _, height, width = shape
    top, left = row * (height + 1), column * (width + 1)
    return pixels[top : top + height, left : left + width]


class TestMosaics:
    def test_reconstructions_shows_data_above_the_means(self):
        target, x = vae(), binary(13)
        torch.manual_seed(3)
        figure = plots.reconstructions(target, x, SHAPE)
        torch.manual_seed(3)
        means = target.reconstruct(x).reshape(-1, 4, 4)
        for n in range(13):
            block, column = divmod(n, 10)
            data = tile(figure, 2 * block, column)
            assert torch.equal(data, x[n].reshape(4, 4)), n
            assert torch.allclose(tile(figure, 2 * block + 1, column), means[n])
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert labels == ["data", "reconstruction"] * 2
        assert figure.axes[0].images[0].get_clim() == (0.0, 1.0)

    def test_row_names_stand_beside_their_rows(self):
        figure = plots.reconstructions(vae(), binary(3), SHAPE)
        assert list(figure.axes[0].get_yticks()) == [1.5, 6.5]

    def test_samples_shows_the_means_of_the_prior_predictive(self):
        target = vae()
        torch.manual_seed(3)
        figure = plots.samples(target, 8, SHAPE)
        torch.manual_seed(3)
        means = target.predictive(8).mean.reshape(2, 4, 4, 4)
        for row in range(2):
            for column in range(4):
                assert torch.allclose(tile(figure, row, column), means[row, column])

    def test_samples_without_means_shows_draws_of_x(self):
        target = vae()
        torch.manual_seed(3)
        figure = plots.samples(target, 8, SHAPE, means=False)
        torch.manual_seed(3)
        x = target.sample(8).reshape(2, 4, 4, 4)
        assert set(x.unique().tolist()) == {0.0, 1.0}
        for row in range(2):
            for column in range(4):
                assert torch.equal(tile(figure, row, column), x[row, column])

    @pytest.mark.parametrize(("n", "columns"), [(1, 1), (3, 3), (13, 6), (16, 4), (40, 8)])
    def test_samples_fill_their_rows_where_they_can(self, n, columns):
        pixels = plots.samples(vae(), n, SHAPE).axes[0].images[0].get_array()
        assert pixels.shape[1] == 5 * columns - 1

    def test_context_reaches_the_programs(self):
        seen = []

        def prior(label):
            seen.append(label)
            return pv.priors.StandardNormal(2)()

        target = vae(2)
        likelihood, guide = target.likelihood, target.posterior
        conditional = pv.VAE(
            prior, lambda z, x, label: likelihood(z, x), lambda x, label: guide(x)
        )
        label = torch.tensor([1, 2])
        plots.samples(conditional, 2, SHAPE, label)
        plots.reconstructions(conditional, binary(2), SHAPE, label)
        plots.latent_map(conditional, binary(2), label, label)
        assert len(seen) == 2
        assert all(torch.equal(met, label) for met in seen)

    def test_values_beyond_the_unit_interval_share_a_stated_scale(self):
        x = torch.linspace(-2, 3, 32).reshape(2, 16)
        figure = plots.reconstructions(vae(likelihood=pv.likelihoods.Normal), x, SHAPE)
        assert torch.equal(tile(figure, 0, 1), x[1].reshape(4, 4))
        assert figure.axes[0].images[0].get_clim() == pytest.approx((-2, 3))
        assert figure.axes[0].get_xlabel() == "darkest -2, brightest 3"

    def test_color_images_are_scaled_to_the_unit_interval(self):
        x = torch.linspace(-2, 2, 48).reshape(1, 48)
        target = vae(width=48, likelihood=pv.likelihoods.Normal)
        figure = plots.reconstructions(target, x, (3, 4, 4))
        pixels = torch.as_tensor(figure.axes[0].images[0].get_array())[:4, :4]
        assert torch.allclose(pixels, ((x + 2) / 4).reshape(3, 4, 4).permute(1, 2, 0))

    @pytest.mark.parametrize("channels", [1, 3], ids=["gray", "color"])
    def test_data_are_drawn_as_they_are_where_a_reconstruction_leaves_their_scale(self, channels):
        shape = (channels, 4, 4)
        x = torch.rand(2, 16 * channels)
        target = vae(width=16 * channels, likelihood=pv.likelihoods.Normal)
        torch.nn.init.zeros_(target.likelihood.net.layers[-1].weight)
        bias = torch.linspace(-3.0, 4.0, 16 * channels)
        target.likelihood.net.layers[-1].bias.data.copy_(bias)
        figure = plots.reconstructions(target, x, shape)
        image = figure.axes[0].images[0]
        pixels = torch.as_tensor(np.ma.filled(image.get_array(), math.nan)).reshape(9, 9, channels)
        assert torch.equal(pixels[:4, :4], x[0].reshape(shape).permute(1, 2, 0))
        assert figure.axes[0].get_xlabel() == ""
        low, high = image.get_clim()
        shown = ((pixels[5:, :4] - low) / (high - low)).clamp(0, 1)
        wanted = bias.clamp(0, 1).reshape(shape).permute(1, 2, 0)
        torch.testing.assert_close(shown, wanted.to(shown))

    def test_samples_are_clipped_to_a_given_scale(self):
        target = vae(width=48, likelihood=pv.likelihoods.Normal)
        torch.nn.init.zeros_(target.likelihood.net.layers[-1].weight)
        torch.nn.init.constant_(target.likelihood.net.layers[-1].bias, 1.5)
        figure = plots.samples(target, 2, (3, 4, 4), scale=(0, 1))
        assert (np.asarray(figure.axes[0].images[0].get_array()) == 1).all()
        assert figure.axes[0].get_xlabel() == ""

    def test_an_image_of_one_value_and_of_one_pixel(self):
        target = vae(width=1, likelihood=pv.likelihoods.Normal)
        torch.nn.init.zeros_(target.likelihood.net.layers[-1].weight)
        torch.nn.init.constant_(target.likelihood.net.layers[-1].bias, 5.0)
        figure = plots.samples(target, 1, (1, 1, 1))
        assert figure.axes[0].images[0].get_array().tolist() == [[5.0]]

    def test_dropout_is_off_and_put_back(self):
        target = vae()
        target.posterior.net.layers.append(torch.nn.Dropout(0.9))
        x = binary(4)
        first = plots.latent_map(target, x, [0] * 4).axes[0].collections[0].get_offsets()
        second = plots.latent_map(target, x, [0] * 4).axes[0].collections[0].get_offsets()
        assert first.tolist() == second.tolist()
        assert all(module.training for module in target.modules())

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((1, 4, 5), r"\(1, 4, 5\) are flat vectors \[N, 20\].*got \(2, 16\)"),
            ((2, 2, 4), r"channels 1 or 3; got \(2, 2, 4\)"),
            ((4, 4), r"\(channels, height, width\).*got \(4, 4\)"),
            ((1, 0, 16), "channels, height, width"),
        ],
    )
    def test_a_wrong_shape_is_an_error(self, shape, message):
        for draw in (
            lambda: plots.reconstructions(vae(), binary(2), shape),
            lambda: plots.samples(vae(), 2, shape),
        ):
            with pytest.raises(ValueError, match=message):
                draw()

    def test_no_data_and_no_samples_are_errors(self):
        with pytest.raises(ValueError, match=r"N >= 1; got \(0, 16\)"):
            plots.reconstructions(vae(), binary(0), SHAPE)
        with pytest.raises(ValueError, match="at least one; got n=0"):
            plots.samples(vae(), 0, SHAPE)

    def test_means_that_are_not_finite_are_an_error(self):
        target = vae(likelihood=pv.likelihoods.Normal)
        torch.nn.init.constant_(target.likelihood.net.layers[-1].bias, math.inf)
        with pytest.raises(ValueError, match="NaN or infinite"):
            plots.samples(target, 2, SHAPE)


def epochs(n: int, *, validation: bool = True) -> pv.History:
    missing = 1.0 if validation else math.nan
    return pv.History(
        [
            Epoch(
                epoch=i,
                loss=40.0 / i,
                elbo=-30.0 / i,
                rate=2.0 * i,
                distortion=20.0 / i,
                validation_elbo=-31.0 / i * missing,
                validation_rate=2.5 * i * missing,
                validation_distortion=21.0 / i * missing,
                kl_weight=1.0,
                seconds=0.1,
            )
            for i in range(1, n + 1)
        ]
    )


class TestHistory:
    def test_lines_are_the_columns(self):
        trained = epochs(5)
        panels = plots.history(trained).axes
        objective, *elbo = panels[0].lines
        assert list(objective.get_ydata()) == [-loss for loss in trained.column("loss")]
        for name, lines in (
            ("elbo", elbo),
            ("rate", panels[1].lines),
            ("distortion", panels[2].lines),
        ):
            train, held_out = lines
            assert list(train.get_xdata()) == [1, 2, 3, 4, 5]
            assert list(train.get_ydata()) == trained.column(name)
            assert list(held_out.get_ydata()) == trained.column(f"validation_{name}")
            assert (to_hex(train.get_color()), to_hex(held_out.get_color())) == (
                style.TRAIN.lower(),
                style.VALIDATION.lower(),
            )

    def test_labels_and_unit(self):
        panels = plots.history(epochs(2)).axes
        assert panels[0].get_ylabel() == "nats per datum"
        assert {axes.get_xlabel() for axes in panels} == {"epoch"}
        legend = [text.get_text() for text in panels[0].get_legend().get_texts()]
        assert legend == ["objective", "training data", "validation"]

    def test_without_validation_there_is_no_line_of_it(self):
        panels = plots.history(epochs(1, validation=False)).axes
        assert [len(axes.lines) for axes in panels] == [2, 1, 1]

    def test_an_empty_history_is_an_error(self):
        with pytest.raises(ValueError, match="no epochs to plot"):
            plots.history(pv.History())


@pytest.fixture(scope="module")
def report() -> pv.Report:
    with pv.seeded(0):
        return pv.evaluate(vae(), binary(12), particles=400, ks=[10, 100, 400])


class TestBounds:
    def test_points_and_bars_are_the_means_and_their_errors(self, report):
        axes = plots.bounds(report).axes[0]
        line, _, (bars,) = axes.containers[0]
        estimates = [report.elbo, *report.iwae.values()]
        assert list(line.get_xdata()) == [1, 10, 100, 400]
        assert list(line.get_ydata()) == [estimate.mean for estimate in estimates]
        for segment, estimate in zip(bars.get_segments(), estimates, strict=True):
            half = (segment[1][1] - segment[0][1]) / 2
            assert half == pytest.approx(estimate.error_over_particles, rel=1e-6)

    def test_axes_and_errors_are_named(self, report):
        axes = plots.bounds(report).axes[0]
        assert axes.get_xscale() == "log"
        assert axes.get_ylabel() == "bound on log p(x), nats per datum"
        assert axes.get_title(loc="left") == "12 data, 400 particles"
        (label,) = (text.get_text() for text in axes.get_legend().get_texts())
        assert "1 standard error over particles" in label
        assert f"over data: ± {report.iwae[400].error_over_data:.2g}, common" in label

    def test_ticks_stand_at_the_ks_unless_they_crowd(self, report):
        def ticks(shown: pv.Report) -> list[str]:
            figure = plots.bounds(shown)
            png(figure)
            return [label.get_text() for label in figure.axes[0].get_xticklabels()]

        assert ticks(report) == ["1\n(ELBO)", "10", "100", "400"]
        dense = replace(report, iwae=dict.fromkeys([2, 3, 4, 100], report.iwae[10]))
        assert ticks(dense) == ["1\n(ELBO)", "10", "100"]

    def test_errors_that_are_not_known_are_left_out(self):
        one = pv.evaluate(vae(), binary(1), particles=3, ks=[3])
        axes = plots.bounds(one).axes[0]
        (label,) = (text.get_text() for text in axes.get_legend().get_texts())
        assert "nan" not in label
        unknown = replace(one, elbo=replace(one.elbo, standard_error=torch.tensor([math.nan])))
        _, _, (bars,) = plots.bounds(unknown).axes[0].containers[0]
        assert bars.get_segments()[0][0][1] == bars.get_segments()[0][1][1]

    def test_a_report_without_iwae_is_an_error(self):
        with pytest.raises(ValueError, match="no importance-weighted bound"):
            plots.bounds(pv.evaluate(vae(), binary(3), particles=1))


def offsets(figure) -> list[torch.Tensor]:
    return [torch.as_tensor(dots.get_offsets().data) for dots in figure.axes[0].collections]


class TestLatentMap:
    def test_two_dimensions_are_the_posterior_means(self):
        target, x, labels = vae(2), binary(9), torch.tensor([3, 7, 7] * 3)
        figure = plots.latent_map(target, x, labels)
        means = target.encode(x).mean.detach().double()
        for points, label in zip(offsets(figure), (3, 7), strict=True):
            assert torch.allclose(points, means[labels == label])
        axes = figure.axes[0]
        assert axes.get_xlabel() == "posterior mean of $z_1$"
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["3", "7"]
        assert legend.get_title().get_text() == "label"

    def test_more_dimensions_are_the_principal_components(self):
        target, x = vae(5), binary(40)
        figure = plots.latent_map(target, x, [0] * 40)
        (points,) = offsets(figure)
        means = target.encode(x).mean.detach().double()
        covariance = torch.cov(means.T)
        values = torch.linalg.eigvalsh(covariance).flip(0)
        assert torch.allclose(torch.cov(points.T), torch.diag(values[:2]), atol=1e-9)
        shares = 100 * values / values.sum()
        names = (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel())
        for name, order, share in zip(names, ("first", "second"), shares, strict=False):
            assert name == f"posterior means, {order} component ({share:.0f}% of variance)"

    def test_one_dimension_is_drawn_against_its_standard_deviation(self):
        target, x = vae(1), binary(6)
        figure = plots.latent_map(target, x, [0] * 6)
        (points,) = offsets(figure)
        posterior = target.encode(x)
        wanted = torch.cat([posterior.mean, posterior.stddev], 1).detach().double()
        assert torch.allclose(points, wanted)
        assert figure.axes[0].get_ylabel() == "posterior standard deviation of $z$"

    def test_classes_differ_in_color_and_marker_up_to_seventy(self):
        looks = {
            (style.CLASSES[i % len(style.CLASSES)], style.MARKERS[i % len(style.MARKERS)])
            for i in range(70)
        }
        assert len(looks) == 70
        figure = plots.latent_map(vae(2), binary(10), range(10))
        colors = [to_hex(dots.get_facecolor()[0]) for dots in figure.axes[0].collections]
        assert colors == [color.lower() for color in style.CLASSES]

    def test_labels_of_another_length_are_an_error(self):
        with pytest.raises(ValueError, match=r"each of the 4 data; got labels of shape \(3,\)"):
            plots.latent_map(vae(), binary(4), [0, 1, 2])

    def test_a_site_the_guide_does_not_have_is_an_error(self):
        with pytest.raises(ValueError, match="name one"):
            plots.latent_map(vae(), binary(4), [0] * 4, site="top")


class TestSave:
    def test_writes_the_same_png_each_time(self, tmp_path, report):
        path = tmp_path / "figures" / "bounds.png"
        plots.save(plots.bounds(report), path)
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.width == int(0.7 * mosaics.WIDTH * mosaics.PIXELS_PER_INCH)
        first = path.read_bytes()
        plots.save(plots.bounds(report), path)
        assert path.read_bytes() == first
        assert [file.name for file in path.parent.iterdir()] == ["bounds.png"]

    def test_another_ending_is_an_error(self, tmp_path, report):
        with pytest.raises(ValueError, match=r"as .png files; got the name 'bounds.pdf'"):
            plots.save(plots.bounds(report), tmp_path / "bounds.pdf")

    def test_a_notebook_shows_the_png(self, report):
        assert plots.bounds(report)._repr_png_().startswith(b"\x89PNG")


def test_no_global_state_of_matplotlib_is_touched(report):
    before = dict(matplotlib.rcParams)
    plots.bounds(report)
    plots.samples(vae(), 3, SHAPE)
    assert dict(matplotlib.rcParams) == before
    pyplot = __import__("sys").modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
