"""`pyrovae walk`, `interpolate`, `manifold` and `map`: what they draw, and what they refuse."""

import shutil
import sys

import numpy as np
import pandas
import pytest
import torch
from complaints import complaint
from matplotlib.text import Text
from PIL import Image

import pyrovae as pv
from pyrovae.cli import main
from pyrovae.measure.disentanglement.saved import FACTORS, save_factors
from pyrovae.runs import Run
from pyrovae.runs.sources import Source


def saved(folder, vae, name, **options):
    data = pv.data.load(name, **options)
    binarization = "dynamic" if name == "digits" else "none"
    source = Source(name, binarization=binarization, reading=options).of(data)
    pv.save(vae, folder, data=source.record)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run of two latents on the digits, which no test writes to."""
    with pv.seeded(0):
        vae = pv.mlp_vae(64, latents=2, hidden=8)
    return saved(tmp_path_factory.mktemp("walk") / "run", vae, "digits")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Return a run on rows of five numbers with a batch and an age, which are its context."""
    folder = tmp_path_factory.mktemp("cells")
    with pv.seeded(0):
        frame = pandas.DataFrame(torch.randn(60, 5).numpy(), columns=list("abcde"))
    frame["batch"], frame["age"] = ["x", "y", "z"] * 20, np.linspace(20, 30, 60)
    frame.to_csv(folder / "cells.csv", index=False)
    with pv.seeded(0):
        vae = pv.VAE(
            pv.priors.StandardNormal(3),
            pv.likelihoods.Normal(pv.nets.MLP(3 + 3 + 1, 8, 5)),
            pv.guides.MeanFieldNormal(pv.nets.MLP(5 + 3 + 1, 8, 2 * 3)),
        )
    covariates = {"batch": "category", "age": "number"}
    return saved(
        folder / "run", vae, str(folder / "cells.csv"), covariates=covariates, key=list("abcde")
    )


@pytest.fixture
def written(monkeypatch):
    """Return the figures that commands write, instead of drawing them."""
    figures = []
    monkeypatch.setattr(
        "pyrovae.plots.files.png", lambda figure: figures.append(figure) or b"drawn"
    )
    return figures


def contents(figure):
    """Return what a figure shows: the numbers of its images and points, and its words."""
    images = [image.get_array() for axes in figure.axes for image in axes.images]
    points = [dots.get_offsets() for axes in figure.axes for dots in axes.collections]
    words = [text.get_text() for text in figure.findobj(Text)]
    return [np.ma.filled(each, np.nan).tobytes() for each in (*images, *points)], words


class TestWalk:
    def test_draws_the_walk_of_the_test_data_and_prints_its_kl(
        self, run, tmp_path, capsys, written
    ):
        out = tmp_path / "walk.png"
        assert main(["walk", str(run), "--datum", "3", "-n", "1", "--out", str(out)]) == 0
        x = pv.data.load("digits").test.draw()
        walk = pv.traverse(pv.load(run), x, datum=3, dimensions=1, of="prior")
        assert contents(written[-1]) == contents(pv.plots.traversals(walk, (1, 8, 8)))
        lines = capsys.readouterr().out.splitlines()
        assert lines[1].split() == [walk.names[0], f"{walk.kl[0]:.3f}"]
        assert lines[-1] == f"written: {out}"

    def test_animates_it_beside_the_figure(self, run, tmp_path, capsys):
        out = tmp_path / "walk.png"
        assert main(["walk", str(run), "--gif", "--out", str(out)]) == 0
        assert f"written: {out.with_suffix('.gif')}" in capsys.readouterr().out
        with Image.open(out.with_suffix(".gif")) as gif:
            assert gif.n_frames == 48

    def test_names_the_factors_that_the_run_has(self, run, tmp_path, capsys, written):
        known = torch.randint(3, (200, 1), generator=torch.Generator().manual_seed(0))
        units = torch.cat([torch.randn(200, 1), known], 1)
        found = pv.assign(units, known, names=["slant"], units=["z[0]", "z[1]"])
        assert found.held == {"z[1]": "slant"}
        factors = run / FACTORS
        try:
            save_factors(factors, found, run=Run(run).config["run"])
            out = tmp_path / "walk.png"
            assert main(["walk", str(run), "--out", str(out)]) == 0
            (line,) = [each for each in capsys.readouterr().out.splitlines() if "slant" in each]
            assert line.startswith("z[1]")
            x = pv.data.load("digits").test.draw()
            walk = pv.traverse(pv.load(run), x, of="prior")
            figure = pv.plots.traversals(walk, (1, 8, 8), held=found.held)
            assert contents(written[-1]) == contents(figure)
            factors.write_text("{")
            assert "damaged" in complaint(capsys, "walk", run)
        finally:
            factors.unlink()

    def test_names_all_factors_of_a_unit(self, run, tmp_path, capsys, written):
        known = torch.randint(3, (200, 1), generator=torch.Generator().manual_seed(0))
        units = torch.cat([torch.randn(200, 1), known], 1)
        found = pv.assign(units, known.repeat(1, 2), names=["slant", "tilt"])
        assert found.labels == {"z[1]": "slant and tilt"}
        folder = tmp_path / "run"
        shutil.copytree(run, folder)
        save_factors(folder / FACTORS, found, run=Run(folder).config["run"])
        assert main(["walk", str(folder), "--out", str(tmp_path / "walk.png")]) == 0
        assert "slant and tilt" in capsys.readouterr().out
        assert any("slant and tilt" in word for word in contents(written[-1])[1])

    def test_of_numbers_shows_each_column(self, cells, tmp_path, capsys, written):
        out = tmp_path / "walk.png"
        assert main(["walk", str(cells), "--out", str(out)]) == 0
        test = pv.data.load(**loaded(cells)).test
        walk = pv.traverse(pv.load(cells), test.x, *test.context, of="prior")
        assert contents(written[-1]) == contents(pv.plots.profiles(walk, list("abcde")))
        assert "--gif animates images" in complaint(capsys, "walk", cells, "--gif")

    def test_says_that_a_kl_is_not_known(self, tmp_path, capsys):
        guide = pv.guides.FullRankNormal(pv.nets.MLP(64, 5))
        likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(2, 64))
        vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)
        folder = saved(tmp_path / "run", vae, "digits")
        assert main(["walk", str(folder)]) == 0
        printed = capsys.readouterr().out
        assert printed.count("unknown") == 2
        assert "sorted by activity" in printed
        assert (folder / "figures" / "walk.png").exists()

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (
                ["--datum", "999"],
                "starts at a row of x, from 0 to 296; got datum=999: choose another --datum",
            ),
            (["--datum", "-1"], "Must be >= 0"),
            (["-n", "0"], "Must be >= 1"),
        ],
    )
    def test_refuses_what_there_is_not(self, run, options, said, capsys):
        line = complaint(capsys, "walk", run, *options)
        assert said in line
        assert "quantiles" not in line


def loaded(folder):
    """Return the arguments of `data.load` for the data of a run."""
    source = pv.runs.Run(folder).source
    return {"what": source.name, "binarization": None, **source.reading}


class TestInterpolate:
    def test_draws_both_paths_between_two_rows(self, run, tmp_path, capsys, written):
        out = tmp_path / "between.png"
        assert main(["interpolate", str(run), "5", "2", "-n", "4", "--out", str(out)]) == 0
        x = pv.data.load("digits").test.draw()[[5, 2]]
        found = {
            path.__name__: pv.interpolate(pv.load(run), x, steps=4, path=path)
            for path in (pv.paths.linear, pv.paths.spherical)
        }
        assert contents(written[-1]) == contents(pv.plots.interpolations(found, (1, 8, 8)))

    def test_leaves_out_the_path_that_a_prior_has_not(self, tmp_path, capsys):
        likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(2, 64))
        guide = pv.guides.MeanFieldNormal(pv.nets.MLP(64, 4))
        vae = pv.VAE(pv.priors.Laplace(2), likelihood, guide)
        folder = saved(tmp_path / "run", vae, "digits")
        assert main(["interpolate", str(folder), "0", "1"]) == 0
        said = capsys.readouterr().out
        assert "The spherical path is left out: great circles are of normal priors" in said
        assert "paths." not in said
        assert (folder / "figures" / "interpolation-0-1.png").exists()

    def test_refuses_what_there_is_not(self, run, cells, capsys):
        line = complaint(capsys, "interpolate", run, "0", "297")
        assert line.endswith("the test split has the rows 0 to 296; got 297")
        assert "steps=1" in complaint(capsys, "interpolate", run, "0", "1", "-n", "1")
        assert "rows of 5 numbers, not images" in complaint(capsys, "interpolate", cells, "0", "1")
        discrete = pv.VAE(
            pv.priors.Categorical(3),
            pv.likelihoods.Bernoulli(pv.nets.MLP(3, 64)),
            pv.guides.Categorical(pv.nets.MLP(64, 3)),
        )
        pv.save(discrete, run.parent / "classes", data=Source("digits").record)
        classes = run.parent / "classes"
        between = complaint(capsys, "interpolate", classes, "0", "1")
        assert "site 'z' is discrete" in between
        along = complaint(capsys, "walk", classes)
        assert "all latents are discrete" in along
        assert "`pyrovae sample`" in along
        assert "vae." not in between + along


class TestManifold:
    def test_draws_the_plane_of_two_latents(self, run, tmp_path, written):
        out = tmp_path / "plane.png"
        assert main(["manifold", str(run), "-n", "3", "--out", str(out)]) == 0
        found = pv.manifold(pv.load(run), side=3)
        assert contents(written[-1]) == contents(pv.plots.manifold(found, (1, 8, 8)))

    def test_of_named_dimensions(self, run, tmp_path, written):
        out = tmp_path / "plane.png"
        named = ["--dimensions", "z[1]", "z[0]"]
        assert main(["manifold", str(run), "-n", "3", *named, "--out", str(out)]) == 0
        found = pv.manifold(pv.load(run), side=3, dimensions=["z[1]", "z[0]"])
        assert contents(written[-1]) == contents(pv.plots.manifold(found, (1, 8, 8)))

    def test_refuses_what_is_no_plane(self, run, cells, capsys):
        assert "rows of 5 numbers, not images" in complaint(capsys, "manifold", cells)
        line = complaint(capsys, "manifold", run, "--dimensions", "z[1]")
        assert "expected two dimensions of" in line

    def test_says_by_which_option_two_of_several_are_named(self, tmp_path, capsys, written):
        folder = saved(tmp_path / "run", pv.mlp_vae(64, latents=3, hidden=8), "digits")
        line = complaint(capsys, "manifold", folder)
        assert line.endswith("name two, --dimensions z[0] z[1]")
        words = line.partition("name two, ")[2].split()
        assert main(["manifold", str(folder), "-n", "2", *words]) == 0


class TestMap:
    def test_colors_the_data_by_class(self, run, tmp_path, written):
        out = tmp_path / "map.png"
        assert main(["map", str(run), "-n", "30", "--out", str(out)]) == 0
        test = pv.data.load("digits").test
        figure = pv.plots.latent_map(pv.load(run), test.draw()[:30], test.labels[:30])
        assert contents(written[-1]) == contents(figure)

    def test_colors_them_by_a_condition(self, cells, tmp_path, capsys, written):
        test = pv.data.load(**loaded(cells)).test
        batch = ["xyz"[code] for code in test.context[0].argmax(1).tolist()]
        for by, labels in {"batch": batch, "age": test.context[1][:, 0]}.items():
            out = tmp_path / f"{by}.png"
            assert main(["map", str(cells), "--by", by, "--out", str(out)]) == 0
            figure = pv.plots.latent_map(pv.load(cells), test.x, labels, *test.context)
            assert contents(written[-1]) == contents(figure)
        line = complaint(capsys, "map", cells, "--by", "bach")
        assert "no covariate 'bach': did you mean batch? There are batch, age" in line

    def test_says_how_umap_is_installed(self, run, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "umap", None)
        line = complaint(capsys, "map", run, "--embedding", "umap")
        assert line.endswith("umap is not installed: python -m pip install 'pyrovae[umap]'")


class TestSamplesBy:
    def test_a_row_for_each_category(self, tmp_path, capsys, written):
        images = np.random.default_rng(0).random((40, 1, 4, 4), dtype="float32")
        np.savez(tmp_path / "x.npz", x=images, kind=np.array(["a", "b"] * 20))
        with pv.seeded(0):
            vae = pv.VAE(
                pv.priors.StandardNormal(2),
                pv.likelihoods.Normal(pv.nets.MLP(2 + 2, 8, 16)),
                pv.guides.MeanFieldNormal(pv.nets.MLP(16 + 2, 8, 4)),
            )
        folder = saved(
            tmp_path / "run", vae, str(tmp_path / "x.npz"), covariates=["kind"], key="x"
        )
        out = tmp_path / "by.png"
        given = ["sample", str(folder), "--by", "kind", "-n", "3", "--means"]
        assert main([*given, "--out", str(out)]) == 0
        kinds = {name: [torch.eye(2)[i : i + 1]] for i, name in enumerate("ab")}
        again = pv.load(folder)
        with pv.seeded(0):
            figure = pv.plots.samples_by(again, kinds, 3, (1, 4, 4))
        assert contents(written[-1]) == contents(figure)
        assert "no covariate 'sort'" in complaint(capsys, "sample", folder, "--by", "sort")
        assert "Labels are for figures" in complaint(capsys, "sample", folder, "--by", "label")

    def test_is_for_images(self, cells, capsys):
        line = complaint(capsys, "sample", cells, "--by", "batch")
        assert "--by is for images" in line

    def test_of_labels_is_refused_by_what_they_are(self, run, capsys):
        line = complaint(capsys, "sample", run, "--by", "label")
        assert "no covariate 'label': the run has none. Labels are for figures" in line
        assert "--data.covariates COLUMN" in line


def test_samples_are_as_many_as_there_are_covariates(cells, tmp_path, capsys):
    """The test split has six rows; 64 samples are drawn by default, of a run without a context."""
    out = tmp_path / "samples.csv"
    assert main(["sample", str(cells), "--out", str(out)]) == 0
    assert "The covariates are those of the first 6 test data." in capsys.readouterr().out
    assert len(pandas.read_csv(out)) == 6
    line = complaint(capsys, "sample", cells, "-n", "7")
    assert "of which there are 6; got 7" in line
