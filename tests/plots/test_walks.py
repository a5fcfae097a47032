"""Figures of walks, interpolations and manifolds show what was decoded, and an animation too."""

import io
import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

import pyrovae as pv
from pyrovae import plots

SHAPE = (1, 4, 4)
COLOR = (3, 4, 4)


def vae(latents=3, width=16, likelihood=pv.likelihoods.Bernoulli):
    return pv.VAE(
        prior=pv.priors.StandardNormal(latents),
        likelihood=likelihood(pv.nets.MLP(latents, 8, width)),
        guide=pv.guides.MeanFieldNormal(pv.nets.MLP(width, 8, 2 * latents)),
    )


def binary(n, width=16):
    return torch.bernoulli(torch.full((n, width), 0.5))


def texts(ticks):
    return [label.get_text() for label in ticks]


class TestTraversals:
    def test_rows_are_the_means_labeled_by_kl_and_factor(self):
        walk = pv.traverse(vae(), binary(9), of="prior")
        figure = plots.traversals(walk, SHAPE, held={walk.names[1]: "shape"})
        axes = figure.axes[0]
        pixels = torch.as_tensor(axes.images[0].get_array().filled(math.nan))
        for row, column in itertools.product(range(3), range(13)):
            tile = pixels[5 * row : 5 * row + 4, 5 * column : 5 * column + 4]
            assert torch.equal(tile, walk.means[row, column].reshape(4, 4))
        assert texts(axes.get_yticklabels()) == [
            f"{walk.names[0]}, {walk.kl[0]:.2f} nats",
            f"{walk.names[1]}, {walk.kl[1]:.2f} nats\nshape",
            f"{walk.names[2]}, {walk.kl[2]:.2f} nats",
        ]
        assert texts(axes.get_xticklabels())[::3] == ["-3", "-1.5", "0", "1.5", "3"]
        caption = "one dimension at a time, at quantiles of the prior, sorted by KL"
        assert axes.get_xlabel() == caption

    def test_columns_are_levels_where_the_values_differ(self):
        walk = pv.traverse(vae(), binary(9))
        axes = plots.traversals(walk, SHAPE).axes[0]
        assert texts(axes.get_xticklabels())[:2] == ["1%", "5%"]
        assert "quantiles of the aggregate posterior" in axes.get_xlabel()

    def test_levels_of_a_normal_are_percent_with_one_decimal(self):
        levels = pv.traverse(vae(), binary(9), of="prior").quantiles
        walk = pv.traverse(vae(), binary(9), quantiles=levels)
        heads = texts(plots.traversals(walk, SHAPE).axes[0].get_xticklabels())
        assert heads[:3] == ["0.1%", "0.6%", "2.3%"]
        assert heads[6:7] + heads[-3:] == ["50%", "97.7%", "99.4%", "99.9%"]

    def test_a_kl_that_is_not_known_is_left_out(self):
        target = vae(2)
        target.prior = pv.priors.StudentT(2)
        walk = pv.traverse(target, binary(9), dimensions=["z[1]"], quantiles=[0.2, 0.8])
        axes = plots.traversals(walk, SHAPE).axes[0]
        assert texts(axes.get_yticklabels()) == ["z[1]"]

    def test_nothing_is_cut_or_overlaps(self):
        walk = pv.traverse(vae(10), binary(9), of="prior")
        held = dict.fromkeys(walk.names, "a factor's long name")
        figure = plots.traversals(walk, SHAPE, held=held)
        axes = figure.axes[0]
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert_apart_and_inside(figure, ticks)

    def test_a_single_datum_is_not_enough(self):
        with pytest.raises(ValueError, match="got 1: pass two or more"):
            pv.traverse(vae(), binary(1))


def test_profiles_show_the_change_of_each_column_from_the_middle():
    target = vae(2, 3, pv.likelihoods.Normal)
    walk = pv.traverse(target, torch.randn(9, 3), of="prior")
    figure = plots.profiles(walk, ["age", "height", "income"], held={"z[0]": "wealth"})
    panels = [axes for axes in figure.axes if axes.images]
    for axes, means, name in zip(panels, walk.means, walk.names, strict=True):
        drawn = torch.as_tensor(axes.images[0].get_array().data)
        torch.testing.assert_close(drawn, (means - means[6]).T.double())
        assert axes.get_title().startswith(f"{name}, ")
        assert ("wealth" in axes.get_title()) == (name == "z[0]")
    assert texts(panels[0].get_yticklabels()) == ["age", "height", "income"]
    assert texts(panels[0].get_xticklabels()) == ["-3", "0", "3"]
    assert figure.axes[-1].get_ylabel() == "change of the mean of $x$,\nunits of x"
    figure = plots.profiles(walk, unit="numbers in standard deviations")
    assert figure.axes[-1].get_ylabel().endswith("$x$,\nnumbers in standard deviations")
    with pytest.raises(ValueError, match="x has 3 columns; got 2 names"):
        plots.profiles(walk, ["age", "height"])


def test_interpolations_are_rows_of_means():
    target, x = vae(), binary(2)
    paths = {"linear": pv.paths.linear, "spherical": pv.paths.spherical}
    found = {name: pv.interpolate(target, x, path=path, steps=3) for name, path in paths.items()}
    axes = plots.interpolations(found, SHAPE).axes[0]
    pixels = torch.as_tensor(axes.images[0].get_array().filled(math.nan))
    for row, name in enumerate(paths):
        for column in range(3):
            tile = pixels[5 * row : 5 * row + 4, 5 * column : 5 * column + 4]
            assert torch.equal(tile, found[name].means[column].reshape(4, 4))
    assert texts(axes.get_yticklabels()) == ["linear", "spherical"]
    assert texts(axes.get_xticklabels()) == ["0", "0.5", "1"]
    with pytest.raises(ValueError, match="needs at least one"):
        plots.interpolations({}, SHAPE)


def test_images_beyond_a_given_scale_are_clipped_alike():
    """Means of a normal likelihood leave [0, 1]; the scale of the data is kept, in color too."""
    target = vae(2, 48, pv.likelihoods.Normal)
    torch.nn.init.normal_(target.likelihood.net.layers[-1].bias, std=3.0)
    walk = pv.traverse(target, torch.rand(9, 48), of="prior")
    between = {"linear": pv.interpolate(target, torch.rand(2, 48))}
    figures = [
        plots.traversals(walk, COLOR, scale=(0, 1)),
        plots.interpolations(between, COLOR, scale=(0, 1)),
        plots.manifold(pv.manifold(target, side=3), COLOR, scale=(0, 1)),
    ]
    for figure in figures:
        (image,) = figure.axes[0].images
        assert image.get_clim() == (0, 1)
        assert "darkest" not in figure.axes[0].get_xlabel() + figure.axes[0].get_title(loc="left")
    pixels = np.asarray(figures[0].axes[0].images[0].get_array())[:4, :4]
    wanted = walk.means[0, 0].reshape(COLOR).permute(1, 2, 0).clamp(0, 1)
    torch.testing.assert_close(torch.as_tensor(pixels), wanted)
    assert walk.means[0, 0].max() > 1


@pytest.mark.parametrize("shape", [SHAPE, COLOR])
def test_a_manifold_has_the_first_dimension_across_and_the_second_up(shape):
    found = pv.manifold(vae(2, math.prod(shape)), side=3)
    axes = plots.manifold(found, shape).axes[0]
    pixels = torch.as_tensor(np.asarray(axes.images[0].get_array()))
    for i, j in itertools.product(range(3), range(3)):
        wanted = found.means[i, j].reshape(shape).permute(1, 2, 0)
        top = 4 * (2 - j)
        assert torch.equal(pixels[top : top + 4, 4 * i : 4 * i + 4].reshape(wanted.shape), wanted)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")
    assert texts(axes.get_xticklabels()) == ["-0.97", "0.00", "0.97"]
    assert list(axes.get_yticks()) == [9.5, 5.5, 1.5]
    assert texts(axes.get_yticklabels()) == ["-0.97", "0.00", "0.97"]


class TestAnimation:
    @pytest.mark.parametrize(
        ("shape", "allowed"),
        # Two roundings to one of 256 grays; the 256 colors of a frame.
        [(SHAPE, 2.0), (COLOR, 16.0)],
        ids=["gray", "color"],
    )
    def test_frames_read_back_are_what_is_decoded(self, shape, allowed, tmp_path):
        target, x = vae(3, math.prod(shape)), binary(9, math.prod(shape))
        walk = pv.traverse(target, x, of="prior", quantiles=[0.01, 0.3, 0.7, 0.99])
        made = plots.animation(walk, shape, held={"z[1]": "slant"})
        plots.save(made, tmp_path / "walk.gif")
        with Image.open(tmp_path / "walk.gif") as gif:
            assert gif.n_frames == 6
            assert gif.info["loop"] == 0
            frames = []
            for number in range(6):
                gif.seek(number)
                frames.append(np.asarray(gif.convert("RGB")).astype(float))
        for number, step in enumerate([0, 1, 2, 3, 2, 1]):
            tiles = cut(frames[number], 3, shape)
            for row in range(3):
                z = walk.means[row, step].reshape(shape)
                wanted = 255 * z.permute(1, 2, 0).expand(4, 4, 3).double().numpy()
                assert np.abs(tiles[row] - wanted).max() <= allowed

    def test_a_notebook_is_given_the_gif(self):
        import base64

        walk = pv.traverse(vae(), binary(9), of="prior", quantiles=[0.2, 0.8])
        made = plots.animation(walk, SHAPE)
        (kind,) = made._repr_mimebundle_()
        assert kind == "image/gif"
        with Image.open(io.BytesIO(base64.b64decode(made._repr_mimebundle_()[kind]))) as gif:
            assert gif.n_frames == 2

    def test_refuses_another_ending_and_a_single_step(self, tmp_path):
        walk = pv.traverse(vae(), binary(9), quantiles=[0.2, 0.8])
        with pytest.raises(ValueError, match=r"animations are written as .gif files; got"):
            plots.save(plots.animation(walk, SHAPE), tmp_path / "walk.png")
        with pytest.raises(ValueError, match=r"figures are written as .png files; got"):
            plots.save(plots.traversals(walk, SHAPE), tmp_path / "walk.gif")
        with pytest.raises(ValueError, match="two quantiles or more; got 1"):
            plots.animation(pv.traverse(vae(), binary(9), quantiles=[0.5]), SHAPE)


def cut(frame, count, shape):
    """Return the tiles of a frame, by its columns and rows that are not white throughout.

    The tiles are the only dark blocks of at least half their height.
    """
    _, height, width = shape
    inside = (frame < 254.5).any(-1)
    across = np.flatnonzero(inside.sum(0) > 0.4 * inside.shape[0])
    starts = [a for a in across if a - 1 not in across]
    ends = [a for a in across if a + 1 not in across]
    assert len(starts) == count
    tiles = []
    for left, right in zip(starts, ends, strict=True):
        down = np.flatnonzero(inside[:, left : right + 1].all(1))
        top, bottom = down.min(), down.max()
        rows = top + (np.arange(height) + 0.5) / height * (bottom - top + 1)
        columns = left + (np.arange(width) + 0.5) / width * (right - left + 1)
        tiles.append(frame[rows.astype(int)][:, columns.astype(int)])
    return tiles


def drawn(figure):
    """Draw a figure, and return the renderer that knows the extents of its texts."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def assert_apart_and_inside(figure, labels):
    """Check that texts lie inside the figure and do not overlap."""
    renderer = drawn(figure)
    boxes = [label.get_window_extent(renderer) for label in labels]
    page = figure.bbox
    for box in boxes:
        assert page.x0 <= box.x0 <= box.x1 <= page.x1
        assert page.y0 <= box.y0 <= box.y1 <= page.y1
    for a, b in itertools.combinations(boxes, 2):
        assert not (a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1), (a, b)


class TestLegends:
    @pytest.mark.parametrize(
        ("count", "word"), [(18, ""), (26, "batch "), (27, ""), (100, ""), (110, "a batch named ")]
    )
    def test_of_many_labels_are_apart_inside_and_beside_the_axes(self, count, word):
        labels = torch.arange(120) % count
        named = [f"{word}{label:03d}" for label in labels.tolist()] if word else labels
        figure = plots.latent_map(vae(2), binary(120), named)
        (legend,) = figure.legends
        assert len(legend.get_texts()) == count
        assert_apart_and_inside(figure, legend.get_texts())
        renderer = figure.canvas.get_renderer()
        assert legend.get_window_extent(renderer).x0 >= figure.axes[0].bbox.x1
        assert min(text.get_fontsize() for text in legend.get_texts()) >= 8
        assert figure.axes[0].bbox.width >= 0.5 * 0.8 * 7.2 * figure.dpi
        looks = {
            (tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes())
            for dots in figure.axes[0].collections
        }
        assert len(looks) == count

    def test_words_are_sorted_and_their_points_are_their_data(self):
        target, x = vae(2), binary(6)
        figure = plots.latent_map(target, x, ["b", "a", "b", "c", "a", "b"])
        assert texts(figure.legends[0].get_texts()) == ["a", "b", "c"]
        points = torch.as_tensor(figure.axes[0].collections[1].get_offsets().data)
        torch.testing.assert_close(points, target.embed(x[[0, 2, 5]]).double())

    def test_numbers_of_a_scale_get_a_color_bar(self):
        labels = torch.linspace(0, 1, 6)
        figure = plots.latent_map(vae(2), binary(6), labels)
        assert not figure.legends
        colors = figure.axes[0].collections[0].get_array()
        assert torch.equal(torch.as_tensor(colors).float(), labels)
        assert figure.axes[1].get_ylabel() == "label"
        assert not plots.latent_map(vae(2), binary(111), torch.arange(111)).legends

    def test_more_words_than_looks_are_refused(self):
        with pytest.raises(ValueError, match="tells 110 labels apart; got 111"):
            plots.latent_map(vae(2), binary(111), [f"n{i}" for i in range(111)])


class Three:
    def fit_transform(self, X):  # noqa: N803
        return np.zeros((len(X), 3))


class Gone:
    def fit_transform(self, X):  # noqa: N803
        return np.full((len(X), 2), np.nan)


class TestEmbeddings:
    @pytest.mark.parametrize("embedding", [PCA(2), TSNE(perplexity=5, random_state=0)])
    def test_points_are_those_of_the_transformer(self, embedding):
        target, x = vae(5), binary(30)
        figure = plots.latent_map(target, x, None, embedding=embedding)
        points = torch.as_tensor(figure.axes[0].collections[0].get_offsets().data)
        wanted = embedding.fit_transform(target.embed(x).double().numpy())
        torch.testing.assert_close(points, torch.as_tensor(wanted).double())
        name = type(embedding).__name__
        assert figure.axes[0].get_ylabel() == f"{name} of posterior means, second coordinate"

    @pytest.mark.parametrize(
        ("embedding", "said"),
        [
            (Three(), r"Three must give two finite coordinates.*got shape \(7, 3\)"),
            (Gone(), "with 14 that are not finite"),
            ("tsne", "an object with fit_transform.*got str"),
        ],
    )
    def test_refuses_what_gives_no_plane(self, embedding, said):
        with pytest.raises(ValueError, match=said):
            plots.latent_map(vae(), binary(7), None, embedding=embedding)


def test_samples_by_condition_share_their_latents():
    """Of x = z + label: each row is the row before plus the difference of the labels."""

    def prior(label):
        return pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))

    def likelihood(z, x, label):
        return pyro.sample("x", dist.Normal(z + label, 0.1).to_event(1), obs=x)

    target = pv.VAE(prior, likelihood, lambda x, label: None)
    conditions = {"low": [torch.zeros(1, 1)], "high": [torch.full((1, 1), 3.0)]}
    figure = plots.samples_by(target, conditions, 6, (1, 2, 2))
    pixels = torch.as_tensor(figure.axes[0].images[0].get_array().filled(math.nan))
    low, high = pixels[:2], pixels[3:]
    torch.testing.assert_close(high, low + 3, equal_nan=True)
    assert low[:, :2].unique().numel() == 4
    assert texts(figure.axes[0].get_yticklabels()) == ["low", "high"]
    noisy = plots.samples_by(target, conditions, 6, (1, 2, 2), means=False)
    assert not torch.equal(torch.as_tensor(noisy.axes[0].images[0].get_array().data), pixels)
    with pytest.raises(ValueError, match="got n=6 and 0 conditions"):
        plots.samples_by(target, {}, 6, (1, 2, 2))


@pytest.mark.parametrize("unit", ["units of x", "numbers in standard deviations"])
def test_the_label_of_profiles_fits_the_figure(unit):
    walk = pv.traverse(pv.mlp_vae(4, latents=3, hidden=8), torch.ones(6, 4), of="prior")
    figure = plots.profiles(walk, unit=unit)
    figure.draw_without_rendering()
    label = figure.axes[-1].yaxis.label.get_window_extent()
    assert 0 <= label.y0 < label.y1 <= figure.bbox.height
