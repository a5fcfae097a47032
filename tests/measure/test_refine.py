"""Semi-amortized refinement, held against the best posterior of the family in closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import distributions as td
from torch import nn
from worlds import LinearGaussian, random

import pyrovae as pv
from pyrovae import guides, priors
from pyrovae.measure.refinement import refine as refinement
from pyrovae.measure.refinement.flow import PerDatumFlow
from pyrovae.measure.refinement.refine import PARTICLES, Refined, refine
from pyrovae.nets import MLP, unconstrained
from pyrovae.weights import bounds
from pyrovae.weights.kl import closed_form_kl
from pyrovae.weights.log_weights import log_weights

WORLD, LR, STEPS = LinearGaussian(), 0.1, 200


def amortized(family=guides.MeanFieldNormal, width=4, **options):
    """Return a VAE of the linear-Gaussian world whose network has learned nothing."""
    return WORLD.vae(family(nn.Linear(3, width).double(), **options))


def exact_posterior(x):
    return td.MultivariateNormal(WORLD.posterior_mean(x), scale_tril=WORLD.scale_tril)


def best_mean_field(x):
    """Return the network's output at the mean-field optimum: exact means, inverse precisions."""
    scale = WORLD.covariance.inverse().diagonal().rsqrt()
    return torch.cat([WORLD.posterior_mean(x), unconstrained(scale).expand(len(x), -1)], -1)


def best_full_rank(x):
    a, b, c = WORLD.scale_tril[torch.tril_indices(2, 2).unbind()]
    triangle = torch.stack([unconstrained(a), b, unconstrained(c)])
    return torch.cat([WORLD.posterior_mean(x), triangle.expand(len(x), -1)], -1)


def noise_of_steps(vae, x, best, excess):
    """Return the mean excess that Adam's falling steps leave about an optimum, plus four errors.

    Where the gradient is noise of scale s about a curvature H, Adam multiplies it by lr / s: the
    variance of a number goes from v to v (1 - lr H / s)^2 + lr^2 in a step, and costs H v / 2 nats
    in the end. The mean of so many squares has a relative standard error of sqrt(2 / count).
    """
    parameters = best.requires_grad_()
    guide, gradients = Refined(vae.posterior.distribution, parameters, x), []
    for _ in range(100):
        log_w = log_weights((vae.model, guide), x, particles=PARTICLES)
        gradients.append(torch.autograd.grad(log_w.mean(0).sum(), parameters)[0])
    scale = torch.stack(gradients).std(0)
    curvature, variance = curvature_of(excess, parameters), torch.zeros_like(scale)
    for step in range(STEPS):
        lr = LR * (1 + math.cos(math.pi * step / STEPS)) / 2
        variance = variance * (1 - lr * curvature / scale).square() + lr**2
    predicted = (curvature * variance / 2).sum(-1).mean()
    return predicted * (1 + 4 * math.sqrt(2 / scale.numel()))


def curvature_of(function, parameters):
    """Return the second derivative of a sum over data in each number."""
    (slope,) = torch.autograd.grad(function(parameters).sum(), parameters, create_graph=True)
    columns = slope.sum(0).unbind()
    second = [torch.autograd.grad(c, parameters, retain_graph=True)[0] for c in columns]
    return torch.stack([column[:, i] for i, column in enumerate(second)], -1)


BEST = {
    "mean field": (guides.MeanFieldNormal, 4, best_mean_field),
    "full rank": (guides.FullRankNormal, 5, best_full_rank),
}


@pytest.mark.parametrize(("family", "width", "best"), BEST.values(), ids=BEST.keys())
def test_it_reaches_the_best_posterior_of_the_family_from_afar_and_stays(family, width, best):
    x, vae = WORLD.sample(20), amortized(family, width)
    posterior, exact = vae.posterior.distribution, exact_posterior(x)
    optimum = closed_form_kl(posterior(best(x)), exact)

    def excess(parameters):
        return closed_form_kl(posterior(parameters), exact) - optimum

    tolerance, away = noise_of_steps(vae, x, best(x), excess), best(x) + 1.5
    assert excess(away).mean() > 100 * tolerance
    for start in (away, best(x)):
        vae = WORLD.vae(family(Table(start)))
        left = excess(refine(vae, x, steps=STEPS, lr=LR).parameters)
        assert (left > -1e-9).all(), "the optimum is none"
        assert left.mean() < tolerance


class Table(nn.Module):
    """A network that gives what it was told, whatever x."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return self.outputs


def test_the_bound_that_is_measured_rises_by_the_amortization_gap():
    x, vae = WORLD.sample(20), amortized()
    guide = refine(vae, x, steps=200, lr=0.1)
    gap = closed_form_kl(vae.posterior.distribution(guide.parameters), exact_posterior(x))
    with torch.no_grad():
        estimate = bounds.elbo_estimate(log_weights((vae.model, guide), x, particles=4000))
    wanted = WORLD.log_evidence(x) - gap
    assert ((estimate.value - wanted).abs() < 4 * estimate.standard_error).all()


FAMILIES = {
    "low rank": lambda: (guides.LowRankNormal, guides.LowRankNormal.width(2, 1), {"rank": 1}),
    "mixture": lambda: (
        guides.MixtureOfNormals,
        guides.MixtureOfNormals.width(2, 2),
        {"components": 2},
    ),
}


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES.keys())
def test_other_families_gain_too(make):
    family, width, options = make()
    x, vae = WORLD.sample(6), amortized(family, width, **options)
    guide = refine(vae, x, steps=50, lr=0.1)
    with torch.no_grad():
        before, after = (
            bounds.elbo_estimate(log_weights((vae.model, program), x, particles=2000))
            for program in (vae.guide, guide)
        )
    noise = before.standard_error.hypot(after.standard_error)
    assert (after.value > before.value - 4 * noise).all()
    assert (after.value > before.value + 4 * noise).any()
    assert (after.value < WORLD.log_evidence(x) + 4 * after.standard_error).all()


class Dropped(nn.Module):
    """A network with dropout that takes x and a context."""

    def __init__(self):
        super().__init__()
        self.net, self.dropout = MLP(3 + 1, 5, 4), nn.Dropout(0.5)

    def forward(self, x, context):
        return self.dropout(self.net(x, context))


def conditional_vae():
    return pv.VAE(
        priors.StandardNormal(2),
        pv.likelihoods.Normal(MLP(2 + 1, 5, 3)),
        guides.MeanFieldNormal(Dropped()),
    )


def test_the_vae_is_left_as_it_was_gradients_and_modes_included():
    vae, x, label = conditional_vae(), torch.randn(5, 3), torch.randn(5, 1)
    first = next(vae.parameters())
    first.grad = torch.ones_like(first)
    vae.likelihood.eval()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    modes = [module.training for module in vae.modules()]
    guide = refine(vae, x, label, steps=3)
    assert [module.training for module in vae.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.grad is None for p in vae.parameters() if p is not first)
    assert all(p.requires_grad for p in vae.parameters())
    assert not guide.parameters.requires_grad
    # Dropout is off: the start is the network's own output.
    start = refine(vae, x, label, steps=1, lr=1e-12).parameters
    vae.eval()
    torch.testing.assert_close(start, vae.posterior.net(x, label).detach())


def test_rows_are_found_in_any_order_and_in_pieces():
    vae, x, label = conditional_vae(), torch.randn(5, 3), torch.randn(5, 1)
    guide, rows = refine(vae, x, label, steps=3), torch.tensor([3, 0, 4])
    posterior = vae.posterior.distribution
    with pyro.poutine.trace() as tape:
        guide(x[rows], label[rows])
    found = tape.trace.nodes["z"]["fn"]
    torch.testing.assert_close(found.mean, posterior(guide.parameters[rows]).mean)
    pieces = log_weights((vae.model, guide), x, label, particles=4, chunk=8)
    assert pieces.shape == (4, 5)
    report = pv.evaluate((vae.model, guide), (x, label), particles=10)
    assert report.elbo.value.isfinite().all()


class Unshared(nn.Module):
    """A network that takes a number beside x."""

    def __init__(self):
        super().__init__()
        self.net = MLP(2, 4)

    def forward(self, x, scale):
        return self.net(x)


def test_context_that_is_one_for_all_data_does_not_tell_them_apart():
    def prior(scale):
        return pyro.sample("z", dist.Normal(torch.zeros(2), scale).to_event(1))

    def likelihood(z, x, scale):
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x, vae = torch.randn(4, 2), pv.VAE(prior, likelihood, guides.MeanFieldNormal(Unshared()))
    guide = refine(vae, x, 2.0, steps=2)
    assert guide(x[:1], 3.0).shape == (1, 2)


def test_other_data_and_other_context_are_refused():
    vae, x, label = conditional_vae(), torch.randn(5, 3), torch.randn(5, 1)
    guide = refine(vae, x, label, steps=1)
    message = (
        "refined for 5 data; got 2 data of which row 1, with its context, is not one of them: call"
    )
    with pytest.raises(ValueError, match=message):
        guide(torch.stack([x[0], x[1] + 1e-6]), label[:2])
    with pytest.raises(ValueError, match=message):
        log_weights((vae.model, guide), x[:2], label[[0, 2]], particles=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "at least one step and a positive finite step size; got steps=0, lr=0.05"),
        ({"lr": 0.0}, "got steps=100, lr=0.0"),
        ({"lr": float("nan")}, "lr=nan"),
    ],
    ids=["no step", "no size", "nan"],
)
def test_bad_steps_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        refine(amortized(), WORLD.sample(2), **options)


def test_guides_of_other_kinds_are_refused():
    x = WORLD.sample(2)
    with pytest.raises(
        ValueError, match="network `net` and a method `distribution`.*; got method"
    ):
        refine(WORLD.vae(), x)
    classes = pv.VAE(priors.OneHot(3), pv.likelihoods.Normal(MLP(3, 3)), guides.OneHot(MLP(3, 3)))
    with pytest.raises(ValueError, match="the guide's OneHotCategorical has none"):
        refine(classes, torch.zeros(2, 3))


class TestGuard:
    """A datum whose ELBO fell goes back to where it started, and no other does."""

    def spoilt(self, monkeypatch, spoil):
        x, vae = WORLD.sample(6), WORLD.vae(guides.MeanFieldNormal(Given(best_mean_field)))
        before = refinement.unrefined(vae, x).parameters

        def ascend(model, start, data, **_):
            return spoil(start.parameters.clone())

        monkeypatch.setattr(refinement, "_ascend", ascend)
        return before, refine(vae, x).parameters

    def test_a_datum_that_fell_goes_back_alone(self, monkeypatch):
        def spoil(parameters):
            parameters[[1, 4], 0] += 3.0
            parameters[2, 0] += 1e-9
            return parameters

        before, after = self.spoilt(monkeypatch, spoil)
        kept = (before == after).all(1)
        assert kept.tolist() == [True, True, False, True, True, True]

    def test_a_datum_without_a_finite_bound_goes_back(self, monkeypatch):
        def spoil(parameters):
            parameters[3, 0] = 1e200  # its square overflows
            return parameters

        before, after = self.spoilt(monkeypatch, spoil)
        assert torch.equal(before, after)

    def test_what_became_better_stays(self, monkeypatch):
        x, vae = WORLD.sample(6), amortized()
        best = best_mean_field(x)
        monkeypatch.setattr(refinement, "_ascend", lambda *_, **__: best)
        assert torch.equal(refine(vae, x).parameters, best)


class Given(nn.Module):
    """A network that is a function of x."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def steep(where):
    """Return a VAE whose likelihood has an infinite slope for data above 1, at some draws."""

    def likelihood(z, x):
        here = (x > 1) & where(z)
        loc = torch.where(here, torch.where(here, z - z.detach(), 1.0).sqrt(), z)
        return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return pv.VAE(priors.StandardNormal(1), likelihood, guides.MeanFieldNormal(MLP(1, 2)))


def test_a_draw_without_a_gradient_harms_no_other():
    """About half of the steps have none for the second datum, which rests there."""
    vae, x = steep(lambda z: z > 2), torch.tensor([[0.5], [2.0]])
    start = refinement.unrefined(vae, x).parameters
    moved = refine(vae, x, steps=20).parameters
    assert moved.isfinite().all()
    assert not torch.isclose(moved, start).all(1).any()


def test_a_datum_that_never_has_a_gradient_is_refused():
    vae, x = steep(lambda z: z < torch.inf), torch.tensor([[0.5], [2.0], [3.0]])
    said = "of 2 data, first of row 1, had no finite gradient in any of 20 steps"
    with pytest.raises(ValueError, match=said):
        refine(vae, x, steps=20)
    with pytest.raises(ValueError, match=r"of 1 data, first of row 0.* any of 1 steps"):
        pv.Gaps(steps=2, flow=None)(vae, x[2:])


def classes_of(log_shares):
    """Return a VAE with a class that the model sums out, some of which may be impossible."""
    log_shares = torch.tensor(log_shares, dtype=torch.float64)
    means = torch.tensor([-1.0, 2.0, 0.5], dtype=torch.float64)[: len(log_shares)]

    def likelihood(z, x):
        infer = {"enumerate": "parallel"}
        c = pyro.sample("c", dist.Categorical(logits=torch.zeros_like(log_shares)), infer=infer)
        pyro.factor("share", log_shares[c] + math.log(len(log_shares)))
        return pyro.sample("x", dist.Normal(z + means[c][..., None], 1.0).to_event(1), obs=x)

    torch.manual_seed(0)
    guide = guides.MeanFieldNormal(MLP(1, 2).double())
    return pv.VAE(priors.StandardNormal(1).double(), likelihood, guide)


def test_a_class_that_is_impossible_has_no_part_in_the_refinement():
    """It was 0 times infinity in every gradient, and the gap of amortization 0.000.

    A share of exp(-1000) counts as little, and has finite gradients everywhere.
    """
    x, half = random(5, 4, 1), math.log(0.5)
    pair = classes_of([half, half, -1000.0]), classes_of([half, half, -math.inf])
    refined, found = [], []
    for vae in pair:
        torch.manual_seed(1)
        refined.append(refine(vae, x, steps=30).parameters)
        torch.manual_seed(1)
        found.append(pv.Gaps(steps=30, particles=50, flow=None)(vae, x).estimates)
    torch.testing.assert_close(*refined)
    for name in found[0]:
        torch.testing.assert_close(found[0][name].value, found[1][name].value)
    assert found[1]["amortization gap"].mean > 0.1


def test_it_goes_on_from_what_was_refined():
    x, vae = WORLD.sample(5), amortized()
    first = refine(vae, x, steps=3)
    rows = torch.tensor([4, 1])
    again = refine((vae.model, first), x[rows], steps=1, lr=1e-12)
    torch.testing.assert_close(again.parameters, first.parameters[rows])
    flow = refine((vae.model, first), x, steps=1, lr=1e-12, family=PerDatumFlow())
    torch.testing.assert_close(flow.parameters[:, :4], first.parameters)
    further = refine((vae.model, flow), x, steps=1, lr=1e-12)
    torch.testing.assert_close(further.parameters, flow.parameters)


def test_common_weights_share_their_random_numbers_and_are_drawn_anew_each_time():
    x, vae = WORLD.sample(5), amortized()
    guide = refinement.unrefined(vae, x)
    first, second = refinement.common_weights(vae.model, [guide, guide], x, particles=7)
    assert torch.equal(first, second)
    (third,) = refinement.common_weights(vae.model, [guide], x, particles=7)
    assert not torch.equal(first, third)


def test_the_site_has_the_name_that_the_model_gives_it():
    def prior():
        return pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def likelihood(w, x):
        return pyro.sample("x", dist.Normal(w, 1.0).to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = MLP(2, 4)
            self.distribution = guides.MeanFieldNormal(self.net).distribution

        def forward(self, x):
            return pyro.sample("w", self.distribution(self.net(x)))

    vae, x = pv.VAE(prior, likelihood, Guide()), torch.randn(3, 2)
    guide = refine(vae, x, steps=2)
    assert guide.site == "w"
    assert log_weights((vae.model, guide), x, particles=4).shape == (4, 3)


def test_a_class_that_is_summed_out_is_no_second_latent():
    prior = priors.MixtureOfNormals(2, 3, component="enumerated")
    vae = pv.VAE(prior, pv.likelihoods.Normal(MLP(2, 3)), guides.MeanFieldNormal(MLP(3, 4)))
    assert refine(vae, torch.randn(4, 3), steps=2).site == "z"


def test_several_latents_are_refused():
    def prior():
        for name in ("a", "b"):
            pyro.sample(name, dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def likelihood(z, x):
        return pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x)

    vae = pv.VAE(prior, likelihood, guides.MeanFieldNormal(MLP(2, 4)))
    with pytest.raises(ValueError, match=r"one sampled latent site; got \['a', 'b'\]"):
        refine(vae, torch.zeros(3, 2))


def test_a_guide_of_steps_has_no_network_of_all_parameters():
    chain = pv.VAE(
        pv.priors.Markov(pv.nets.MLP(2, 4), 2),
        pv.likelihoods.EachStep(pv.likelihoods.Bernoulli(pv.nets.MLP(2, 5))),
        pv.guides.Combiner(pv.nets.BackwardGRU(5, 4), pv.nets.MLP(6, 4), 2),
    )
    x, mask = torch.ones(3, 4, 5), torch.ones(3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="needs a guide with a network `net` .* got Combiner"):
        pv.refine(chain, x, mask)
