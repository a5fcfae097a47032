"""The published tables: a row that was stopped ends with the numbers of one that was not."""

import argparse
import dataclasses
import importlib
import math
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in (BENCHMARKS / "tables").glob("*.py"))


@pytest.fixture
def tables(monkeypatch):
    for folder in (BENCHMARKS, BENCHMARKS / "tables"):
        monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module("tables")
    monkeypatch.setattr(module, "CURVE_DATA", 20)  # images and particles of each of ten points
    yield module
    for name in ("tables", "table_pages", "protocol", "peers", *NAMES):
        sys.modules.pop(name, None)


def small(tables, callbacks=list):
    """Return a table of one row on the digits."""
    protocol = sys.modules["protocol"]
    row = protocol.Row(
        make=lambda x: pv.mlp_vae(x.shape[1], latents=2, hidden=8),
        step=lambda steps: pv.Step(protocol.burda(steps), compile=False),
        published=20.0,
        units=(2,),
        callbacks=callbacks,
    )
    digits = pv.data.load("digits")
    return protocol.Table(
        "small", "", {"a": row}, lambda root: protocol.Splits(digits.train, digits.test), 30
    )


def arguments(folder):
    return argparse.Namespace(
        table="small", budget=30, seed=3, root="", out=folder, particles=20, ais=None
    )


class Interrupt(pv.Callback):
    def stepped(self, training):
        if training.step == 17:
            raise KeyboardInterrupt


def test_a_stopped_row_ends_with_the_same_numbers(tables, tmp_path):
    whole = tables.run("a", small(tables), arguments(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        tables.run("a", small(tables, lambda: [Interrupt()]), arguments(tmp_path / "two"))
    resumed = tables.run("a", small(tables), arguments(tmp_path / "two"))
    for key in ("nll", "over_data", "elbo", "kl", "units", "iwae"):
        assert resumed[key] == whole[key]
    nll = [[point["nll"] for point in line["curve"]] for line in (whole, resumed)]
    assert nll[0] == nll[1]
    assert whole["steps"] == whole["curve"][-1]["steps"] == 30


def test_a_row_is_compared_with_the_first_on_each_datum(tables, tmp_path):
    table, digits = small(tables), pv.data.load("digits")
    wider = dataclasses.replace(
        table.rows["a"], make=lambda x: pv.mlp_vae(x.shape[1], latents=3, hidden=16)
    )
    table = dataclasses.replace(table, rows={**table.rows, "b": wider}, paired=True)
    pages = sys.modules["table_pages"]
    early = tables.run("b", table, arguments(tmp_path / "early"))
    assert early["over_first"] is None  # the first row is not there
    assert "± " not in pages.page(table, [early], "small").split("\n## ")[0].split("| CPU s |")[1]
    first, line = (tables.run(name, table, arguments(tmp_path)) for name in "ab")
    assert "over_first" not in first
    bounds = [
        pv.evaluate(pv.load(tmp_path / "small" / f"{name}-30-3"), digits.test, particles=20)
        for name in "ba"
    ]
    ahead = bounds[0].iwae[20].value.double() - bounds[1].iwae[20].value.double()
    assert line["over_first"]["mean"] == pytest.approx(ahead.mean().item(), abs=1e-4)
    error = ahead.std().item() / math.sqrt(len(ahead))
    assert line["over_first"]["over_data"] == pytest.approx(error, rel=0.02)  # Student's factor
    cell = f"| {ahead.mean().item():+.2f} ± {line['over_first']['over_data']:.2f} |"
    assert cell in pages.page(table, [first, line], "small")


def test_a_row_is_that_of_evaluate(tables, tmp_path):
    table = small(tables)
    line = tables.run("a", table, arguments(tmp_path))
    vae = pv.load(tmp_path / "small" / "a-30-3")
    report = pv.evaluate(vae, pv.data.load("digits").test, particles=20)
    assert line["nll"] == pytest.approx(-report.iwae[20].mean, abs=1e-5)
    text = sys.modules["table_pages"].page(table, [line], "small")
    assert f"| 20.00 | {line['nll']:.2f} |" in text
    assert f"| {line['nll'] - 20:+.2f} |" in text


def test_the_page_has_the_seconds_to_a_number(tables, tmp_path):
    line = tables.run("a", small(tables), arguments(tmp_path))
    points = [(5.0, 91.0), (9.4, 89.5), (14.0, 88.2)]
    curve = [{"steps": i, "seconds": s, "nll": nll} for i, (s, nll) in enumerate(points)]
    table = dataclasses.replace(small(tables), goals=(90.0, 88.0))
    text = sys.modules["table_pages"].page(table, [{**line, "curve": curve}], "small")
    assert f"| a | {30 * line['batch']:,} | 9 |  | 88.20 |" in text


def test_rows_of_more_threads_stand_beside_those_of_one(tables, tmp_path, monkeypatch):
    args = arguments(tmp_path)
    one = tables.run("a", small(tables), args)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    two = tables.run("a", small(tables), args)
    assert (one["threads"], two["threads"]) == (1, 2)
    assert two["command"] == one["command"] + " --threads 2"
    assert two["nll"] == one["nll"]
    assert (tmp_path / "small" / "2-threads" / "a-30-3" / "config.json").exists()
    pages = sys.modules["table_pages"]
    assert pages.in_order(small(tables), [two, one]) == [one, two]
    text = pages.page(small(tables), [one, two], "small")
    assert "\n| a | 30 |" in text
    assert "\n| a, 2 threads | 30 |" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_that_of_its_rows(tables, name):
    pages, table = sys.modules["table_pages"], importlib.import_module(name).TABLE
    text = (BENCHMARKS / "tables" / f"{name}.md").read_text()
    assert text == pages.page(table, pages.lines(name), name)


def test_the_page_of_all_benchmarks_has_the_rows(tables):
    pages = sys.modules["table_pages"]
    text = pages.README.read_text()
    for name, make in pages.BLOCKS.items():
        assert pages.block(text, name)[1] == make(), name
    assert pages.beside_the_published().count("tables/iwae.md") >= 6


def test_a_row_that_the_table_lacks_is_named(tables):
    table, pages = small(tables), sys.modules["table_pages"]
    with pytest.raises(ValueError, match=r"of 'small', the rows \['b'\] are kept, which"):
        pages.in_order(table, [{"row": "b", "budget": 1, "seed": 0, "threads": 1}])


@pytest.mark.parametrize("begin", ["", "<!-- b -->\n<!-- b -->\n"], ids=["missing", "twice"])
def test_a_page_without_its_comments_is_refused(tables, begin):
    with pytest.raises(ValueError, match="the page has no block of b: write the lines <!-- b -->"):
        sys.modules["table_pages"].block(f"# Page\n{begin}rows\n<!-- end of b -->\n", "b")


@pytest.mark.parametrize("name", NAMES)
def test_the_programs_of_each_table(tables, name):
    table = importlib.import_module(name).TABLE
    x = torch.rand(500, table.bits or 784).round()
    for row_name, row in table.rows.items():
        if row.loop is not None:
            continue
        vae = row.make(x)
        history = pv.fit(
            vae,
            x[:6],
            validation=x[:6],
            epochs=1,
            step=row.step(10),
            callbacks=row.callbacks(),
        )
        assert history.epochs[0].loss > 0, row_name


def test_a_step_by_hand_has_the_gradient_of_the_elbo(tables):
    """With a guide of hardly any noise, so that the draws of the two do not matter."""
    torch.manual_seed(0)
    vae = pv.mlp_vae(16, latents=2, hidden=8)
    with torch.no_grad():
        vae.posterior.net.layers[-1].bias[2:] = -30.0
    x = torch.rand(7, 16).round()
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    loss = pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, x) / len(x)
    gradients = dict(zip(before, torch.autograd.grad(loss, list(vae.parameters())), strict=True))
    loop = importlib.import_module("peers").by_hand(
        lambda vae, steps: [(torch.optim.SGD(vae.parameters()), lambda t: 0.1)]
    )
    curve = tables.Curve(vae, x, 1)
    loop(vae, x, curve, steps=1, batch=7)
    for name, p in vae.named_parameters():
        moved = (before[name] - p) / 0.1
        # The gradient of the scale is that of -log(scale) in both, to 1e-5 / scale.
        torch.testing.assert_close(moved, gradients[name], atol=2e-3, rtol=2e-3)
    assert [point["steps"] for point in curve.points] == [1]


@pytest.mark.parametrize("name", ["VAE", "VAMP"])
def test_the_programs_of_pythae_are_pythaes(tables, name):
    pytest.importorskip("pythae")
    side = importlib.import_module("side_by_side")
    torch.manual_seed(0)
    vae = side.theirs(name)(torch.rand(5, 784)).eval()
    model = vae.posterior.model
    x = torch.rand(5, 784).round()
    found = model({"data": x})
    q = vae.encode(x)
    with pyro.poutine.condition(data={"z": found.z}):
        trace = pyro.poutine.trace(vae.model).get_trace(x)
    trace.compute_log_prob()
    sites = {site: trace.nodes[site]["log_prob"].mean() for site in ("x", "z")}
    torch.testing.assert_close(-sites["x"], found.recon_loss)
    standard = dist.Normal(torch.zeros(40), 1.0).to_event(1)
    kl = {
        "VAE": lambda: torch.distributions.kl_divergence(
            q, standard
        ).mean(),  # in closed form there
        "VAMP": lambda: q.log_prob(found.z).mean() - sites["z"],
    }
    torch.testing.assert_close(kl[name](), found.reg_loss, atol=1e-4, rtol=1e-4)


def test_bits_count_the_levels_of_a_pixel(tables):
    """A uniform density of 560 pixels in [0, 1], and uniform levels, have 8 bits each."""
    protocol = sys.modules["protocol"]
    table = protocol.Table("t", "", {}, lambda root: None, 1, bits=560)
    line = dict.fromkeys(("over_data", "over_particles", "elbo", "kl", "untrusted"), 0.0)
    line |= {"row": "r", "steps": 1, "seed": 0, "threads": 1, "units": {"z": 3}, "seconds": 1.0}
    for continuous, nll in ((True, 0.0), (False, 560 * math.log(256))):
        row = protocol.Row(None, None, 8.25, continuous=continuous)
        text = sys.modules["table_pages"]._line(line | {"nll": nll}, row, table)
        assert text.startswith("| r | 1 | 0 | 8.25 | 8.00 | 0.00 | 0.000 | -0.25 |")


def test_stages_are_those_of_the_paper(tables):
    rate = sys.modules["protocol"].staged(3280)
    for stage in range(8):
        first = (3**stage - 1) // 2
        assert rate(first) == pytest.approx(1e-3 * 10 ** (-stage / 7))
        assert rate(first + 3**stage - 1) == rate(first)
