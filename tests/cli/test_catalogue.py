"""Every name of the command line builds what it says, and options reach the part."""

import json
import subprocess
import sys

import pytest
import torch

import pyrovae as pv
from pyrovae.cli import catalogue, main

X = torch.bernoulli(torch.full((30, 6), 0.4), generator=torch.Generator().manual_seed(0))
PLAN = catalogue.Plan(latents=3, hidden=(5,), x=X)


def vae(prior="standard-normal", likelihood="bernoulli", guide="mean-field"):
    options = {"components": "4"} if prior in ("mixture", "vampprior") else {}
    posterior = catalogue.make("guide", guide, {}, PLAN)
    return pv.VAE(
        catalogue.make("prior", prior, options, PLAN, posterior),
        catalogue.make("likelihood", likelihood, {}, PLAN).start_at_mean(X),
        posterior,
    )


GUIDE_OF = {"sphere": "power-spherical"}


@pytest.mark.parametrize("prior", catalogue.PRIORS)
def test_every_prior_makes_a_vae_that_can_be_measured(prior):
    made = vae(prior=prior, guide=GUIDE_OF.get(prior, "mean-field"))
    log_w = pv.log_weights(made.model, made.guide, X, particles=3)
    assert torch.isfinite(log_w).all()
    assert made.sample(2).shape == (2, 6)


@pytest.mark.parametrize("guide", [g for g in catalogue.GUIDES if g != "power-spherical"])
def test_every_guide_makes_a_vae_that_can_be_measured(guide):
    made = vae(guide=guide)
    assert torch.isfinite(pv.log_weights(made.model, made.guide, X, particles=3)).all()


@pytest.mark.parametrize("likelihood", catalogue.LIKELIHOODS)
def test_every_likelihood_starts_at_the_mean_of_the_data(likelihood):
    made = vae(likelihood=likelihood)
    assert torch.isfinite(pv.log_weights(made.model, made.guide, X, particles=3)).all()
    bias = made.likelihood.net.layers[-1].bias
    assert torch.equal(bias.argsort(), X.mean(0).argsort()) or bias.std() > 0


@pytest.mark.parametrize("name", catalogue.OBJECTIVES)
def test_every_objective_is_the_class_of_its_name(name):
    found = catalogue.make("objective", name, {}, catalogue.Aim(4, "dreg"))
    classes = {"elbo": "MIWAE", "rws": "ReweightedWakeSleep", "renyi": "Renyi"}
    assert type(found).__name__ == classes.get(name, name.upper())
    assert found.num_particles == {"miwae": 20, "piwae": 20}.get(name, 4)
    assert found.gradient == "dreg"
    of_guide = {"miwae": found, "piwae": getattr(found, "of_guide", None)}.get(name)
    assert of_guide is None or of_guide.k == 4


def test_the_plain_elbo_of_one_particle_is_left_to_fit():
    assert catalogue.make("objective", "elbo", {}, catalogue.Aim(1, "plain")) is None


def test_options_reach_the_part():
    guide = catalogue.make("guide", "low-rank", {"rank": "2"}, PLAN)
    assert guide.rank == 2
    prior = catalogue.make("prior", "student-t", {"df": "7.5"}, PLAN, guide)
    assert float(prior.df) == 7.5
    found = catalogue.make("objective", "renyi", {"alpha": "0.25"}, catalogue.Aim(4, "plain"))
    assert found.alpha == 0.25


def test_a_run_is_built_of_named_parts_and_rebuilt(tmp_path, capsys):
    out = tmp_path / "run"
    command = (
        "train --latents 2 --hidden 8 --epochs 1 --batch-size 400 --prior vampprior "
        "--prior.components 7 --guide low-rank --guide.rank=1 --likelihood continuous-bernoulli "
        "--objective iwae --particles 3 --gradient dreg"
    )
    assert main([*command.split(), "--out", str(out)]) == 0
    assert "Objective: IWAE, 3 particles" in capsys.readouterr().out
    made = pv.load(out)
    assert made.prior.pseudo_inputs.shape == (7, 64)
    assert made.prior.guide is made.posterior
    assert made.posterior.rank == 1
    training = json.loads((out / "config.json").read_text())["training"]
    assert (training["objective"], training["draws"], training["gradient"]) == ("iwae", 3, "dreg")
    assert main(["evaluate", str(out), "--particles", "5", "--limit", "4"]) == 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--prior cauchy", "choose from 'standard-normal'"),
        ("--objective cubo", "choose from 'elbo', 'iwae'"),
        ("--prior.rank 3", "unrecognized arguments: --prior.rank"),
        ("--prior mixture --prior.df 3", "mixture has no option --prior.df; it takes --prior.com"),
        ("--prior normal --prior.df 3", "normal has no option --prior.df; it takes none"),
        ("--prior mixture --prior.components 2.5", "--prior.components is a whole number; got"),
        ("--prior student-t --prior.df x", "--prior.df is a number; got 'x'"),
        ("--prior mixture --prior.components 0", "at least one component; got 0"),
        ("--prior vampprior --prior.components 5000", "5000"),
        ("--prior sphere", "'sphere' and guide 'power-spherical' go together"),
        ("--guide power-spherical", "go together"),
        ("--objective iwae", "iwae needs --particles K"),
        ("--objective rws --particles 1", "two or more"),
        ("--objective rws --particles 5 --gradient stl", "'plain' or 'dreg'"),
        ("--objective renyi --particles 5 --objective.alpha 1", "other than 1"),
    ],
)
def test_what_no_part_can_be_made_of_is_one_line(command, words, tmp_path, capsys):
    assert main(["train", *command.split(), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_names_are_listed_without_torch():
    code = (
        "import sys; from pyrovae.cli import main; "
        "main(['train', '--help']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "vampprior (500)" in done.stdout
    assert done.stdout.strip().endswith("False")
