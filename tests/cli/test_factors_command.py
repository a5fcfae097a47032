"""`pyrovae factors`: the assignment that `pv.assign` makes of a run's posterior means."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from complaints import complaint

import pyrovae as pv
from pyrovae.cli import main
from pyrovae.measure.disentanglement import DCI, MIG
from pyrovae.measure.disentanglement.saved import read_assignment, read_factors, save_factors
from pyrovae.runs import Run

NAMES = ("hue", "size", "always")


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Leave out the slower metrics, which are tested apart."""
    short = functools.partial(pv.disentanglement, metrics=(MIG(resamples=3), DCI(resamples=0)))
    monkeypatch.setattr("pyrovae.cli.factors.disentanglement", short)


def made(folder):
    """Write data whose two columns are factors, and a run whose guide passes them on."""
    generator = np.random.default_rng(0)
    hue, size = generator.integers(4, size=400), generator.integers(3, size=400)
    x = np.stack([hue, size], 1) + 0.01 * generator.standard_normal((400, 2))
    data, known = folder / "x.npy", folder / "factors.csv"
    np.save(data, x.astype("float32"))
    rows = "".join(f"{'abcd'[h]},{s},1\n" for h, s in zip(hue, size, strict=True))
    known.write_text(",".join(NAMES) + "\n" + rows)
    with pv.seeded(0):
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Normal(pv.nets.MLP(2, 2)),
            pv.guides.MeanFieldNormal(pv.nets.MLP(2, 4)),
        )
    with torch.no_grad():
        (weight, bias) = vae.posterior.net.parameters()
        weight.zero_()
        bias.zero_()
        weight[0, 1], weight[1, 0] = 1.0, -1.0  # z is (size, -hue)
    pv.save(vae, folder / "run", data={"name": str(data), "shape": [2]})
    return folder / "run", data, known


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, Path, Path]:
    return made(tmp_path_factory.mktemp("factors"))


def test_a_file_of_factors_is_assigned(world, capsys, drawn):
    """The rows of x are shuffled into the splits; those of the factors go with them."""
    run, _, known = world
    assert main(["factors", str(run), "--split", "train", "--factors", str(known)]) == 0
    said = capsys.readouterr().out
    found = Run(run).assignment()
    assert found.held == {"z[0]": "size", "z[1]": "hue"}
    assert found.share.max(0).values.tolist() == pytest.approx([1.0, 1.0])
    assert found.data == 320
    assert str(found) in said
    assert "Left out, as they have a single value: always." in said
    assert "MIG" in said
    for name in ("assignment", "factor_responses"):
        assert (run / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    recorded = read_factors(run / "factors.json")
    assert recorded["split"] == "train"
    assert recorded["command"][1] == "factors"
    assert recorded["scores"]["quantities"]["MIG"]["mean"] > 0.9


def test_another_file_is_taken_as_a_whole(world, tmp_path):
    run, data, known = world
    other = tmp_path / "other.npy"
    np.save(other, np.load(data)[::-1])
    (names, *rows) = known.read_text().splitlines()
    (tmp_path / "other.csv").write_text("\n".join([names, *rows[::-1]]) + "\n")
    options = ["--data", str(other), "--split", "train", "--factors", str(tmp_path / "other.csv")]
    assert main(["factors", str(run), *options]) == 0
    found = Run(run).assignment()
    assert found.data == 400
    assert found.held == {"z[0]": "size", "z[1]": "hue"}


def test_labels_are_a_factor_if_there_are_no_others(tmp_path, capsys):
    run = tmp_path / "digits"
    data = {"name": "digits", "binarization": "dynamic", "shape": [1, 8, 8]}
    vae = pv.mlp_vae(64, latents=2, hidden=8)
    pv.save(vae, run, data=data)
    assert main(["factors", str(run), "--limit", "200"]) == 0
    split = pv.data.load("digits").test.take(slice(200))
    wanted = pv.assign(vae.embed(split), split.labels, names=["label"])
    found = Run(run).assignment()
    assert found.factors == ("label",)
    torch.testing.assert_close(found.information, wanted.information)


def test_the_factors_of_a_data_set_are_taken_first(tmp_path, monkeypatch):
    run = tmp_path / "digits"
    pv.save(pv.mlp_vae(64, latents=2, hidden=8), run, data={"name": "digits", "shape": [1, 8, 8]})
    read = pv.runs.sources.Source.read_data

    def with_factors(self, **options):
        data = read(self, **options)
        odd = torch.stack([data.test.labels % 2, data.test.labels // 2], 1)
        return replace(data, test=replace(data.test, factors=odd), factors=("odd", "half"))

    monkeypatch.setattr(pv.runs.sources.Source, "read_data", with_factors)
    assert main(["factors", str(run)]) == 0
    assert Run(run).assignment().factors == ("odd", "half")


def test_npz_files_have_a_factor_in_each_column(world, tmp_path):
    run, data, _ = world
    other = tmp_path / "other.npy"
    shutil.copy(data, other)
    x = np.load(data).round().astype(int)
    np.savez(tmp_path / "f.npz", both=x, odd=x[:, 0] % 2)
    factors = ["--factors", str(tmp_path / "f.npz")]
    assert main(["factors", str(run), "--data", str(other), "--split", "train", *factors]) == 0
    assert Run(run).assignment().factors == ("both[0]", "both[1]", "odd")


def test_the_page_shows_the_assignment(world, tmp_path, monkeypatch):
    for name in ("vae_figures", "report_figures"):
        monkeypatch.setattr(f"pyrovae.cli.measure.{name}", lambda *_, **__: {})
    run, _, _ = world
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    assert main(["evaluate", str(folder), "--particles", "20"]) == 0
    (folder / "factors.json").unlink(missing_ok=True)
    assert main(["report", str(folder)]) == 0
    heading = "Which unit holds which factor"
    assert heading not in (folder / "report.html").read_text()
    factors = np.random.default_rng(0).integers(3, size=(300, 2))
    found = pv.assign(factors, factors, names=["hue", "<b>"])
    scores = MIG(resamples=3)(factors, factors)
    record = {"run": Run(folder).config["run"], "data_set": "<i>", "split": "train"}
    save_factors(folder / "factors.json", found, scores, **record)
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert f"<h2>{heading}</h2>" in page
    assert "hue in z[0]" in page
    assert page.count("Of the posterior means of &lt;i&gt;, train split.") == 2
    assert "<b>" not in page.replace("&lt;b&gt;", "")
    assert "<h2>Disentanglement</h2>" in page
    assert found.verdict[0] in page
    save_factors(folder / "factors.json", found, run="of a run that was overwritten")
    assert Run(folder).assignment() is None
    assert main(["report", str(folder)]) == 0
    assert heading not in (folder / "report.html").read_text()


def test_what_is_wrong_is_one_line(world, tmp_path, capsys):
    run, data, known = world
    whole = ["--data", data.with_name("again.npy"), "--split", "train"]
    shutil.copy(data, data.with_name("again.npy"))
    line = complaint(capsys, "factors", run, *whole)
    assert "neither factors nor labels: give a file with a column for each factor" in line
    (tmp_path / "few.csv").write_text("f\n" + "a\nb\n" * 20)
    line = complaint(capsys, "factors", run, "--factors", tmp_path / "few.csv")
    assert f"has 40 values of 'f', and {data} has 400 rows: give one row of factors for" in line
    line = complaint(capsys, "factors", run, *whole, "--factors", tmp_path / "f.txt")
    assert "factors are read from .npy, .npz, .csv" in line
    one = tmp_path / "one.csv"
    one.write_text("always\n" + "1\n" * 400)
    line = complaint(capsys, "factors", run, *whole, "--factors", one)
    assert "each of the factors always has a single value" in line
    (tmp_path / "real.csv").write_text("f\n" + "".join(f"{i / 7}\n" for i in range(400)))
    line = complaint(capsys, "factors", run, *whole, "--factors", tmp_path / "real.csv")
    assert "'f' has numbers that are not whole" in line
    (tmp_path / "gap.csv").write_text("f,g\n" + "a,1\n" * 200 + "b,2\n" * 199 + "NA,1\n")
    line = complaint(capsys, "factors", run, *whole, "--factors", tmp_path / "gap.csv")
    assert "'f' has missing values" in line
    np.save(tmp_path / "objects.npy", np.array([None, 1] * 200), allow_pickle=True)
    line = complaint(capsys, "factors", run, *whole, "--factors", tmp_path / "objects.npy")
    assert "holds Python objects, which are not unpickled" in line
    assert "no run's folder at" in complaint(capsys, "factors", tmp_path / "none")


def test_units_whose_posterior_is_the_prior_are_left_out(world, capsys, monkeypatch):
    run, _, known = world

    def rates(*_, **__):
        return {"z": torch.tensor([[0.005, 2.0]] * 7)}

    monkeypatch.setattr("pyrovae.cli.factors.dimension_rates", rates)
    assert main(["factors", str(run), "--split", "train", "--factors", str(known)]) == 0
    assert Run(run).assignment().units == ("z[1]",)
    said = capsys.readouterr().out
    assert "Left out: z[0], whose posterior is the prior (KL < 0.01 nats)." in said


def test_the_assignment_is_kept_if_scores_fail(world, monkeypatch, capsys):
    run, _, known = world
    (run / "factors.json").unlink(missing_ok=True)

    def failing(*_, **__):
        raise ValueError("no scores")

    monkeypatch.setattr("pyrovae.cli.factors.disentanglement", failing)
    line = complaint(capsys, "factors", run, "--split", "train", "--factors", known)
    assert "no scores" in line
    assert Run(run).assignment().held == {"z[0]": "size", "z[1]": "hue"}


class TestFile:
    @pytest.fixture
    def saved(self, tmp_path):
        factors = np.random.default_rng(0).integers(3, size=(300, 2))
        units = np.column_stack([factors, np.ones(300)])
        found = pv.assign(units, factors, names=["hue", "size"])
        save_factors(tmp_path / "factors.json", found)
        return tmp_path / "factors.json", found

    def test_reads_as_it_was_written(self, saved):
        path, found = saved
        again = read_assignment(path)
        assert str(again) == str(found)
        assert again.to_json() == found.to_json()
        assert torch.equal(again.information, found.information)

    def test_of_a_later_version_is_read(self, saved):
        path, found = saved
        said = json.loads(path.read_text())
        said["assignment"]["more"] = said["more"] = {"a": 1}
        del said["assignment"]["spread"], said["scores"]
        path.write_text(json.dumps(said))
        assert read_assignment(path).held == found.held

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda s: s.pop("assignment"), "missing required field `assignment`"),
            (lambda s: s["assignment"].update(units="z"), "Expected `array`, got `str`"),
            (lambda s: s["assignment"].update(units=["z"]), "1 units, 2 factors.*do not fit"),
            (lambda s: s["assignment"]["information"].pop(), "do not fit"),
            (lambda s: s["assignment"]["error"][0].pop(), "do not fit"),
            (lambda s: s["assignment"]["entropy"].append(1.0), "3 entropies"),
            (lambda s: s["assignment"]["information"][0].__setitem__(0, "x"), "Expected `float"),
        ],
    )
    def test_that_was_damaged_is_refused(self, saved, change, said):
        path, _ = saved
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=said) as refused:
            read_assignment(path)
        assert "pyrovae factors" in str(refused.value)

    @pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
    def test_that_is_no_json_is_refused(self, saved, text):
        path, _ = saved
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match="half-written or damaged"):
            read_assignment(path)
