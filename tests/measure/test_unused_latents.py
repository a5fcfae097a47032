"""Latents that hold nothing, and VAEs that were never trained, are told of above the numbers."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from worlds import LinearGaussian, Mixture

import pyrovae as pv
from pyrovae.cli import main
from pyrovae.measure import unused_latents as unused
from pyrovae.weights.bounds import Estimate

COLLAPSED = "The latents are unused: KL(q || p) is"
SILENT = "The decoder hardly uses the latents: log p(x | z) falls by"


def digits(likelihood_net=None):
    return pv.VAE(
        pv.priors.StandardNormal(5),
        pv.likelihoods.Bernoulli(likelihood_net or pv.nets.MLP(5, 32, 64)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(64, 32, 2 * 5)),
    )


def test_the_cost_is_the_information_and_the_lautum_information():
    """Of x = W z + s e it is tr(W W') / s^2, half the difference of two mean squares."""
    world = LinearGaussian()
    x = world.sample(2000)
    report = pv.evaluate((world.model, world.exact_guide), x, particles=2)
    found = Estimate(report.cost_of_another, torch.zeros(2000))
    truth = (world.weight.square().sum() / world.noise**2).item()
    assert abs(found.mean - truth) < 4 * found.error_over_data
    assert report.remarks == ()


def test_no_more_data_are_asked_than_tell():
    world = LinearGaussian()
    x = world.sample(2500)
    report = pv.evaluate((world.model, world.exact_guide), x, particles=2, batch_size=500)
    assert report.cost_of_another[:2000].isfinite().all()
    assert report.cost_of_another[2000:].isnan().all()


@pytest.mark.parametrize("seed", range(5))
def test_what_was_never_trained_is_told_above_the_table(seed):
    torch.manual_seed(seed)
    x = pv.data.load("digits").test.draw()
    lines = str(pv.evaluate(digits(), x, particles=5)).splitlines()
    assert " ".join(lines[:4]).startswith(SILENT)
    assert "never trained" in " ".join(lines[:4])


def test_what_was_trained_is_not():
    torch.manual_seed(0)
    data = pv.data.load("digits")
    vae = digits()
    step = pv.Step(optim=pyro.optim.Adam({"lr": 3e-3}))
    pv.fit(vae, data.train, epochs=10, step=step, callbacks=[])
    report = pv.evaluate(vae, data.test, particles=5)
    assert report.remarks == ()
    assert "data, 5 particles" in str(report).splitlines()[0]


def test_a_guide_that_is_the_prior_has_collapsed():
    world = LinearGaussian()

    def prior(x):
        return pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

    report = pv.evaluate(world.vae(prior), world.sample(50), particles=5)
    assert report.remarks[0].startswith(COLLAPSED)
    assert report.to_json()["remarks"] == list(report.remarks)


def test_a_decoder_that_ignores_z_is_told_whatever_the_rate():
    class Deaf(torch.nn.Module):
        def forward(self, z):
            return torch.zeros(*z.shape[:-1], 64)

    torch.manual_seed(0)
    report = pv.evaluate(digits(Deaf()), torch.rand(30, 64).round(), particles=5)
    assert report.monte_carlo_kl.mean > 0.3
    assert (report.cost_of_another == 0).all()
    assert report.remarks[0].startswith(f"{SILENT} 0 ± 0 nats")


def test_a_guide_with_parameters_for_each_datum_is_asked_for_the_others():
    """It does not read x, so that x moved by a row would leave its draws where they are."""
    world = LinearGaussian()
    x = world.sample(40)
    loc = world.posterior_mean(x)

    def guide(_):
        with pyro.plate("data", 40, dim=-1):
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=world.scale_tril))

    report = pv.evaluate((world.model, guide), x, particles=5)
    assert report.cost_of_another.mean() > 1
    assert report.remarks == ()


def test_a_class_that_is_summed_out_leaves_it_open():
    world = Mixture(continuous=True)
    pair = (world.model, world.guide_enumerated)
    report = pv.evaluate(pair, world.sample(20), particles=5)
    assert report.cost_of_another.isnan().all()
    assert not any(SILENT in remark for remark in report.remarks)


def test_a_model_that_cannot_score_x_at_anothers_z_leaves_it_open():
    """x lies in [0, z], so that the z of a smaller datum leaves a larger one out."""

    def prior():
        return pyro.sample("z", dist.Exponential(torch.ones(1)).to_event(1))

    def likelihood(z, x=None):
        return pyro.sample("x", dist.Uniform(0 * z, z).to_event(1), obs=x)

    def guide(x):
        return pyro.sample("z", dist.Uniform(x, x + 0.1).to_event(1))

    x = torch.linspace(0.1, 3.0, 20)[:, None]
    report = pv.evaluate(pv.VAE(prior, likelihood, guide), x, particles=5)
    assert report.cost_of_another.isnan().all()
    assert report.elbo.value.isfinite().all()


def test_one_datum_leaves_it_open():
    world = LinearGaussian()
    report = pv.evaluate((world.model, world.exact_guide), world.sample(1), particles=5)
    assert report.cost_of_another.isnan().all()
    assert report.remarks == ()


@pytest.mark.parametrize(
    ("cost", "told"),
    [
        ([0.05] * 4, True),
        ([0.2] * 4, False),
        ([-1.0, 1.4] * 50, True),  # 0.2 ± 0.12
        ([1.0, 0.4] * 2, False),  # 0.7 ± 0.28
        ([20.0, -10.0] * 2, False),  # 5 ± 14: too few data to tell
        ([-9.0, -5.0] * 2, True),
        ([math.inf, 0.0], False),
        ([math.nan, 0.0], False),
    ],
)
def test_it_is_told_where_the_cost_is_small_or_within_its_error_below_a_nat(cost, told):
    rate = Estimate(torch.full((2,), 3.0), torch.zeros(2))
    assert bool(unused.remarks(rate, torch.tensor(cost))) == told


def test_few_data_of_a_good_pair_do_not_condemn_it():
    """Of 3 data the cost, 3 nats on average, is below a nat and its error in 1 set of 5."""
    world, remarks = LinearGaussian(), []
    for seed in range(60):
        pair, x = (world.model, world.exact_guide), world.sample(3)
        report = pv.evaluate(pair, x, seed=seed, particles=1)
        remarks += report.remarks
    assert sum(said.startswith(SILENT) for said in remarks) <= 2
    assert sum(said.startswith("It is not clear that the decoder uses") for said in remarks) > 5


@pytest.mark.parametrize(
    ("rate", "error", "told"), [(0.05, 0.0, True), (0.05, 0.1, False), (0.05, math.nan, False)]
)
def test_a_rate_that_is_not_known_to_be_small_tells_no_collapse(rate, error, told):
    known = Estimate(torch.full((4,), rate), torch.full((4,), error))
    assert bool(unused.remarks(known, torch.full((4,), math.nan))) == told


def test_a_run_that_was_not_trained_is_told_of_in_print_and_on_its_page(tmp_path, capsys):
    pv.save(digits(), tmp_path / "run", data={"name": "digits", "binarization": "dynamic"})
    argv = [str(tmp_path / "run"), "--data", "digits"]
    assert main(["evaluate", *argv, "--particles", "5"]) == 0
    assert capsys.readouterr().out.startswith("No training is recorded in this run's folder")
    assert main(["report", *argv]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    header = page[page.index("<header>") : page.index("</header>")]
    assert header.count("No training is recorded") == 1
    assert "The decoder hardly uses the latents" in header
