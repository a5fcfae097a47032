"""Diagnostics change no number of a report, and an interrupt keeps what there is."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.cli import recipes
from pyrovae.measure.findings import Finding, Number

NAN = math.nan


class Small(Finding):
    """A finding of two numbers per datum."""

    title = "a diagnostic"

    def __init__(self, x, *, partial=False):
        self.x, self._partial = x, partial

    @property
    def partial(self):
        return self._partial

    @property
    def quantities(self):
        return {"mean of x": Number(self.x.mean().item(), NAN, NAN)}

    @property
    def verdict(self):
        return ["Something follows."]

    @property
    def per_datum(self):
        return {"draw": torch.rand(len(self.x)), "x": self.x}


@dataclass(frozen=True)
class Draws:
    """A diagnostic that uses random numbers and changes nothing."""

    name: ClassVar[str] = "draws"
    partial: bool = False

    def __call__(self, target, x, *context):
        assert not torch.is_grad_enabled()
        assert not getattr(target, "training", False)
        found = Small(x + 0 * torch.rand_like(x), partial=self.partial)
        found.first, found.context = torch.rand(1), context
        return found


@dataclass(frozen=True)
class Stops:
    """A diagnostic that an interrupt meets."""

    name: ClassVar[str] = "stops"

    def __call__(self, target, x, *context):
        raise KeyboardInterrupt


class TestDiagnostics:
    def test_change_no_number_and_are_each_at_the_seed(self, tmp_path):
        world = LinearGaussian()
        x, context = world.sample(7), torch.arange(7)
        vae = pv.VAE(
            lambda _: world.prior(),
            lambda z, x, _: world.likelihood(z, x),
            lambda x, _: world.off_posterior(x),
        )
        data, settings = (x, context), {"particles": 30, "batch_size": 3, "seed": 4}
        alone = pv.evaluate(vae, data, **settings)
        other = type("Other", (Draws,), {"name": "other"})()
        report = pv.evaluate(vae, data, **settings, diagnostics=[Draws(), other])
        for name, tensor in alone.tensors().items():
            assert torch.equal(report.tensors()[name], tensor), name
        assert list(report.findings) == ["draws", "other"]
        with pv.seeded(4):
            torch.rand_like(x)
            first = torch.rand(1)
        for found in report.findings.values():
            assert torch.equal(found.first, first)
            assert torch.equal(found.x, x)
            assert torch.equal(found.context[0], context)
        assert not report.partial

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (ValueError("site 'z' is not of my kind"), "site 'z' is not of my kind"),
            (torch.OutOfMemoryError("4 GiB\nmore"), "it failed (OutOfMemoryError: 4 GiB)"),
        ],
    )
    def test_that_refuse_or_fail_lose_nothing_of_what_was_measured(self, error, said):
        class Refuses:
            name = "refuses"

            def __call__(self, target, x):
                raise error

        world = LinearGaussian()
        x = world.sample(4)
        with pytest.warns(UserWarning, match="'refuses' was not measured") as warned:
            report = pv.evaluate(world.vae(), x, particles=30, diagnostics=[Refuses(), Draws()])
        assert "\n" not in str(warned[0].message)
        assert warned[0].filename == __file__
        assert torch.equal(report.elbo.value, pv.evaluate(world.vae(), x, particles=30).elbo.value)
        assert list(report.findings) == ["draws"]
        assert report.unfinished == ()
        assert not report.partial
        assert f"Not measured: refuses: {said}." in report.verdict

    def test_are_printed_below_and_saved_under_their_names(self, tmp_path):
        world = LinearGaussian()
        x = world.sample(4)
        report = pv.evaluate(world.vae(), x, particles=30, diagnostics=[Draws()])
        text = str(report)
        assert text.index("ELBO") < text.index("a diagnostic") < text.index("Something follows.")
        report.save(tmp_path / "evaluation.json", data_set="none")
        saved = json.loads((tmp_path / "evaluation.json").read_text())
        assert saved["findings"]["draws"] == report.findings["draws"].to_json()
        assert saved["findings"]["draws"]["quantities"]["mean of x"]["error_over_data"] is None
        assert (saved["data_set"], saved["partial"], saved["data"]) == ("none", False, 4)
        tensors = load_file(tmp_path / "evaluation.safetensors")
        assert torch.equal(tensors["draws/x"], x)
        assert torch.equal(tensors["Pareto k-hat"], report.pareto_k)
        assert torch.equal(tensors["KL per dimension, z"], report.kl_per_dimension["z"])
        means = report.kl_per_dimension["z"].mean(0).tolist()
        assert saved["kl_per_dimension"]["z"] == pytest.approx(means)

    def test_take_a_constant_context_and_batches_as_they_come(self):
        world = LinearGaussian()
        x, constant = world.sample(5), torch.ones(())
        vae = pv.VAE(
            lambda _: world.prior(),
            lambda z, x, _: world.likelihood(z, x),
            lambda x, _: world.off_posterior(x),
        )
        batches = [(x[:3], constant), (x[3:], constant)]
        report = pv.evaluate(vae, batches, particles=3, diagnostics=[Draws()])
        assert torch.equal(report.findings["draws"].x, x)
        assert report.findings["draws"].context[0] is constant

    def test_two_of_one_name_are_refused(self):
        world = LinearGaussian()
        with pytest.raises(ValueError, match=r"different names; got \['draws', 'draws'\]"):
            pv.evaluate(
                world.vae(),
                world.sample(3),
                particles=2,
                diagnostics=[Draws(), Draws(partial=False)],
            )


class Interrupted(LinearGaussian):
    """A world whose model meets an interrupt at its n-th call, and none later."""

    def __init__(self, call):
        super().__init__()
        self.calls, self.call = 0, call

    def vae(self, posterior=None):
        """Return the VAE, which is not run beforehand to learn how it treats particles."""
        vae = super().vae(posterior)
        vae.broadcasts = True
        return vae

    def likelihood(self, z, x=None):
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt
        return super().likelihood(z, x)


class TestInterrupts:
    def test_keep_the_batches_that_are_done(self, tmp_path):
        """Each batch of three runs the model for the weights, at a draw, and at another's draw."""
        world = Interrupted(call=8)
        x = world.sample(10)
        report = pv.evaluate(
            world.vae(), x, particles=30, batch_size=3, diagnostics=[Draws(), Stops()]
        )
        assert report.partial
        assert report.title == "partial: 6 of 10 data, 30 particles, nats per datum"
        assert report.unfinished == ("draws", "stops")
        assert "Not measured because of an interrupt: draws, stops." in report.verdict
        whole = pv.evaluate(world.vae(), x, particles=30, batch_size=3)
        assert not whole.partial
        for name, tensor in report.tensors().items():
            assert torch.equal(tensor, whole.tensors()[name][:6]), name
        assert torch.equal(report.cost_of_another, whole.cost_of_another[:6])
        report.save(tmp_path / "evaluation.json")
        assert json.loads((tmp_path / "evaluation.json").read_text())["partial"] is True

    def test_of_a_stream_leave_open_how_much_there_was(self):
        world = Interrupted(call=6)
        x = world.sample(10)
        report = pv.evaluate(world.vae(), list(x.split(5)), particles=3)
        assert report.title == "partial: 5 data, 3 particles, nats per datum"

    def test_before_the_first_batch_leave_nothing(self):
        world = Interrupted(call=1)
        with pytest.raises(KeyboardInterrupt):
            pv.evaluate(world.vae(), world.sample(4), particles=3)

    def test_of_a_diagnostic_keep_the_report_and_what_was_found(self):
        world = LinearGaussian()
        x = world.sample(4)
        last = type("Last", (Draws,), {"name": "last"})()
        report = pv.evaluate(world.vae(), x, particles=3, diagnostics=[Draws(), Stops(), last])
        assert list(report.findings) == ["draws"]
        assert report.unfinished == ("stops", "last")
        assert report.partial
        assert report.title == "4 data, 3 particles, nats per datum"
        assert torch.equal(report.elbo.value, pv.evaluate(world.vae(), x, particles=3).elbo.value)

    def test_that_a_diagnostic_has_met_end_the_others(self):
        world = LinearGaussian()
        last = type("Last", (Draws,), {"name": "last"})()
        some = Draws(partial=True)
        report = pv.evaluate(world.vae(), world.sample(4), particles=3, diagnostics=[some, last])
        assert list(report.findings) == ["draws"]
        assert report.unfinished == ("last",)
        assert report.partial

    def test_of_a_partial_report_says_so(self):
        world = Interrupted(call=6)
        report = pv.evaluate(world.vae(), world.sample(9), particles=3, batch_size=4)
        title = pv.plots.bounds(report).axes[0].get_title(loc="left")
        assert title == "partial: 4 of 9 data, 3 particles"


PARTICLES = "200"
"""So many that a pass holds no more than the 100 data of the smallest batch."""

WAITING = """
import os
import time

import torch

import pyrovae as pv


class Waits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.calls = pv.likelihoods.Bernoulli(pv.nets.MLP(2, 64)), 0
        self.domain = self.inner.domain

    def forward(self, z, x=None):
        self.calls += len(z) == 200  # Two for each batch; other passes have fewer particles.
        if self.calls == 3 and "WAIT_AT" in os.environ:
            open(os.environ["WAIT_AT"], "w").close()
            time.sleep(600)
        return self.inner(z, x)


def vae(shape):
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(64, 4))
    return pv.VAE(pv.priors.StandardNormal(2), Waits(), guide)
"""

COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pyrovae.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""A shell in the background may have told its children to ignore SIGINT."""


class TestProcesses:
    """`pyrovae evaluate` on 297 digits, stopped in the second of three batches."""

    @pytest.fixture
    def command(self, tmp_path):
        recipe = tmp_path / "waiting.py"
        recipe.write_text(WAITING)
        vae = recipes.run(recipe, (1, 8, 8), seed=0)
        pv.save(vae, tmp_path / "run", data={"name": "digits", "shape": [1, 8, 8]})
        options = ["--data", "digits", "--recipe", str(recipe), "--particles", PARTICLES]
        return [sys.executable, "-c", COMMAND, "evaluate", str(tmp_path / "run"), *options]

    @staticmethod
    def stopped(command, folder: Path, by):
        """Start the command, send it a signal once it waits in its second batch, and end it."""
        waiting = folder / "waiting"
        process = subprocess.Popen(
            command,
            env={**os.environ, "WAIT_AT": str(waiting)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not waiting.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(by)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def test_an_interrupt_writes_what_there_is_and_says_so(self, command, tmp_path):
        code, out, err = self.stopped(command, tmp_path, signal.SIGINT)
        assert code == 130, err
        assert "partial: 100 of 297 data" in out
        saved = json.loads((tmp_path / "run" / "evaluation.json").read_text())
        assert (saved["partial"], saved["data"]) == (True, 100)
        tensors = load_file(tmp_path / "run" / "evaluation.safetensors")
        assert len(tensors[f"IWAE-{PARTICLES}"]) == 100

    def test_a_process_that_was_killed_and_run_again_finds_the_same(self, command, tmp_path):
        code, _, err = self.stopped(command, tmp_path, signal.SIGKILL)
        assert code == -signal.SIGKILL, err
        assert not (tmp_path / "run" / "evaluation.json").exists()
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        tensors = load_file(tmp_path / "run" / "evaluation.safetensors")
        vae = recipes.run(tmp_path / "waiting.py", (1, 8, 8), seed=0)
        report = pv.evaluate(vae, pv.data.load("digits").test, particles=int(PARTICLES))
        assert set(tensors) == set(report.tensors())
        for name, tensor in report.tensors().items():
            assert torch.equal(tensors[name], tensor), name


def test_a_finding_that_is_partial_makes_its_report_partial():
    world = LinearGaussian()
    x = world.sample(4)
    report = pv.evaluate(world.vae(), x, particles=3, diagnostics=[Draws(partial=True)])
    assert report.unfinished == ()
    assert report.partial


def test_what_is_of_a_finding_is_not_read_as_the_reports_own(tmp_path):
    world = LinearGaussian()
    report = pv.evaluate(world.vae(), world.sample(4), particles=3, diagnostics=[Draws()])
    report.save(tmp_path / "evaluation.json")
    again = pv.read_report(tmp_path / "evaluation.json")
    assert set(again.per_datum) == set(report.per_datum)
    assert set(again.findings["draws"].per_datum) == {"draw", "x"}


@pytest.mark.parametrize("given", [Draws, [Draws], "ais", ["ais"], Draws()])
def test_what_is_no_list_of_diagnostics_is_refused_before_the_measurement(given):
    world = LinearGaussian()
    with pytest.raises(ValueError, match="diagnostics must be a list of diagnostic objects"):
        pv.evaluate(world.vae(), world.sample(4), diagnostics=given)
