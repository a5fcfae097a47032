"""The page says what the run's files say, and loads nothing."""

import base64
import functools
import hashlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from complaints import complaint
from matplotlib.figure import Figure
from pages import Page
from safetensors.torch import load_file

import pyrovae as pv
from pyrovae.cli import main
from pyrovae.cli import page as page_module
from pyrovae.files import tensors_as_bytes
from pyrovae.measure.disentanglement import MIG
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.plots.image_grid import png
from pyrovae.runs import Run

EVALUATED = (
    "--particles 30 --limit 20 --ais 3 --ais-start guide --ais-limit 2 --gaps --gaps-limit 2 "
    "--latents"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of digits, evaluated with everything, each as short as it gets."""
    folder = tmp_path_factory.mktemp("report") / "run"
    small = ["--latents", "2", "--hidden", "8", "--epochs", "2", "--batch-size", "400"]
    assert main(["train", "--out", str(folder), *small]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrovae.cli.measure.Gaps", functools.partial(pv.Gaps, steps=4))
        patch.setattr("pyrovae.measure.annealing.ais.safe_to_compile", lambda _: False)
        assert main(["evaluate", str(folder), *EVALUATED]) == 0
        short = functools.partial(pv.disentanglement, metrics=[MIG(resamples=2)])
        patch.setattr("pyrovae.cli.factors.disentanglement", short)
        assert main(["factors", str(folder), "--limit", "60"]) == 0
    return folder


@pytest.fixture(scope="module")
def said(run) -> dict:
    return json.loads((run / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def page(run) -> Page:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrovae.cli.page.png", png)  # drawn
        assert main(["report", str(run)]) == 0
    return Page((run / "report.html").read_text())


def copy(run: Path, folder: Path) -> Path:
    """Copy what a report is made from."""
    folder.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def rewritten(run: Path, folder: Path, name: str, **changes) -> Path:
    """Copy a run with other values in one of its files."""
    folder = copy(run, folder)
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))
    return folder


class TestNumbers:
    @pytest.mark.parametrize("name", [None, "ais", "gaps", "latents"])
    def test_of_the_tables_are_those_of_the_file(self, page, said, name):
        found = said if name is None else said["findings"][name]
        section = "bounds" if name is None else f"finding-{name}"
        columns = ("mean", "error_over_data", "error_over_particles")
        rows = page.numbers(section)
        assert list(rows) == list(found["quantities"])
        for line, quantity in found["quantities"].items():
            known = [quantity[column] for column in columns if quantity[column] is not None]
            values, shown = rows[line]
            assert values == known, line
            assert [float(text) for text in shown] == pytest.approx(known, abs=5.1e-4), line
        for sentence in found["verdict"]:
            assert sentence.replace("`", "") in page.sections["trust" if not name else section]

    def test_of_the_dimensions_are_those_of_the_file(self, page, said):
        rows = page.numbers("dimensions")
        each = said["kl_per_dimension"]["z"]
        assert [rows[f"z[{i}]"][0] for i in range(2)] == [[value] for value in each]

    def test_of_the_training_are_those_of_its_last_epoch(self, page, run):
        last = Run(run).metrics[-1]
        rows = page.numbers("training")
        for line in ("ELBO", "rate", "distortion"):
            name = line.lower()
            assert rows[line][0] == [last[name], last[f"validation_{name}"]]
        assert "after epoch 2" in page.sections["training"]

    def test_that_count_have_no_decimals(self, page, said):
        count = said["findings"]["latents"]["quantities"]["active units"]["mean"]
        assert page.numbers("finding-latents")["active units"][1] == [str(int(count))]

    def test_another_number_in_the_file_is_another_on_the_page(self, run, said, tmp_path):
        quantities = json.loads(json.dumps(said["quantities"]))
        quantities["bits per dimension"]["mean"] = 123.456789
        folder = rewritten(run, tmp_path / "run", "evaluation.json", quantities=quantities)
        assert main(["report", str(folder)]) == 0
        rows = Page((folder / "report.html").read_text()).numbers("bounds")
        assert rows["bits per dimension"][1][0] == "123.457"

    def test_that_are_infinite_are_shown_as_such(self, run, said, tmp_path):
        quantities = json.loads(json.dumps(said["quantities"]))
        quantities["ELBO"] |= {"mean": None, "infinite": {"mean": "-inf"}}
        folder = rewritten(run, tmp_path / "run", "evaluation.json", quantities=quantities)
        assert main(["report", str(folder)]) == 0
        values, shown = Page((folder / "report.html").read_text()).numbers("bounds")["ELBO"]
        assert (values[0], shown[0]) == (-math.inf, "-inf")


class TestPage:
    def test_loads_nothing(self, page, run):
        text = (run / "report.html").read_text()
        assert not any(
            word in text for word in ("http://", "https://", "<script", "url(", "@import")
        )
        sources = [a["src"] for _, a in page.tags if "src" in a]
        assert sources
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        links = [a["href"] for _, a in page.tags if "href" in a]
        assert {link[0] for link in links if link != "data:,"} == {"#"}
        assert {link[1:] for link in links if link.startswith("#")} <= set(page.ids)
        assert len(page.ids) == len(set(page.ids))

    def test_has_every_figure_with_its_words(self, page):
        images = page.attributes("img")
        captions = page_module.CAPTIONS
        assert {image["alt"] for image in images} == set(captions.values())
        for image in images:
            content = base64.b64decode(image["src"].partition(",")[2], validate=True)
            assert content.startswith(b"\x89PNG")
            across, up = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
            assert across / up == pytest.approx(
                int(image["width"]) / int(image["height"]), rel=0.01
            )

    def test_says_first_whether_to_trust_it(self, page, said):
        assert next(iter(page.sections)) == "header"
        assert list(page.sections)[1] == "trust"
        trust = page.sections["trust"]
        bad = said["untrusted"]
        assert (f"at {bad} of 20 data" if bad else "Yes, as far as") in trust
        for finding in said["findings"].values():
            assert finding["verdict"][0].replace("`", "") in trust

    def test_tells_how_it_was_made(self, page, run, said):
        made = page.sections["making"]
        assert f"pyrovae train --out {run} --latents 2" in made
        assert f"pyrovae evaluate {run} {' '.join(EVALUATED)}" in made
        assert "Bernoulli(MLP(2, 8, 64, activation=Tanh))" in made
        for package in ("pyrovae", "torch", "pyro-ppl"):
            assert f"{package} {said['versions'][package]}" in made
        assert said["command"] == ["pyrovae", "evaluate", str(run), *EVALUATED]
        assert (said["data_set"], said["split"], said["limit"]) == ("digits", "test", 20)
        assert (said["seed"], said["binarization"]) == (0, "dynamic")

    def test_is_the_same_when_it_is_written_again(self, page, run, drawn):
        before = (run / "report.html").read_bytes()
        assert main(["report", str(run)]) == 0
        assert (run / "report.html").read_bytes() == before

    def test_names_cannot_break_it(self, run, tmp_path):
        evil = '<script>alert("x")</script>&'
        folder = rewritten(run, tmp_path / "a&b<i>", "evaluation.json", title=evil, split=evil)
        saved = Run(folder).evaluation()
        saved.said["data_set"], saved.said["command"] = evil, ["pyrovae", evil]
        saved.said["verdict"], saved.said["kl_per_dimension"] = [evil], {evil: [0.5]}
        text = page_module.page(Run(folder), saved, {}, left_out=[evil])
        assert "<script" not in text
        assert "<i>" not in text
        assert text.count("&lt;script&gt;alert(") >= 7
        assert "a&b<i>" in Page(text).sections["header"]

    def test_says_which_data_the_factors_are_of(self, page, run):
        for section in ("factors", "scores"):
            said = page.sections[section]
            assert "Of the posterior means of digits, test split: pyrovae factors" in said
            assert f"pyrovae factors {run} --limit 60" in said

    def test_links_the_explorer_beside_it_or_says_how_it_is_made(self, run, tmp_path):
        out = tmp_path / "report.html"
        assert main(["report", str(run), "--out", str(out)]) == 0
        header = Page(out.read_text()).sections["header"]
        assert f"pyrovae explore {run} --out {tmp_path / 'explore.html'}" in header
        (tmp_path / "explore.html").touch()
        assert main(["report", str(run), "--out", str(out)]) == 0
        found = Page(out.read_text())
        assert "pyrovae explore" not in found.sections["header"]
        links = [a["href"] for a in found.attributes("a")]
        assert links.count("explore.html") == 1

    def test_letters_of_figures_are_nine_pixels_high_on_the_narrowest_screen(self, page):
        """The least width is that of the smallest letters; what is wider scrolls."""
        for size, wide in ((6.0, True), (9.0, False)):
            figure = Figure(figsize=(7.2, 2.0))
            figure.text(0.1, 0.1, "small", size=size)
            figure.text(0.1, 0.5, "large", size=30.0)
            figure.text(0.1, 0.9, "", size=1.0)
            shown = page_module.shown_figure(figure, "")
            pixels = size * 96 / 72
            assert shown["width"] == 691
            if wide:  # 8 pixels at its own width: it is not shrunk
                assert shown["least"] == 691
            else:
                assert 9 <= shown["least"] / 691 * pixels < 9.02
        for image in page.attributes("img"):
            least = int(image["style"].removeprefix("min-width: ").removesuffix("px"))
            assert 0 <= least <= int(image["width"])

    def test_a_figure_without_letters_shrinks_to_any_width(self):
        assert page_module.shown_figure(Figure(figsize=(7.2, 2.0)), "")["least"] == 0


class TestWhatIsMissing:
    def test_a_partial_evaluation_says_so_at_the_top(self, page, run, tmp_path):
        assert "Partial" not in page.sections["header"]
        folder = rewritten(
            run, tmp_path / "run", "evaluation.json", partial=True, title="partial: 20 of 297 data"
        )
        assert main(["report", str(folder)]) == 0
        header = Page((folder / "report.html").read_text()).sections["header"]
        assert "Partial. An interrupt ended the evaluation: partial: 20 of 297 data." in header

    def test_a_diagnostic_that_is_partial_is_named(self, run, said, tmp_path):
        findings = json.loads(json.dumps(said["findings"]))
        findings["gaps"]["partial"] = True
        folder = rewritten(
            run, tmp_path / "run", "evaluation.json", partial=True, findings=findings
        )
        assert main(["report", str(folder)]) == 0
        header = Page((folder / "report.html").read_text()).sections["header"]
        assert "Partial within: What limits the bound." in header

    def test_few_particles_leave_trust_open(self, run, tmp_path):
        tensors = load_file(run / "evaluation.safetensors")
        tensors["Pareto k-hat"] = torch.full((20,), torch.nan)
        content = tensors_as_bytes(tensors)
        digest = hashlib.sha256(content).hexdigest()
        folder = rewritten(run, tmp_path / "run", "evaluation.json", tensors=digest)
        (folder / "evaluation.safetensors").write_bytes(content)
        assert main(["report", str(folder)]) == 0
        assert "It cannot be told" in Page((folder / "report.html").read_text()).sections["trust"]

    def test_a_guide_of_points_is_not_trusted(self, run, tmp_path):
        folder = rewritten(run, tmp_path / "run", "evaluation.json", point_masses=["z"])
        assert main(["report", str(folder)]) == 0
        trust = Page((folder / "report.html").read_text()).sections["trust"]
        assert "No: the guide has no density" in trust
        assert "Yes" not in trust

    def test_without_further_measurements_there_are_no_sections_of_them(self, run, tmp_path):
        folder = copy(run, tmp_path / "run")
        argv = ["evaluate", str(folder), "--particles", "30", "--limit", "5"]
        assert main(argv) == 0
        assert main(["report", str(folder)]) == 0
        found = Page((folder / "report.html").read_text())
        assert not any(name.startswith("finding-") for name in found.sections)

    def test_other_data_than_those_of_the_evaluation_are_not_shown(self, run, tmp_path):
        folder = rewritten(run, tmp_path / "run", "evaluation.json", split="train")
        assert main(["report", str(folder)]) == 0
        found = Page((folder / "report.html").read_text())
        assert "The data of digits are not those of the evaluation" in found.sections["making"]
        shown = {image["alt"] for image in found.attributes("img")}
        missing = {"holes", "traversals", "reconstructions", "latents", "walk"}
        captions = page_module.CAPTIONS
        assert shown == {captions[name] for name in captions.keys() - missing}

    def test_a_run_from_python_has_a_report(self, tmp_path, capsys):
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Bernoulli(pv.nets.MLP(2, 7)),
            pv.guides.MeanFieldNormal(pv.nets.MLP(7, 4)),
        )
        pv.save(vae, tmp_path)
        x = torch.rand(9, 7).round()
        pv.evaluate(vae, x, particles=30).save(tmp_path / "evaluation.json")
        assert main(["report", str(tmp_path)]) == 0
        found = Page((tmp_path / "report.html").read_text())
        assert "no data are shown: name it with --data" in found.sections["making"]
        captions = page_module.CAPTIONS
        shown = {image["alt"] for image in found.attributes("img")}
        assert shown == {captions["bounds"], captions["kl_per_dimension"]}

    def test_errors_are_one_line(self, run, tmp_path, capsys):
        folder = copy(run, tmp_path / "run")
        evaluation = folder / "evaluation.json"
        content = json.loads(evaluation.read_text())
        del content["title"]
        evaluation.write_text(json.dumps(content))
        assert "missing required field `title`" in complaint(capsys, "report", folder)
        evaluation.write_text("{")
        assert "half-written or damaged" in complaint(capsys, "report", folder)
        evaluation.unlink()
        line = complaint(capsys, "report", folder)
        assert line.endswith(f"has no evaluation: run `pyrovae evaluate {folder}`")
        assert "no run's folder at" in complaint(capsys, "report", tmp_path / "none")
        (tmp_path / "file").write_text("")
        assert "file" in complaint(capsys, "report", run, "--out", tmp_path / "file" / "a.html")

    def test_programs_of_your_own_come_from_the_recipe(self, tmp_path, capsys):
        recipe = tmp_path / "mine.py"
        recipe.write_text(
            "import pyro, pyro.distributions as dist, torch\nimport pyrovae as pv\n\n\n"
            "def prior():\n"
            '    return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))\n\n\n'
            "def vae(shape):\n"
            "    likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(2, 64))\n"
            "    return pv.VAE(prior, likelihood, pv.guides.MeanFieldNormal(pv.nets.MLP(64, 4)))\n"
        )
        folder, again = tmp_path / "run", ["--recipe", str(recipe)]
        assert main(["train", "--out", str(folder), "--epochs", "1", *again]) == 0
        assert main(["evaluate", str(folder), "--particles", "30", "--limit", "5", *again]) == 0
        assert f"pyrovae report {folder} --recipe {recipe}" in capsys.readouterr().out
        assert "programs of your own" in complaint(capsys, "report", folder)
        assert main(["report", str(folder), *again]) == 0
        made = Page((folder / "report.html").read_text()).sections["making"]
        assert f"--recipe {recipe}" in made
        sys.modules.pop("recipe_mine")


@pytest.mark.parametrize(
    ("shapes", "particles", "answer"),
    [
        ([0.1, 0.9], 5000, "Not everywhere: the weights are unreliable at 1 of 2 data."),
        ([0.1, 0.6], 100, "Not everywhere: the weights are unreliable at 1 of 2 data."),
        ([0.1, 0.6], 5000, "Yes, as far as the weights tell."),
        ([0.1, math.nan], 100, "It cannot be told"),
        ([0.1, 0.2], 100, "Yes, as far as the weights tell."),
    ],
)
def test_the_answer_is_that_of_the_weights(shapes, particles, answer):
    said = {"particles": particles, "data": 2, "quantities": {}}
    saved = SavedFinding(said, {"Pareto k-hat": torch.tensor(shapes)})
    assert page_module.answer(saved).startswith(answer)


def test_numbers_stand_under_the_names_of_their_columns(run, said):
    numbers = {"mean": 1.0, "error_over_data": 2.0, "error_over_particles": None}
    saved = Run(run).evaluation()
    saved = SavedFinding({**said, "title": "t", "quantities": {"q": numbers}}, saved.saved)
    text = page_module.page(Run(run), saved, {})
    table = text[text.index("<table>") : text.index("</table>")]
    heads = [part.split("</th>")[0] for part in table.split('<th scope="col">')[1:]]
    assert heads == ["mean", "± over data", "± over particles"]
    assert '<data value="2.0">2.000</data></td><td></td></tr>' in table
