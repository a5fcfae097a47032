"""A report as ArviZ's data: its bounds, read by ArviZ itself."""

import sys
import types
import warnings

import numpy as np
import pytest
import torch

import pyrovae as pv
from pyrovae.measure.to_arviz import to_arviz

N = 6


@pytest.fixture(scope="module")
def report():
    with pv.seeded(0):
        return pv.evaluate(pv.mlp_vae(8, latents=2, hidden=4), torch.eye(8)[:N], particles=100)


def test_arviz_reads_the_tightest_bound_of_each_datum(report):
    arviz = pytest.importorskip("arviz")
    found = report.to_arviz()
    x = found["log_likelihood"]["x"]
    assert x.dims == ("chain", "draw", "datum")
    np.testing.assert_array_equal(x[0, 0], report.iwae[100].value.double())
    assert found["log_likelihood"].attrs["bound"] == "IWAE-100"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one draw there is no variance
        score = arviz.waic(found).elpd_waic
    assert score == pytest.approx(N * report.iwae[100].mean, rel=1e-6)


def test_the_statistics_are_those_of_the_report(report):
    stats = to_arviz(report)["sample_stats"]
    wanted = {
        "elbo": report.elbo.value,
        "elbo_standard_error": report.elbo.standard_error,
        "kl_closed_form": report.closed_form_kl.value,
        "pareto_k": report.pareto_k,
        "effective_sample_size": report.effective_sample_size,
    }
    for name, value in wanted.items():
        np.testing.assert_array_equal(stats[name][0, 0], value.double())


def test_a_saved_report_gives_the_same(report, tmp_path):
    report.save(tmp_path / "evaluation.json")
    again, wanted = pv.read_report(tmp_path / "evaluation.json").to_arviz(), report.to_arviz()
    for group in ("log_likelihood", "sample_stats"):
        assert again[group].identical(wanted[group])


def test_from_arviz_1_on_it_is_a_tree(report, monkeypatch):
    xarray = pytest.importorskip("xarray")
    monkeypatch.setitem(sys.modules, "arviz", types.SimpleNamespace(__version__="1.0.0"))
    tree = report.to_arviz()
    assert isinstance(tree, xarray.DataTree)
    np.testing.assert_array_equal(tree["log_likelihood/x"][0, 0], report.iwae[100].value.double())


def test_what_has_no_bounds_is_refused(report, monkeypatch):
    guide = pv.guides.Delta(pv.nets.MLP(8, 2))
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.MLP(2, 8)), guide)
    point = pv.evaluate(vae, torch.eye(8), particles=2)
    with pytest.raises(ValueError, match="lacks .its guide is a point mass at z.: give"):
        point.to_arviz()
    with pytest.raises(ValueError, match="lacks .it has none.: give the report of"):
        to_arviz(pv.PredictiveCheck()(vae, torch.eye(8)))
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ValueError, match="needs arviz, which is not installed: pip install 'py"):
        report.to_arviz()
