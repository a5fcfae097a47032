"""What the objectives on the aggregate posterior refuse, and what they say of it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from aggregates import LATENTS, OBJECTIVES, ROWS, Quadratic, trained
from pyro import poutine
from torch import nn
from worlds import Hierarchy, LinearGaussian, Mixture, data_plate

from pyrovae.objectives.aggregate import GaussianKernel
from pyrovae.objectives.regularized import DIP, MMD, FactorVAE, TotalCorrelation


@pytest.fixture(params=OBJECTIVES.values(), ids=OBJECTIVES.keys())
def objective(request):
    return request.param()


def test_a_single_row_is_refused(objective):
    vae, x = trained()
    with pytest.raises(ValueError, match="got one row: choose a batch size"):
        objective.loss(vae.model, vae.guide, x[:1])


def test_a_discrete_latent_is_refused(objective):
    world = Mixture(continuous=True)
    with pytest.raises(ValueError, match="site 'c' has the distribution Categorical, which"):
        objective.loss(world.model, world.guide, world.sample(ROWS))
    with pytest.raises(ValueError, match="site 'c' has the distribution Categorical, which"):
        objective.loss(world.model_enumerated, world.guide_without_class, world.sample(ROWS))


def test_a_masked_latent_is_refused(objective):
    vae, x = trained()
    mask = torch.arange(ROWS) > 2
    programs = (poutine.mask(program, mask=mask) for program in (vae.model, vae.guide))
    with pytest.raises(ValueError, match="site 'z' is masked, so the aggregate posterior is not"):
        objective.loss(*programs, x)


def test_a_latent_that_is_masked_by_its_distribution_is_refused(objective):
    vae, x = trained()
    mask = torch.arange(ROWS) > 2

    class Masking(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if msg["name"] == "z":
                msg["fn"] = msg["fn"].mask(mask)

    with pytest.raises(ValueError, match="site 'z' is masked, so the aggregate posterior is not"):
        objective.loss(Masking()(vae.model), Masking()(vae.guide), x)


def test_a_posterior_that_is_not_factorized_is_refused_by_the_decomposition():
    world = LinearGaussian()
    objective = TotalCorrelation(100, beta=2.0)
    with pytest.raises(ValueError, match="site 'z' has a posterior MultivariateNormal that is no"):
        objective.loss(world.model, world.exact_guide, world.sample(ROWS))


def test_a_minibatch_larger_than_the_data_is_refused():
    world = LinearGaussian()
    with pytest.raises(ValueError, match=f"got a batch of {ROWS} and data_size=7"):
        TotalCorrelation(7, beta=2.0).loss(world.model, world.off_guide, world.sample(ROWS))


def test_a_posterior_without_known_moments_is_refused():
    world = LinearGaussian()

    def guide(x):
        with data_plate(x):
            base = dist.Normal(torch.zeros(len(x), 2).double(), 1.0)
            exp = dist.transforms.SoftplusTransform()
            pyro.sample("z", dist.TransformedDistribution(base, [exp]).to_event(1))

    with pytest.raises(ValueError, match="site 'z' .* Independent without a known mean"):
        DIP(1.0, 1.0).loss(world.model, guide, world.sample(ROWS))


@pytest.mark.parametrize("name", ["stratified", "DIP of means", "Gaussian MMD"])
def test_several_latent_sites_are_refused(name):
    world = Hierarchy()
    with pytest.raises(ValueError, match=r"one latent site; the programs share \['top', 'low'"):
        OBJECTIVES[name]().loss(world.model, world.exact_guide, world.sample(ROWS))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TotalCorrelation(10, beta=-1.0), "beta must be 0 or more"),
        (lambda: TotalCorrelation(10, beta=1.0, alpha=-1.0), "alpha must be 0 or more"),
        (lambda: TotalCorrelation(10, beta=1.0, gamma=math.nan), "gamma must be 0 or more"),
        (lambda: TotalCorrelation(1, beta=1.0), "at least two, the number of data; got 1"),
        (lambda: TotalCorrelation(10, beta=1.0, sampling="mws"), "must be one of .*'mws'"),
        (lambda: DIP(-1.0, 1.0), "off_diagonal must be 0 or more and finite; got -1.0"),
        (lambda: DIP(1.0, -1.0), "diagonal must be 0 or more and finite; got -1.0"),
        (lambda: DIP(1.0, 1.0, covariance="II"), 'covariance must be "means" or .*II'),
        (lambda: MMD(GaussianKernel(1.0), -1.0), "weight must be 0 or more"),
        (lambda: MMD("gaussian", 1.0), "a kernel must be a function of two tensors.*'gaussian'"),
        (lambda: FactorVAE(-1.0, Quadratic()), "gamma must be 0 or more"),
        (lambda: FactorVAE(1.0, torch.sigmoid), "must be an nn.Module; got builtin"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_discriminator_of_another_width_is_refused():
    vae, x = trained()
    objective = FactorVAE(1.0, nn.Linear(LATENTS, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"returned \(8, 2\) for samples \(8, 2\)"):
        objective.loss(vae.model, vae.guide, x)
