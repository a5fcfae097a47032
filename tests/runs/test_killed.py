"""A run's folder is one run, killed at whatever moment of whatever writes into it."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from killed import begun, killed

import pyrovae as pv
from pyrovae.measure.saved_findings import read_report
from pyrovae.runs import Run

MOMENTS = int(os.environ.get("MOMENTS", "4"))
"""How many moments each kind is killed at: 30 tell more."""

DIGITS = {"name": "digits", "root": None, "binarization": "dynamic", "shape": [1, 8, 8]}

pytestmark = pytest.mark.slow


def small(latents):
    torch.manual_seed(0)
    return pv.VAE(
        pv.priors.StandardNormal(latents),
        pv.likelihoods.Bernoulli(pv.nets.MLP(latents, 8, 64)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(64, 8, 2 * latents)),
    )


def training(folder, latents):
    sizes = ["--latents", latents, "--hidden", 8, "--epochs", 500]
    return begun("train", "--data", "digits", *sizes, "--out", folder, "--overwrite")


def latents_of(folder):
    """Return the latents of the one run in a folder: model, configuration and metrics agree."""
    width = pv.load(folder).prior.loc.numel()
    run = Run(folder)
    prior = run.config["vae"]["prior"]
    assert [*prior["args"], *prior["kwargs"].values()] == [width]
    numbers = [line["epoch"] for line in run.metrics]
    assert numbers == list(range(1, len(numbers) + 1))
    return width


def moments(span):
    """Yield moments of a span of seconds: half of them at its very start, where files appear."""
    early = (MOMENTS + 1) // 2
    yield from (0.002 * i for i in range(early))
    yield from (span * (i + 1) / (MOMENTS - early) for i in range(MOMENTS - early))


def test_a_first_training_that_is_killed(tmp_path):
    """There is no run before its first file, and a whole one after it."""
    for i, after in enumerate(moments(1.0)):
        folder = tmp_path / str(i)
        killed(training(folder, 4), once=lambda folder=folder: any(folder.glob("*")), after=after)
        if (folder / "model.safetensors").exists():
            assert latents_of(folder) == 4
        else:
            assert not (folder / "config.json").exists()
            with pytest.raises(ValueError, match="is no run, or half-written"):
                pv.load(folder)
        pv.fit(small(4), torch.ones(8, 64), epochs=1, callbacks=[pv.Checkpoint(folder)])
        assert latents_of(folder) == 4


def test_a_training_over_another_run_that_is_killed(tmp_path):
    """It is the run before until the first file moves, and the new one from then on."""
    before, folder = 4, tmp_path / "run"
    pv.save(small(before), folder)
    for after in moments(1.0):
        latents = before + 1
        held = os.stat(folder / "model.safetensors").st_ino
        killed(
            training(folder, latents),
            once=lambda held=held: os.stat(folder / "model.safetensors").st_ino != held,
            after=after,
        )
        met = latents_of(folder)
        assert met in (before, latents)
        before = met


def test_an_evaluation_that_is_killed(tmp_path):
    """The run stands as it was, and its evaluation is the one before, the new one, or refused."""
    folder = tmp_path / "run"
    config = Run(folder).save(small(4), data=DIGITS, seed=0)
    process = begun("evaluate", folder, "--particles", 3, "--limit", 4)
    process.join()
    assert process.exitcode == 0
    first = tmp_path / "first"
    shutil.copytree(folder, first)
    for after in moments(0.5):
        shutil.rmtree(folder)
        shutil.copytree(first, folder)
        process = begun("evaluate", folder, "--particles", 5, "--limit", 4)
        killed(process, once=lambda: _beside(folder), after=after)
        assert latents_of(folder) == 4
        assert Run(folder).config == config
        if _is_of_two(folder):
            with pytest.raises(ValueError, match="not of one report; measure again"):
                read_report(folder / "evaluation.json")
        else:
            report = read_report(folder / "evaluation.json")
            assert report.particles in (3, 5)
            assert len(report.quantities["ELBO"].value) == 4


def _is_of_two(folder):
    """Tell whether one of a report's two files was moved into its place and the other was not."""
    named = json.loads((folder / "evaluation.json").read_text())["tensors"]
    content = (folder / "evaluation.safetensors").read_bytes()
    return hashlib.sha256(content).hexdigest() != named


def _beside(folder):
    """Tell whether a report is about to be moved into its place, or is there."""
    return (
        any(folder.glob(".evaluation*.part"))
        or b'"particles": 5' in (folder / "evaluation.json").read_bytes()
    )
