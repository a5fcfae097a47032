"""What a notebook shows: the numbers of the object, text as text, and no trace of the showing."""

import math
import shutil
from html.parser import HTMLParser

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.measure.disentanglement import assign
from pyrovae.train.history import Epoch, History

EVIL = '<script>alert("x")</script>&`'


class Shown(HTMLParser):
    """The rows of tables, the tags, and the text of HTML; every tag is closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.rows, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def shown(thing):
    text = thing._repr_html_()
    found = Shown(text)
    assert "script" not in found.tags
    assert len(text) < 40_000
    return found


def number(value):
    return "" if math.isnan(value) else f"{value:.3f}"


def assert_lists(found, quantities):
    for name, quantity in quantities.items():
        errors = (quantity.error_over_data, quantity.error_over_particles)
        assert [name, *map(number, (quantity.mean, *errors))] in found.rows, name


@pytest.fixture(scope="module")
def reports():
    x = torch.rand(12, 16, generator=torch.Generator().manual_seed(0)).round()
    with pv.seeded(0):
        vaes = [pv.mlp_vae(16, latents=2, hidden=width) for width in (8, 3)]
    return [pv.evaluate(vae, x, particles=10) for vae in vaes]


class TestFindings:
    def test_a_report_has_its_numbers_and_sentences(self, reports):
        report = reports[0]
        found = shown(report)
        assert_lists(found, report.quantities)
        assert len(found.rows) == 1 + len(report.quantities)
        for sentence in report.verdict:
            assert sentence.replace("`", "") in found.text

    def test_a_saved_report_is_shown_alike(self, reports, tmp_path):
        reports[0].save(tmp_path / "evaluation.json")
        assert pv.Report.load(tmp_path)._repr_html_() == reports[0]._repr_html_()

    def test_a_comparison_and_a_ranking_show_names_as_text(self, reports):
        compared = pv.compare(*reports, names=(EVIL, "b"))
        assert_lists(shown(compared), compared.quantities)
        assert EVIL.replace("`", "") in shown(compared).text.replace("`", "")
        ranked = pv.rank({EVIL: reports[0], "b": reports[1]})
        assert_lists(shown(ranked), ranked.quantities)

    def test_a_table_of_its_own_columns_is_shown_with_them(self):
        factors = torch.randint(3, (300, 2), generator=torch.Generator().manual_seed(0))
        assigned = assign(factors, factors, names=["<script>", "size"])
        assert shown(assigned).rows[1:] == assigned.rows()

    def test_the_text_is_as_it_was(self, reports):
        assert repr(reports[0]) == f"Report({reports[0].title})"


def epoch(number, **values):
    return Epoch(
        **{**dict.fromkeys(Epoch.__annotations__, 0.5 + number), "epoch": number, **values}
    )


class TestHistory:
    def test_a_few_epochs_are_all_there(self):
        history = History([epoch(1, validation_elbo=math.nan), epoch(2)], kept=2, averaged=EVIL)
        found = shown(history)
        first = ["1", "1.500", "1.500", "", "1.500", "1.500", "1.5", "1.5"]
        assert found.rows[1] == first
        assert len(found.rows) == 3
        assert "All epochs done. Kept: epoch 2." in found.text
        assert "2 epochs, nats per datum" in found.text

    def test_of_many_the_first_the_kept_and_the_last_are_there(self):
        history = History([epoch(i) for i in range(1, 201)], kept=17)
        found = shown(history)
        numbers = [int(row[0]) for row in found.rows[1:]]
        assert len(numbers) == 12
        assert {1, 17, 200} <= {*numbers}
        assert "12 of 200 epochs" in found.text

    def test_none_has_a_table_without_rows(self):
        assert len(shown(History()).rows) == 1


def own_prior():
    return pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))


class TestVAE:
    def test_names_its_parts_sites_and_numbers_of_parameters(self):
        vae = pv.mlp_vae(16, latents=2, hidden=5)
        found = shown(vae)
        assert ["z", "[2]", "Normal", "Normal"] in found.rows
        assert ["x", "[16]", "Bernoulli", "observed"] in found.rows
        guide, likelihood = (16 * 5 + 5) + (5 * 4 + 4), (2 * 5 + 5) + (5 * 16 + 16)
        assert ["guide", "MeanFieldNormal(MLP(16, 5, 4))", str(guide)] in found.rows
        assert ["prior", "StandardNormal(2)", "0"] in found.rows
        assert ["all", "", str(guide + likelihood)] in found.rows

    def test_shared_parameters_are_counted_once_in_the_sum(self):
        guide = pv.guides.MeanFieldNormal(pv.nets.MLP(16, 4))
        likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16))
        vae = pv.VAE(
            pv.priors.VampPrior(guide, 3).start_at_data(torch.rand(9, 16)), likelihood, guide
        )
        count = sum(parameter.numel() for parameter in vae.parameters())
        assert ["all", "", f"{count:,}"] in shown(vae).rows

    def test_a_context_that_is_needed_is_said(self):
        nets = pv.nets.MLP(2 + 3, 16), pv.nets.MLP(16 + 3, 4)
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Bernoulli(nets[0]),
            pv.guides.MeanFieldNormal(nets[1]),
        )
        found = shown(vae)
        assert "Its sites are not shown, as the programs need more: MLP expected" in found.text
        assert ["likelihood", "Bernoulli(MLP(5, 16))", "96"] in found.rows

    def test_leaves_no_trace(self):
        vae = pv.VAE(
            own_prior,
            pv.likelihoods.Bernoulli(pv.nets.MLP(3, 16)),
            lambda x: pyro.sample(
                "z", dist.Normal(pyro.param("loc", torch.zeros(3)), 1.0).to_event(1)
            ),
        )
        before = torch.get_rng_state()
        found = shown(vae)
        assert ["z", "[3]", "Normal", "Normal"] in found.rows
        assert list(pyro.get_param_store()) == []
        assert torch.equal(torch.get_rng_state(), before)
        assert vae.training

    def test_loaded_parameters_wait_for_the_first_real_run(self, tmp_path):
        def guide(x):
            loc = pyro.param("loc", torch.zeros(3))
            return pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

        vae = pv.VAE(own_prior, pv.likelihoods.Bernoulli(pv.nets.MLP(3, 16)), guide)
        x = torch.zeros(2, 16)
        vae.guide(x)
        with torch.no_grad():
            pyro.get_param_store()._params["loc"].fill_(7.0)
        kept = pyro.param("loc")
        vae._repr_html_()
        assert pyro.param("loc").unconstrained() is kept.unconstrained()
        pv.save(vae, tmp_path)
        pyro.clear_param_store()
        again = pv.load(tmp_path, prior=own_prior, guide=guide)
        again._repr_html_()
        again.guide(x)
        assert pyro.param("loc").tolist() == [7.0] * 3
        pyro.clear_param_store()

    def test_without_graphviz_there_is_text_alone(self, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda _: None)
        assert "svg" not in shown(pv.mlp_vae(16, latents=2, hidden=5)).tags


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz has no `dot` here")
class TestDiagrams:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip("graphviz", reason="the package graphviz is not installed")

    def test_show_the_sites_of_both_programs_in_the_colors_of_the_text(self):
        vae = pv.mlp_vae(16, latents=2, hidden=5)
        text = vae._repr_html_()
        assert shown(vae).tags.count("svg") == 2
        assert "black" not in text
        assert 'fill="white"' not in text
        assert text.count(">z</text>") == 2
        assert text.count(">x</text>") == 1

    def test_a_name_that_graphviz_reads_as_markup_is_left_to_the_table(self):
        def prior():
            return pyro.sample("<b>", dist.Normal(torch.zeros(3), 1.0).to_event(1))

        def guide(x):
            pyro.sample("<b>", dist.Normal(torch.zeros(3), 1.0).to_event(1))

        found = shown(pv.VAE(prior, pv.likelihoods.Bernoulli(pv.nets.MLP(3, 16)), guide))
        assert ["<b>", "[3]", "Normal", "Normal"] in found.rows
        assert not {"svg", "b"} & {*found.tags}

    def test_pyros_own_diagram_takes_the_programs(self):
        vae, x = pv.mlp_vae(16, latents=2, hidden=5), torch.zeros(3, 16)
        source = pyro.render_model(vae.model, (x,), render_params=True).source
        assert "z -> x" in source
        assert "z" in pyro.render_model(vae.guide, (x,)).source
