"""Priors over one site "z": densities, draws, bounds and what they refuse."""

import math

import numpy as np
import pyro
import pytest
import torch
from densities import FALSE_ALARM, grid, integral, p_value
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, infer_discrete
from scipy import stats
from torch import distributions as td
from torch import nn
from worlds import random

import pyrovae as pv
from pyrovae import guides, priors
from pyrovae.nets import MLP
from pyrovae.train.step import default_loss
from pyrovae.weights.kl import latent_order
from pyrovae.weights.traces import trace_pair


def moved(prior):
    """Return a prior in float64 whose parameters are not where they start."""
    prior = prior.double()
    with torch.no_grad():
        for seed, parameter in enumerate(prior.parameters()):
            parameter += 0.7 * random(seed, *parameter.shape)
    return prior


def normal_vamp(latents):
    guide = guides.MeanFieldNormal(MLP(3, 4, 2 * latents))
    return moved(priors.VampPrior(guide, 4).start_at_data(random(9, 6, 3)))


def full_rank_vamp(latents):
    guide = guides.FullRankNormal(MLP(3, 4, guides.FullRankNormal.width(latents)))
    return moved(priors.VampPrior(guide, 4).start_at_data(random(9, 6, 3)))


PRIORS = {
    "StandardNormal": priors.StandardNormal,
    "Normal": lambda latents: moved(priors.Normal(latents)),
    "StudentT": lambda latents: priors.StudentT(latents, df=3.0),
    "Laplace": priors.Laplace,
    "MixtureOfNormals": lambda latents: moved(priors.MixtureOfNormals(latents, 3)),
    "VampPrior": normal_vamp,
    "VampPrior of full covariances": full_rank_vamp,
}
table = pytest.mark.parametrize("make", PRIORS.values(), ids=PRIORS.keys())


def enumerated(marginal):
    """Return the same mixture with its component as a site."""
    components, latents = marginal.loc.shape
    prior = priors.MixtureOfNormals(latents, components, component="enumerated").double()
    prior.load_state_dict(marginal.state_dict())
    return prior


ALL = {
    **PRIORS,
    "enumerated": lambda latents: enumerated(moved(priors.MixtureOfNormals(latents, 3))),
}


@table
@pytest.mark.parametrize("latents", [1, 2])
def test_densities_integrate_to_one(make, latents):
    prior = make(latents).double()
    with torch.no_grad():
        assert integral(prior.distribution().log_prob, latents) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("latents", [1, 2])
@torch.no_grad()
def test_the_program_draws_from_the_density(make, latents):
    pyro.set_rng_seed(1)
    prior = make(latents).double()
    density = prior if getattr(prior, "component", "") != "enumerated" else as_marginal(prior)
    with pyro.plate("data", 20_000, dim=-1):
        z = prior()
    assert z.shape == (20_000, latents)
    assert p_value(density.distribution().log_prob, z) > FALSE_ALARM


def as_marginal(prior):
    components, latents = prior.loc.shape
    marginal = priors.MixtureOfNormals(latents, components).double()
    marginal.load_state_dict(prior.state_dict())
    return marginal


SCIPYS = {
    "StandardNormal": (priors.StandardNormal, stats.norm.logpdf),
    "Normal, as it starts": (priors.Normal, stats.norm.logpdf),
    "Laplace": (priors.Laplace, stats.laplace.logpdf),
    "StudentT": (
        lambda latents: priors.StudentT(latents, df=3.0),
        lambda z: stats.t.logpdf(z, df=3.0),
    ),
}


@pytest.mark.parametrize(("make", "truth"), SCIPYS.values(), ids=SCIPYS.keys())
def test_the_density_is_scipys(make, truth):
    z = 3 * random(0, 5, 4, 2)
    found = make(2).double().distribution().log_prob(z)
    torch.testing.assert_close(found.detach(), torch.from_numpy(truth(z.numpy()).sum(-1)))


def test_the_mixture_is_torchs_and_so_are_its_gradients():
    prior, z = moved(priors.MixtureOfNormals(3, 5)), random(0, 4, 6, 3)
    components = td.Independent(td.Normal(prior.loc, pv.nets.positive(prior.raw_scale)), 1)
    wanted = td.MixtureSameFamily(td.Categorical(logits=prior.logits), components).log_prob(z)
    found = prior.distribution().log_prob(z)
    torch.testing.assert_close(found, wanted)
    names, parameters = zip(*prior.named_parameters(), strict=True)
    assert set(names) == {"logits", "loc", "raw_scale"}
    pairs = zip(
        *(torch.autograd.grad(value.sin().sum(), parameters) for value in (found, wanted)),
        strict=True,
    )
    for mine, torchs in pairs:
        torch.testing.assert_close(mine, torchs)


def test_the_mixture_starts_near_unit_variance_with_components_apart():
    torch.manual_seed(0)
    start = priors.MixtureOfNormals(50, 500).distribution()
    # The mean of 25,000 squared draws of variance 1/2, plus 1/2: a standard error of 0.0045.
    assert float(start.variance.detach().mean()) == pytest.approx(1, abs=0.02)
    assert float(torch.pdist(start.loc.detach()).min()) > 1


def world(prior):
    """Return a VAE on one latent, in float64, and a datum."""
    likelihood = pv.likelihoods.Normal(MLP(1, 4, 2), scale=0.5)
    vae = pv.VAE(prior, likelihood, guides.MeanFieldNormal(MLP(2, 4, 2))).double()
    return vae, torch.tensor([[0.4, -0.3]], dtype=torch.float64)


def exact_elbo(vae, x):
    """Integrate q(z) [log p(x | z) p(z) - log q(z)] over the one latent."""
    z, _ = grid(1)
    prior = vae.prior
    prior = as_marginal(prior) if getattr(prior, "component", "") == "enumerated" else prior
    q = vae.encode(x)
    integrand = vae.decode(z).log_prob(x) + prior.distribution().log_prob(z) - q.log_prob(z)
    return integral(q.log_prob, 1, of=lambda _: integrand)


LOSSES = {
    "StandardNormal": TraceMeanField_ELBO,
    "Normal": TraceMeanField_ELBO,
    "StudentT": TraceMeanField_ELBO,
    "Laplace": TraceMeanField_ELBO,
    "MixtureOfNormals": TraceMeanField_ELBO,
    "VampPrior": TraceMeanField_ELBO,
    "VampPrior of full covariances": Trace_ELBO,
    "enumerated": TraceEnum_ELBO,
}


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_the_loss_that_fit_takes_and_the_log_weights_have_the_exact_elbo(name):
    vae, x = world(ALL[name](1))
    wanted, many = exact_elbo(vae, x), x.expand(20_000, -1)
    loss = default_loss(vae.model, vae.guide, x)
    assert type(loss) is LOSSES[name]
    log_w = pv.log_weights(vae, many, particles=1)[0]
    error = float(log_w.std()) / math.sqrt(len(many))
    assert float(log_w.mean()) == pytest.approx(wanted, abs=4 * error)
    # A closed form has less noise than the log-weights, whose error bounds it.
    assert -loss.loss(vae.model, vae.guide, many) / len(many) == pytest.approx(
        wanted, abs=4 * error
    )


def mixtures(latents=2):
    marginal = moved(priors.MixtureOfNormals(latents, 3))
    likelihood = pv.likelihoods.Normal(MLP(latents, 4, 3), scale=0.5)
    guide = guides.MeanFieldNormal(MLP(3, 4, 2 * latents))
    return tuple(
        pv.VAE(prior, likelihood, guide).double() for prior in (marginal, enumerated(marginal))
    )


def test_marginal_and_enumerated_mixtures_have_the_same_log_weights():
    x = random(0, 5, 3)
    found = []
    for vae in mixtures():
        pyro.set_rng_seed(0)
        found.append(pv.log_weights(vae, x, particles=7))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


LOSSES_OF_MIXTURES = Trace_ELBO(), TraceEnum_ELBO(max_plate_nesting=1)  # a guess would draw


def test_marginal_and_enumerated_mixtures_have_the_same_gradients():
    x, found = random(0, 5, 3), []
    for vae, loss in zip(mixtures(), LOSSES_OF_MIXTURES, strict=True):
        pyro.set_rng_seed(0)
        vae.zero_grad()  # the networks are those of both
        loss.loss_and_grads(vae.model, vae.guide, x)
        found.append({name: p.grad.clone() for name, p in vae.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-10, atol=1e-10)


def test_the_enumerated_component_is_a_site_whose_posterior_is_bayes_rule():
    vae = mixtures()[1]
    x = random(0, 5, 3)
    model_trace, guide_trace = trace_pair(vae.model, vae.guide, x, particles=1)
    assert latent_order(model_trace) == ["component", "z"]
    assert latent_order(guide_trace) == ["z"]
    log_joint = sum(
        model_trace.nodes[name]["fn"].log_prob(model_trace.nodes[name]["value"])
        for name in ("component", "z")
    )
    posterior = log_joint.reshape(3, 5).softmax(0)
    prior, z = vae.prior, guide_trace.nodes["z"]["value"].reshape(5, 2)
    scale = pv.nets.positive(prior.raw_scale)
    for c in range(3):
        density = td.Normal(prior.loc[c], scale[c]).log_prob(z).sum(-1).exp()
        wanted = prior.logits.softmax(0)[c] * density / prior_density(prior, z)
        torch.testing.assert_close(posterior[c], wanted)


def prior_density(prior, z):
    return as_marginal(prior).distribution().log_prob(z).exp()


def test_pyro_tells_the_component_that_a_datum_belongs_to():
    vae = mixtures()[1]
    x = random(0, 50, 3)
    prior, z = vae.prior, vae.guide(x)
    placed = poutine.condition(vae.model, data={"z": z})
    placed = infer_discrete(placed, first_available_dim=-2, temperature=0)
    found = poutine.trace(placed).get_trace(x).nodes["component"]["value"]
    normals = td.Normal(prior.loc, pv.nets.positive(prior.raw_scale))
    log_joint = prior.logits + normals.log_prob(z.unsqueeze(-2)).sum(-1)
    assert torch.equal(found, log_joint.argmax(-1))
    assert len(found.unique()) == 3


@table
def test_sites_have_one_event_per_datum_and_particle(make):
    prior = make(3)
    with (
        poutine.trace() as tape,
        pyro.plate("particles", 4, dim=-2),
        pyro.plate("data", 5, dim=-1),
    ):
        z = prior()
    fn = tape.trace.nodes["z"]["fn"]
    assert z.shape == (4, 5, 3)
    assert (fn.batch_shape, fn.event_shape) == ((4, 5), (3,))
    torch.testing.assert_close(fn.log_prob(z), prior.distribution().log_prob(z))


@table
def test_everything_moves_with_the_module(make):
    prior = make(3)
    tensors = [*prior.parameters(), *prior.buffers()]
    assert tensors
    assert {tensor.dtype for tensor in prior.float().state_dict().values()} == {torch.float32}
    assert {tensor.device.type for tensor in prior.to("meta").state_dict().values()} == {"meta"}


@pytest.mark.parametrize(
    "prior", [priors.StandardNormal(3), priors.Laplace(3), priors.StudentT(3)]
)
def test_standard_priors_have_nothing_to_train(prior):
    assert list(prior.parameters()) == []


@table
def test_context_does_not_matter(make):
    prior, z = make(3), random(0, 5, 3)
    plain = prior.double().distribution().log_prob(z)
    found = prior.distribution(torch.ones(5, 2), torch.zeros(5)).log_prob(z)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


def test_a_conditional_prior_is_the_normal_that_its_network_makes_of_the_context():
    net, label = nn.Linear(3, 4).double(), random(0, 5, 3)
    found = priors.ConditionalNormal(net).distribution(label)
    loc, raw = net(label).chunk(2, -1)
    z = random(1, 5, 2)
    wanted = stats.norm.logpdf(z, loc.detach(), np.log1p(raw.detach().exp().numpy()) + 1e-5)
    torch.testing.assert_close(found.log_prob(z).detach(), torch.from_numpy(wanted.sum(-1)))


@pytest.mark.parametrize("latents", [0, -2])
@pytest.mark.parametrize(
    "make",
    [
        priors.StandardNormal,
        priors.Normal,
        priors.Laplace,
        lambda latents: priors.StudentT(latents, df=3.0),
        lambda latents: priors.MixtureOfNormals(latents, 3),
    ],
)
def test_fewer_than_one_dimension_is_refused(make, latents):
    with pytest.raises(ValueError, match=f"at least one latent dimension; got {latents}"):
        make(latents)


@pytest.mark.parametrize("df", [0, -1.0, math.inf, math.nan])
def test_degrees_of_freedom_that_are_not_positive_and_finite_are_refused(df):
    with pytest.raises(ValueError, match=f"positive and finite degrees of freedom; got df={df}"):
        priors.StudentT(2, df=df)


@pytest.mark.parametrize("components", [0, -3])
def test_a_mixture_of_no_component_is_refused(components):
    with pytest.raises(ValueError, match=f"MixtureOfNormals.*one component; got {components}"):
        priors.MixtureOfNormals(2, components)


def test_an_unknown_form_of_mixture_is_refused():
    with pytest.raises(ValueError, match="'marginal' or 'enumerated'; got 'summed'"):
        priors.MixtureOfNormals(2, 3, component="summed")


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        priors.Prior()
