"""The published tables: a row that was stopped ends with the numbers of one that was not."""

import argparse
import importlib
import sys
from pathlib import Path

import pytest
import torch

import pyrovae as pv

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in (BENCHMARKS / "tables").glob("*.py"))


@pytest.fixture
def tables(monkeypatch):
    for folder in (BENCHMARKS, BENCHMARKS / "tables"):
        monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module("tables")
    for name in ("tables", "protocol", *NAMES):
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
    return protocol.Table("small", "", {"a": row}, lambda root: (digits.train, digits.test), 30)


def arguments(folder):
    return argparse.Namespace(
        table="small", steps=30, seed=3, root="", out=folder, particles=20, ais=None
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


def test_a_row_is_that_of_evaluate(tables, tmp_path):
    table = small(tables)
    line = tables.run("a", table, arguments(tmp_path))
    vae = pv.load(tmp_path / "small" / "a-30-3")
    report = pv.evaluate(vae, pv.data.load("digits").test, particles=20)
    assert line["nll"] == pytest.approx(-report.iwae[20].mean, abs=1e-5)
    text = tables.page(table, [line], "small")
    assert f"| 20.00 | {line['nll']:.2f} |" in text
    assert f"| {line['nll'] - 20:+.2f} |" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_programs_of_each_table(tables, name):
    x = torch.rand(500, 784)
    rows = importlib.import_module(name).TABLE.rows
    for row_name, row in rows.items():
        vae = row.make(x)
        history = pv.fit(
            vae, x[:6].round(), epochs=1, step=row.step(10), callbacks=row.callbacks()
        )
        assert history.epochs[0].loss > 0, row_name


def test_stages_are_those_of_the_paper(tables):
    rate = sys.modules["protocol"].staged(3280)
    for stage in range(8):
        first = (3**stage - 1) // 2
        assert rate(first) == pytest.approx(1e-3 * 10 ** (-stage / 7))
        assert rate(first + 3**stage - 1) == rate(first)
