"""Discrete latents: densities on their supports, and exact sums over them."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from classes import FALSE_ALARM, learned, site_of
from exact_parts import OffClasses, exactly, noisy
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from scipy import stats
from torch import distributions as td
from torch import nn
from worlds import ENUMERATE, Mixture, data_plate, random

import pyrovae as pv
from pyrovae import guides, priors
from pyrovae.nets import MLP
from pyrovae.weights.bounds import mean_estimate
from pyrovae.weights.log_weights import log_weights


def bits(count):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * count).double()


SUPPORTS = {
    "Categorical": (lambda: priors.Categorical(4, learned=True), torch.arange(4)),
    "OneHot": (lambda: priors.OneHot(4, learned=True), torch.eye(4).double()),
    "Bernoulli": (lambda: priors.Bernoulli(3, learned=True), bits(3)),
}
GUIDES = {
    "Categorical": (guides.Categorical, torch.arange(4), 4),
    "OneHot": (guides.OneHot, torch.eye(4).double(), 4),
    "Bernoulli": (guides.Bernoulli, bits(3), 3),
}


def check_draws(fn, support, draws):
    """Hold counts over a finite support against the probabilities, by a chi-square test."""
    matches = (draws.unsqueeze(1) == support).reshape(len(draws), len(support), -1).all(-1)
    assert (matches.sum(-1) == 1).all(), "a draw outside the support"
    expected = len(draws) * fn.log_prob(support.unsqueeze(1)).exp().reshape(-1)
    found = stats.chisquare(matches.sum(0).numpy(), expected.detach().numpy())
    assert found.pvalue > FALSE_ALARM


@pytest.mark.parametrize(("make", "support"), SUPPORTS.values(), ids=SUPPORTS.keys())
def test_a_prior_sums_to_one_and_draws_as_often_as_it_says(make, support):
    fn, draws, _ = site_of(learned(make()), 20_000)
    alone, _, _ = site_of(learned(make()))
    total = alone.log_prob(support.unsqueeze(1)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    check_draws(alone, support, draws)


@pytest.mark.parametrize(("family", "support", "width"), GUIDES.values(), ids=GUIDES.keys())
def test_a_guide_sums_to_one_for_each_datum_and_draws_as_often_as_it_says(family, support, width):
    fn = family(nn.Identity()).distribution(random(2, 5, width))
    assert fn.batch_shape == (5,)
    total = fn.log_prob(support.unsqueeze(1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    first = family(nn.Identity()).distribution(random(2, 5, width)[0])
    check_draws(first, support, first.sample((20_000,)))


@pytest.mark.parametrize("kind", ["Categorical", "OneHot"])
def test_a_class_comes_one_hot_to_the_networks_drawn_or_summed_out(kind):
    classes = 3
    for part, arguments in (
        (getattr(priors, kind)(classes), ()),
        (getattr(guides, kind)(MLP(2, classes)), (torch.zeros(5, 2),)),
    ):
        with poutine.trace() as tape, pyro.plate("data", 5, dim=-1):
            drawn = part(*arguments)
        held = tape.trace.nodes["z"]["value"]
        index = held if kind == "Categorical" else held.argmax(-1)
        assert torch.equal(drawn, torch.eye(classes)[index])
        enumerated = poutine.enum(part, first_available_dim=-3)
        with pyro.plate("particles", 4, dim=-2), pyro.plate("data", 5, dim=-1):
            every = enumerated(*arguments)
        assert torch.equal(every, torch.eye(classes)[:, None, None])


def test_uniform_logits_are_kept_with_the_state_and_not_trained():
    for make in (lambda **k: priors.Categorical(3, **k), lambda **k: priors.Bernoulli(3, **k)):
        assert list(make().parameters()) == []
        assert make().state_dict().keys() == make(learned=True).state_dict().keys()
        assert [p.shape for p in make(learned=True).parameters()] == [(3,)]


def mixture_vae(world, kind, guide=None):
    prior = getattr(priors, kind)(3, learned=True).double()
    prior.logits.data = world.weights.log()
    guide = guide or getattr(guides, kind)(OffClasses(world))
    return pv.VAE(prior, noisy(exactly(world.centers.T), world.noise), guide)


def nothing(x):
    """Leave the class to the model."""


@pytest.mark.parametrize("kind", ["Categorical", "OneHot"])
@pytest.mark.parametrize("guide", [None, nothing], ids=["in the guide", "in the model"])
def test_a_class_summed_out_leaves_the_evidence(kind, guide):
    world = Mixture()
    x, vae = world.sample(5), mixture_vae(world, kind, guide)
    log_w = log_weights(vae, x, particles=4)
    torch.testing.assert_close(log_w, world.log_evidence(x).expand(4, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["Categorical", "OneHot"])
@pytest.mark.parametrize("guide", [None, nothing], ids=["in the guide", "in the model"])
def test_the_objective_that_sums_and_its_gradient_are_those_of_the_explicit_sum(kind, guide):
    world = Mixture()
    x, vae = world.sample(5), mixture_vae(world, kind, guide)
    world.centers.requires_grad_()
    bound = (world.log_evidence(x) if guide else world.sampled_elbo(x)).sum()
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(vae.model, vae.guide, x)
    torch.testing.assert_close(loss, -bound, rtol=0, atol=1e-9)
    if guide:
        (wanted,) = torch.autograd.grad(bound, world.centers)
        (found,) = torch.autograd.grad(-loss, vae.likelihood.net.weight)
        torch.testing.assert_close(found.T, wanted)


@pytest.mark.parametrize("kind", ["Categorical", "OneHot"])
def test_the_gradient_of_the_guide_is_that_of_the_explicit_sum(kind):
    world = Mixture()
    x, net = world.sample(5), nn.Linear(2, 3).double()
    vae = mixture_vae(world, kind, getattr(guides, kind)(net))
    log_q = net(x).log_softmax(-1)
    bound = (log_q.exp() * (world.log_joint(x) - log_q)).sum()
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(vae.model, vae.guide, x)
    wanted = torch.autograd.grad(bound, list(net.parameters()))
    found = torch.autograd.grad(-loss, list(net.parameters()))
    torch.testing.assert_close(found, wanted)


def test_labels_given_at_the_site_measure_the_classified_model():
    world = Mixture()
    x, labels = world.sample(5), torch.tensor([0, 2, 1, 1, 2])
    vae = mixture_vae(world, "Categorical", nothing)
    given = poutine.condition(vae.model, data={"z": labels})
    log_w = log_weights((given, vae.guide), x, particles=2)
    wanted = world.log_joint(x).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_w, wanted.expand(2, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range_is_refused(label):
    world = Mixture()
    x, vae = world.sample(2), mixture_vae(world, "Categorical", nothing)
    given = poutine.condition(vae.model, data={"z": torch.tensor([0, label])})
    with pytest.raises(ValueError, match="site 'z' cannot score its value"):
        log_weights((given, vae.guide), x, particles=2)
    with pytest.raises(ValueError, match="support"):
        Trace_ELBO().loss(given, vae.guide, x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("OneHot", r"MLP expected inputs \[\.\.\., 3\]; got \(4, 1, 1, 4\)"),
        ("Categorical", "site 'z' cannot score its value"),
    ],
)
def test_a_guide_with_another_number_of_classes_is_refused(kind, message):
    guide = getattr(guides, kind)(MLP(2, 4))
    vae = pv.VAE(getattr(priors, kind)(3), pv.likelihoods.Normal(MLP(3, 2)), guide)
    with pytest.raises(ValueError, match=message):
        log_weights(vae, torch.zeros(5, 2), particles=2)


class Bits:
    """Three bits with x around a linear map of them: the evidence is a sum of eight terms."""

    def __init__(self):
        self.prior = learned(priors.Bernoulli(3, learned=True))
        self.net = MLP(3, 2).double()
        self.guide = guides.Bernoulli(MLP(2, 3).double())
        self.vae = pv.VAE(
            self.prior, pv.likelihoods.Normal(self.net, scale=0.5).double(), self.guide
        )

    def log_joint(self, z, x):
        log_prior = td.Bernoulli(logits=self.prior.logits).log_prob(z).sum(-1)
        return log_prior + td.Normal(self.net(z), 0.5).log_prob(x).sum(-1)

    def log_guide(self, z, x):
        return td.Bernoulli(logits=self.guide.net(x)).log_prob(z).sum(-1)


def test_bits_are_drawn_and_the_mean_weight_is_the_sum_over_all_of_them():
    world, x = Bits(), random(5, 4, 2)
    log_evidence = world.log_joint(bits(3).unsqueeze(1), x).logsumexp(0)
    with torch.no_grad():
        log_w = log_weights(world.vae, x, particles=4000)
    ratio = mean_estimate((log_w - log_evidence).exp())
    assert ((ratio.value - 1).abs() < 4 * ratio.standard_error).all()


def test_the_score_function_is_the_gradient_of_the_explicit_sum():
    world, x = Bits(), random(5, 4, 2)
    z = bits(3).unsqueeze(1)
    log_q = world.log_guide(z, x)
    bound = (log_q.exp() * (world.log_joint(z, x) - log_q)).sum()
    parameters = list(world.guide.parameters())
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(bound, parameters)])
    objective = Trace_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=1)
    found = []
    for _ in range(40):
        loss = objective.differentiable_loss(world.vae.model, world.vae.guide, x)
        found.append(torch.cat([-g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    estimate = mean_estimate(torch.stack(found))
    # Nine numbers, each within 4 standard errors.
    assert ((estimate.value - wanted).abs() < 4 * estimate.standard_error).all()


BAD = {
    "one class": (lambda: priors.Categorical(1), "Categorical needs at least two classes; got 1"),
    "no class": (lambda: priors.OneHot(0), "OneHot needs at least two classes; got 0"),
    "one relaxed class": (
        lambda: priors.RelaxedOneHot(1, temperature=1.0),
        "RelaxedOneHot needs at least two classes; got 1",
    ),
    "no bit": (lambda: priors.Bernoulli(0), "Bernoulli needs at least one latent dim.*got 0"),
    "no temperature": (
        lambda: priors.RelaxedOneHot(3, temperature=0),
        "a temperature must be positive and finite; got 0",
    ),
    "a negative temperature": (
        lambda: guides.RelaxedOneHot(MLP(2, 3), temperature=-0.5),
        "a temperature must be positive and finite; got -0.5",
    ),
    "a network of one output": (
        lambda: guides.Categorical(MLP(2, 1)).distribution(torch.zeros(5, 1)),
        "Categorical expected.* one output per class, at least two; got 1",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("factors", "wanted"),
    [
        ([-torch.inf, -torch.inf, 0.5], 0.5 - math.log(3)),
        ([-torch.inf] * 3, -torch.inf),
        ([-torch.inf, torch.nan, 0.5], torch.nan),
    ],
)
def test_sums_over_classes_that_cannot_be(factors, wanted):
    """A sum of nothing is minus infinity, and one that is not defined no number."""
    values = torch.tensor(factors, dtype=torch.float64, requires_grad=True)

    def model(x):
        with data_plate(x):
            logits = torch.zeros(3, dtype=torch.float64)
            c = pyro.sample("c", dist.Categorical(logits=logits), infer=ENUMERATE)
            pyro.factor("given c", values[c])

    def guide(x):
        pass

    with pyro.validation_enabled(is_validate=False):
        log_w = log_weights((model, guide), torch.zeros(2).double(), particles=1)
    torch.testing.assert_close(
        log_w, torch.full((1, 2), wanted, dtype=torch.float64), equal_nan=True
    )
    if math.isfinite(wanted):
        (slope,) = torch.autograd.grad(log_w.sum(), values)
        assert slope.tolist() == [0.0, 0.0, 2.0]
