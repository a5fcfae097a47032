"""Data of one's own, from Python and from the command line: trained, measured, drawn again."""

import json
import re

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import pyrovae as pv
from pyrovae.cli import main

RNG = np.random.default_rng(0)
SMALL = ["--latents", "2", "--hidden", "8", "--epochs", "2", "--batch-size", "20"]
SHORT = ["--particles", "20"]
NAMES = ["train"] * 40 + ["valid"] * 10 + ["test"] * 10
KINDS = np.array(["a", "b"] * 30)
REAL = RNG.normal(size=(60, 3))


def parquet(folder):
    import pyarrow
    from pyarrow import parquet

    columns = {"u": REAL[:, 0], "v": REAL[:, 1], "w": REAL[:, 2], "set": NAMES}
    parquet.write_table(pyarrow.table(columns), folder / "d.parquet")
    return folder / "d.parquet", {"split": "set"}


def csv(folder):
    lines = [f"{a},{b},{kind}" for (a, b, _), kind in zip(REAL, KINDS, strict=True)]
    (folder / "d.csv").write_text("\n".join(["a,b,kind", *lines]) + "\n")
    return folder / "d.csv", {"labels": "kind"}


def npy(folder):
    np.save(folder / "d.npy", RNG.integers(0, 256, (60, 8, 6), dtype=np.uint8))
    return folder / "d.npy", {}


def npz(folder):
    x = RNG.integers(0, 2, (60, 5))
    np.savez(folder / "d.npz", x_train=x[:40], x_valid=x[40:50], x_test=x[50:])
    return folder / "d.npz", {}


def pngs(folder):
    for i in range(60):
        path = folder / "images" / KINDS[i] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder / "images", {}


def h5ad(folder):
    import anndata
    import pandas
    import scipy.sparse

    obs = pandas.DataFrame({"batch": KINDS}, index=[f"c{i}" for i in range(60)])
    counts = scipy.sparse.csr_matrix(RNG.poisson(2.0, (60, 6)).astype("float32"))
    anndata.AnnData(counts, obs=obs).write_h5ad(folder / "d.h5ad")
    return folder / "d.h5ad", {"covariates": ["batch"]}


JOURNEYS = {
    "parquet": (parquet, "Normal", "real numbers"),
    "csv": (csv, "Normal", "real numbers"),
    "npy": (npy, "Bernoulli", "intensities"),
    "npz": (npz, "Bernoulli", "0 or 1"),
    "pngs": (pngs, "Bernoulli", "intensities"),
    "h5ad": (h5ad, "NegativeBinomial", "counts .* takes log"),
}


def entries(options):
    """Return options of `load` as those of the command line."""
    return [word for key, v in options.items() for word in (f"--data.{key}", str(v))]


@pytest.mark.parametrize(("make", "likelihood", "said"), JOURNEYS.values(), ids=JOURNEYS.keys())
def test_a_file_is_trained_on_and_measured(make, likelihood, said, tmp_path, capsys, monkeypatch):
    path, options = make(tmp_path)
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--data", path.name, *entries(options), *SMALL]
    assert main([*argv, "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert re.search(f"^Likelihood: {likelihood}, as the data are .*{said}", out, re.M)
    run = pv.runs.Run(tmp_path / "run")
    assert run.config["data"]["name"] == str(path)
    monkeypatch.chdir(tmp_path / "run")

    data = pv.data.load(path, **options)
    for name, split in data.splits.items():
        assert torch.equal(run.data(name).x, split.x)
    vae = run.load_vae()
    assert type(vae.likelihood).__name__ == likelihood
    pv.fit(vae, run.data("train"), validation=run.data("validation"), epochs=1, callbacks=[])

    assert main(["evaluate", str(run.folder), *SHORT]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    bound = float(re.search(r"^ IWAE-20 +(-\d+\.\d+)", captured.out, re.M)[1])
    found = pv.evaluate(run.load_vae(), run.data("test"), particles=20)
    assert abs(found.iwae[20].mean - bound) <= 5e-4
    print(f"IWAE-20 of the test data: {bound}")

    if make in (npy, h5ad):
        assert main(["report", str(run.folder)]) == 0
    assert main(["sample", str(run.folder), "-n", "3"]) == 0
    assert main(["train", "--like", str(run.folder), "--epochs", "1", "--out", "again"]) == 0
    assert pv.runs.Run(run.folder / "again").source == run.source
    image = len(data.shape) == 3
    assert (main(["reconstruct", str(run.folder)]) == 0) is image
    assert (run.folder / "figures" / "samples.png").exists() is image
    assert (run.folder / "figures" / "latents.png").exists()
    if not image:
        rows = (run.folder / "samples.csv").read_text().splitlines()
        assert len(rows) == 4
        assert rows[0].split(",")[: len(data.columns)] == list(data.columns)


def test_samples_are_written_with_all_their_digits(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", REAL)
    data = {"name": str(tmp_path / "a.npy"), "shape": [3], "binarization": "none"}
    pv.save(pv.mlp_vae(3, latents=2, hidden=4), tmp_path / "run", data=data)
    rows = torch.tensor([[1234567.0, 0.1, -2.0], [1 / 3, 1.2345678e-20, 0.0]])
    monkeypatch.setattr(pv.VAE, "sample", lambda vae, number, *context: rows)
    assert main(["sample", str(tmp_path / "run"), "-n", "2"]) == 0
    header, *lines = (tmp_path / "run" / "samples.csv").read_text().splitlines()
    assert (header, lines[0]) == ("x0,x1,x2", "1234567,0.1,-2")
    again = np.array([line.split(",") for line in lines]).astype(np.float32)
    assert np.array_equal(again, rows.numpy())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    np.save(folder / "a.npy", REAL)
    out = str(folder / "run")
    assert main(["train", "--data", str(folder / "a.npy"), *SMALL, "--out", out]) == 0
    return folder


class TestTestData:
    """What the model was trained on is not called a test set."""

    def test_a_copy_of_the_training_data_is_refused(self, trained, capsys):
        np.save(trained / "copy.npy", REAL)
        argv = ["evaluate", str(trained / "run"), *SHORT, "--data", str(trained / "copy.npy")]
        assert main(argv) == 2
        said = capsys.readouterr().err
        assert "copy.npy is no test set: the run was trained on 48 of its 60 rows" in said
        assert main([*argv, "--split", "train"]) == 0
        report = json.loads((trained / "run" / "evaluation.json").read_text())
        assert (report["split"], report["data"]) == ("train", 60)

    def test_a_file_of_other_rows_is_a_test_set_as_a_whole(self, trained, capsys):
        np.save(trained / "new.npy", RNG.normal(size=(30, 3)))
        argv = ["evaluate", str(trained / "run"), *SHORT, "--data", str(trained / "new.npy")]
        assert main(argv) == 0
        assert " 30 data, 20 particles" in capsys.readouterr().out
        assert main(["report", str(trained / "run")]) == 0
        assert "not those of the evaluation" not in (trained / "run/report.html").read_text()

    def test_a_file_that_changed_is_said(self, trained, capsys):
        kept = (trained / "a.npy").read_bytes()
        np.save(trained / "a.npy", REAL + 1)
        assert main(["evaluate", str(trained / "run"), *SHORT]) == 0
        assert "a.npy changed since the training: its test data" in capsys.readouterr().err
        report = json.loads((trained / "run" / "evaluation.json").read_text())
        assert any("changed since the training" in remark for remark in report["remarks"])
        np.save(trained / "a.npy", REAL[::-1])
        assert main(["evaluate", str(trained / "run"), *SHORT]) == 2
        assert "and its test data are no test set" in capsys.readouterr().err
        (trained / "a.npy").write_bytes(kept)


def test_columns_in_another_order_are_measured_as_the_same_data(tmp_path):
    run = tmp_path / "run"
    frame = pandas.DataFrame(REAL + [0, 10, 100], columns=["a", "b", "c"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert main(["train", "--data", str(tmp_path / "a.csv"), *SMALL, "--out", str(run)]) == 0
    new = frame + RNG.normal(size=frame.shape)
    bounds = []
    for names in ("abc", "cab"):
        new[list(names)].to_csv(tmp_path / f"{names}.csv", index=False)
        path = str(tmp_path / f"{names}.csv")
        assert main(["evaluate", str(run), *SHORT, "--data", path]) == 0
        bounds.append(pv.runs.Run(run).evaluation().quantities["ELBO"].mean)
    assert bounds[0] == bounds[1]
    assert main(["report", str(run)]) == 0
    assert "not those of the evaluation" not in (run / "report.html").read_text()


def test_levels_follow_from_the_likelihood(tmp_path):
    path, _ = npy(tmp_path)
    argv = ["train", "--data", str(path), "--out", str(tmp_path / "run"), *SMALL]
    assert main([*argv, "--likelihood", "Categorical", "--likelihood.classes", "8"]) == 0
    run = pv.runs.Run(tmp_path / "run")
    assert run.source.reading["levels"] == 8
    assert run.data("test").x.unique().tolist() == list(range(8))


def test_a_library_size_is_the_last_covariate(tmp_path, capsys):
    counts = RNG.poisson(2.0, (60, 4))
    np.savez(tmp_path / "c.npz", x=counts, size=counts.sum(1) * 1.0, kind=KINDS)
    argv = ["train", "--data", str(tmp_path / "c.npz"), "--data.key", "x", *SMALL]
    argv += ["--likelihood.library", "true", "--out", str(tmp_path / "run")]
    assert main(argv) == 2
    assert "needs the library size as the last covariate" in capsys.readouterr().err
    assert main([*argv, "--data.covariates", '["kind", "size"]']) == 0
    vae = pv.load(tmp_path / "run")
    assert vae.likelihood.library
    assert vae.posterior.net.library
    split = pv.runs.Run(tmp_path / "run").data("test")
    mean = vae.predictive(6, *split.context).mean
    torch.testing.assert_close(mean.sum(-1), split.context[1][:, 0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.keys", "x"], "no entry 'keys' in [data]: did you mean key?"),
        (["--data.shape", "[1, 2]"], "--data.shape: expected `array` of length 3"),
        (["--net", "ConvDecoder"], "net ConvDecoder is of images; the data are rows of 3"),
        (["--likelihood", "Bernoulli"], "Bernoulli takes values that are"),
        (["--binarization", "dynamic"], "binarization is of intensities in [0, 1]"),
        (["--data.covariates", "kind"], "has no array 'kind'"),
    ],
)
def test_options_that_are_wrong_are_one_line(options, words, trained, tmp_path, capsys):
    argv = ["train", "--data", str(trained / "a.npy"), *SMALL, *options]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_is_resumed_on_its_own_data(tmp_path, capsys):
    np.save(tmp_path / "a.npy", REAL)
    run = str(tmp_path / "run")
    assert main(["train", "--data", str(tmp_path / "a.npy"), *SMALL, "--out", run]) == 0
    assert main(["train", "--resume", run, "--epochs", "3"]) == 0
    assert len(pv.runs.Run(tmp_path / "run").metrics) == 3
    np.save(tmp_path / "a.npy", REAL + 1)
    assert main(["train", "--resume", run, "--epochs", "4"]) == 2
    assert "a.npy changed since the training began" in capsys.readouterr().err


@pytest.mark.parametrize("shown", [csv, npy])
@pytest.mark.parametrize("empty", ["test", "validation"])
def test_a_split_without_rows_ends_no_training(shown, empty, tmp_path, capsys, drawn):
    """The figures of the test data were drawn after the training, which then failed."""
    path, options = shown(tmp_path)
    fractions = "[0.8, 0.2, 0]" if empty == "test" else "[0.8, 0, 0.2]"
    given = [word for key, value in options.items() for word in (f"--data.{key}", value)]
    run = str(tmp_path / "run")
    train = ["train", "--data", str(path), *given, "--data.fractions", fractions, *SMALL]
    assert main([*train, "--out", run]) == 0
    assert (tmp_path / "run" / "figures" / "history.png").exists()
    measured = main(["evaluate", run, *SHORT])
    error = capsys.readouterr().err
    if empty == "test":
        assert measured == 2
        assert "has no test data, by the fractions" in error
        assert "there are train, validation data" in error
        assert main(["evaluate", run, *SHORT, "--split", "validation"]) == 0
    else:
        assert measured == 0
        assert main([*train, "--patience", "3", "--out", str(tmp_path / "patient")]) == 2
        assert "training.patience: it waits for the validation" in capsys.readouterr().err
        assert not (tmp_path / "patient").exists()


def test_a_binary_split_without_rows_can_be_drawn():
    digits = pv.data.load("digits")
    assert digits.test.take(slice(0)).draw().shape == (0, 64)
