"""A run of sequences shows them as rolls, curves or texts: the values that its VAE gives."""

import math
import re
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from complaints import complaint
from pages import Page
from safetensors.torch import load_file

import pyrovae as pv
from pyrovae.cli import main
from pyrovae.cli.figures import vae_figures
from pyrovae.nets import MLP, BackwardGRU
from pyrovae.runs import Run
from pyrovae.runs.sources import Source
from pyrovae.weights.sites import mean_of

LENGTHS = torch.arange(40) % 5 + 3
MASK = torch.arange(9) < LENGTHS.unsqueeze(1)  # two steps of padding at least
TEXTS = [f"the <b>{pet}</b> & {verb}" for pet in ("cat", "owl") for verb in ("naps", "sits")]

RECIPE = """\
import pyrovae as pv
from pyrovae.nets import MLP, BackwardGRU, CausalGRU, EmbedTokens, EncodeSequence

def vae(shape, vocabulary):
    words = len(vocabulary)
    net = CausalGRU(EmbedTokens(words, 3), 3, 2, 4)
    head = pv.likelihoods.Categorical(MLP(4, words), classes=words)
    encoder = EncodeSequence(EmbedTokens(words, 3), BackwardGRU(3, 4), MLP(4, 2 * 2))
    likelihood = pv.likelihoods.Autoregressive(net, head, end=vocabulary.end)
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(encoder))
"""


def markov(head):
    return pv.VAE(
        pv.priors.Markov(MLP(2, 4, 2 * 2), 2),
        pv.likelihoods.EachStep(head),
        pv.guides.Combiner(BackwardGRU(3, 4), MLP(2 + 4, 4, 2 * 2), 2),
    )


def saved(folder, vae, x):
    """Write x to a file, and a run that was trained on it."""
    np.savez(folder / "steps.npz", x=x.numpy(), mask=MASK.numpy())
    source = Source(str(folder / "steps.npz"))
    pv.save(vae, folder / "run", data=source.of(source.read_data()).record)
    return folder / "run"


@pytest.fixture(scope="module")
def rolls(tmp_path_factory):
    with pv.seeded(0):
        vae = markov(pv.likelihoods.Bernoulli(MLP(2, 4, 3)))
        x = torch.rand(40, 9, 3).round()
    return saved(tmp_path_factory.mktemp("rolls"), vae, x)


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    with pv.seeded(0):
        vae = markov(pv.likelihoods.Normal(MLP(2, 4, 3)))
        x = torch.randn(40, 9, 3)
    return saved(tmp_path_factory.mktemp("curves"), vae, x)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A run of texts, trained from the command line and evaluated."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "pets.txt").write_text("\n".join(TEXTS * 15))
    (folder / "pets.py").write_text(RECIPE)
    argv = ["--recipe", str(folder / "pets.py"), "--epochs", "1", "--no-compile"]
    out = ["--out", str(folder / "run")]
    assert main(["train", "--data", str(folder / "pets.txt"), *argv, *out]) == 0
    assert main(["evaluate", str(folder / "run"), "--particles", "5", "--no-compile"]) == 0
    return folder / "run"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that commands would write, by their path."""
    kept = {}
    monkeypatch.setattr(
        "pyrovae.plots.save", lambda figure, path: kept.update({path.stem: figure})
    )
    return kept


def expected(run, *, means=True, number=4):
    """Return samples and reconstructions of the first test data, at seed 0."""
    vae, test = Run(run).load_vae(), Run(run).source.load().test
    few = test.take(slice(number))
    with torch.no_grad(), pv.seeded(0):
        given = number, *few.context
        samples = mean_of(vae.predictive(*given)) if means else vae.sample(*given)
    with torch.no_grad(), pv.seeded(0):
        reconstructed = vae.reconstruct(few.x, *few.context)
    return few, samples, reconstructed


def assert_rolls(figure, values, mask):
    longest = int(mask.sum(1).max())
    assert len(figure.axes) == len(values)
    for axes, x, steps in zip(figure.axes, values, mask[:, :longest], strict=True):
        shown = axes.images[0].get_array()
        assert shown.shape == (3, longest)
        assert (~shown.mask).T.tolist() == steps.unsqueeze(-1).expand(-1, 3).tolist()
        assert shown.data.T[steps.numpy()].tolist() == x[:longest][steps].tolist()
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0"], "no pitch is known"


def assert_curves(figure, values, mask, *, every=1):
    """Compare each variable's lines, of which `every` are drawn and the last is of the values."""
    for axes, x, steps in zip(figure.axes, values, mask, strict=True):
        lines = axes.lines[every - 1 :: every]
        assert len(lines) == 3
        for i, line in enumerate(lines):
            assert list(line.get_xdata()) == list(range(1, int(steps.sum()) + 1))
            assert line.get_ydata().tolist() == x[steps][:, i].tolist()


def test_notes_are_rolls(rolls):
    few, samples, reconstructed = expected(rolls)
    source = Run(rolls).source
    figures = vae_figures(Run(rolls).load_vae(), source.load().test, source.shape)
    (mask,) = few.context
    assert set(figures) == {"samples", "reconstructions"}, "a chain of latents is no point"
    assert_rolls(figures["samples"], samples, mask)
    pairs = torch.stack([few.x, reconstructed], 1).flatten(0, 1)
    assert_rolls(figures["reconstructions"], pairs, mask.repeat_interleave(2, 0))
    titles = [axes.get_title(loc="left") for axes in figures["reconstructions"].axes]
    assert titles == ["data", "reconstruction"] * len(few)


def test_numbers_are_curves(curves):
    few, samples, reconstructed = expected(curves)
    source = Run(curves).source
    figures = vae_figures(Run(curves).load_vae(), source.load().test, source.shape)
    assert_curves(figures["samples"], samples, *few.context)
    assert_curves(figures["reconstructions"], reconstructed, *few.context, every=2)
    for axes, x, steps in zip(figures["reconstructions"].axes, few.x, few.context[0], strict=True):
        assert axes.lines[0].get_ydata().tolist() == x[steps][:, 0].tolist()


def test_what_a_program_makes_of_notes_need_not_be_notes(curves):
    vae, source = Run(curves).load_vae(), Run(curves).source
    test = source.load().test
    notes = replace(test, x=(test.x > 0).float())
    assert vae_figures(vae, notes, source.shape)["samples"].axes[0].lines, "a domain of numbers"
    vae.likelihood.domain = None
    assert not (0 <= vae.reconstruct(notes.x, *notes.context).min() <= 1)
    assert vae_figures(vae, notes, source.shape)["reconstructions"].axes[0].lines


def test_commands_draw_samples_and_reconstructions(curves, rolls, drawn, capsys):
    few, samples, reconstructed = expected(curves, means=False, number=2)
    assert main(["sample", str(curves), "-n", "2"]) == 0
    assert "The mask is that of the first 2 test data." in capsys.readouterr().out
    assert_curves(drawn["samples"], samples, *few.context)
    assert main(["reconstruct", str(curves), "-n", "2"]) == 0
    assert_curves(drawn["reconstructions"], reconstructed, *few.context, every=2)
    assert main(["sample", str(rolls), "--means", "-n", "1"]) == 0
    few, samples, _ = expected(rolls, number=1)
    assert_rolls(drawn["samples"], samples, *few.context)


def test_a_report_shows_curves(curves, monkeypatch):
    assert main(["evaluate", str(curves), "--particles", "3", "--no-compile"]) == 0
    figures = {}
    monkeypatch.setattr("pyrovae.cli.page.png", lambda figure: b"")
    given = "pyrovae.cli.measure.vae_figures"
    monkeypatch.setattr(given, lambda *a, **k: figures.update(vae_figures(*a, **k)) or figures)
    assert main(["report", str(curves)]) == 0
    few, samples, _ = expected(curves)
    assert_curves(figures["samples"], samples, *few.context)
    data = Page(page_of(curves)).sections["data"]
    assert "Data, and the mean of p(x | z)" in data
    assert "Means of p(x | z) at draws z from the prior." in data


def page_of(run):
    return (run / "report.html").read_text()


def written(run, seed=0):
    """Return the test texts, reconstructions at a seed and samples at 0, of the programs alone."""
    vae, test = Run(run).load_vae(), Run(run).source.load().test.take(slice(6))
    words = Run(run).vocabulary
    (mask,) = test.context
    with torch.no_grad(), pv.seeded(seed):
        z = vae.guide(test.x, mask)
        with pyro.plate("data", len(mask)):
            reconstructed = vae.likelihood(z, None, mask)
    with torch.no_grad(), pv.seeded(0):
        samples = vae.sample(8, mask.new_ones(8, mask.shape[1]))
    return tuple(map(words.decode, (test.x, reconstructed, samples)))


def test_texts_are_printed(texts, capsys, tmp_path):
    data, reconstructed, samples = written(texts)
    capsys.readouterr()
    assert main(["sample", str(texts)]) == 0
    assert capsys.readouterr().out.splitlines() == samples
    assert main(["sample", str(texts), "-n", "30"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 30, "of 6 test texts"
    assert main(["reconstruct", str(texts), "--out", str(tmp_path / "pairs.txt")]) == 0
    lines = [f"{own}  ->  {other}" for own, other in zip(data, reconstructed, strict=True)]
    assert (tmp_path / "pairs.txt").read_text().splitlines() == lines
    assert set(data) <= set(TEXTS)


def test_texts_are_listed_on_the_page_and_escaped(texts):
    data, reconstructed, samples = written(texts, seed=1)
    assert main(["report", str(texts)]) == 0
    text = page_of(texts)
    page = Page(text)
    rows = [words for where, words, _ in page.rows if where == "data"]
    start = rows.index(["text", "reconstruction"])
    pairs = [list(pair) for pair in zip(data, reconstructed, strict=True)]
    # A text of nothing but its end is an empty cell.
    assert rows[start + 1 : start + 7] == [[word for word in pair if word] for pair in pairs]
    assert rows[start + 8 :] == [[text] if text else [] for text in samples]
    assert "<b>" in data[0]
    assert "<b>" not in text
    assert "&lt;b&gt;" in text


def test_the_perplexity_of_a_token_is_said(texts, capsys):
    tensors = load_file(texts / "evaluation.safetensors")
    tokens = Run(texts).source.load().test.context[0].sum().item()
    perplexity = math.exp(-tensors["IWAE-5"].double().sum().item() / tokens)
    assert main(["report", str(texts)]) == 0
    bounds = Page(page_of(texts)).sections["bounds"]
    (said,) = re.findall(r"its perplexity is ([0-9.]+) \(±", bounds)
    assert float(said) == pytest.approx(perplexity, abs=6e-4)
    capsys.readouterr()
    assert main(["evaluate", str(texts), "--particles", "5", "--no-compile"]) == 0
    assert f"its perplexity is {said} (±" in capsys.readouterr().out


def test_a_run_of_texts_knows_its_vocabulary(texts, tmp_path):
    words = Run(texts).vocabulary
    assert set(words.tokens) == {*" ".join(TEXTS).split()}
    pv.save(Run(texts).load_vae(), tmp_path / "run", vocabulary=words.record)
    assert Run(tmp_path / "run").vocabulary == words
    (tmp_path / "more.txt").write_text(f"{TEXTS[0]}\nthe dog naps and naps and naps\n")
    given = ["--data", str(tmp_path / "more.txt"), "--particles", "3", "--no-compile"]
    assert main(["evaluate", str(tmp_path / "run"), *given]) == 0
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "the <unk> naps <unk> naps" in Page(page_of(tmp_path / "run")).sections["data"]
    pv.save(Run(texts).load_vae(), tmp_path / "run", vocabulary={"version": 1})
    with pytest.raises(ValueError, match=r"run cannot decode: the record of the vocabulary"):
        _ = Run(tmp_path / "run").vocabulary


def test_what_sequences_do_not_have_is_refused(curves, texts, tmp_path, capsys):
    assert "give a smaller -n" in complaint(capsys, "sample", curves, "-n", "5")
    pv.save(Run(curves).load_vae(), tmp_path / "bare")
    said = complaint(capsys, "sample", tmp_path / "bare")
    assert "takes the mask of the steps" in said
    assert "draw samples from Python, pyrovae.load(" in said
    assert "a text has no mean" in complaint(capsys, "sample", texts, "--means")
    assert "the data are sequences: decode" in complaint(capsys, "walk", curves)
    assert "the data are sequences, not images" in complaint(capsys, "manifold", texts)
    data = Run(curves).source.name
    said = complaint(capsys, "train", "--data", data, "--out", tmp_path / "run")
    assert "holds sequences, whose parts are written in Python: give --recipe FILE.py" in said
    recipe = tmp_path / "one.py"
    recipe.write_text(RECIPE.replace("(shape, vocabulary)", "(shape)"))
    pets = Run(texts).source.name
    argv = ["train", "--data", pets, "--recipe", recipe, "--out", tmp_path / "run"]
    assert "no function vae(shape, vocabulary)" in complaint(capsys, *argv)
