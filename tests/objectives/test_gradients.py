"""Gradients against finite differences at common draws, exact sums, and what must vanish."""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from learned import Classes, Ladder, Linear, difference, flat, mean_gradient, parameter
from torch import nn
from worlds import LinearGaussian, data_plate, random

from pyrovae.guides import MixtureOfNormals
from pyrovae.objectives import CIWAE, CUBO, IWAE, MIWAE, PIWAE, Renyi, ReweightedWakeSleep
from pyrovae.objectives.handlers import free_bits, kl_weight

JOINT = {
    "ELBO": lambda gradient: MIWAE(2, k=1, gradient=gradient),
    "IWAE": lambda gradient: IWAE(5, gradient=gradient),
    "MIWAE": lambda gradient: MIWAE(6, k=2, gradient=gradient),
    "CIWAE": lambda gradient: CIWAE(0.4, 5, gradient=gradient),
    "CIWAE without ELBO": lambda gradient: CIWAE(0.0, 5, gradient=gradient),
    "Renyi": lambda gradient: Renyi(0.5, 5, gradient=gradient),
    "Renyi, optimistic": lambda gradient: Renyi(-0.5, 5, gradient=gradient),
}
"""Objectives whose gradient, for both programs, is that of their value."""

BOUNDS = JOINT | {"CUBO": lambda gradient: CUBO(2.0, 5, gradient=gradient)}


def of(objective, world):
    return lambda x: objective.differentiable_loss(world.model, world.guide, x)


def derivative(objective, world, x, parameters):
    """Return the gradient of one loss, and its finite difference at the same draws."""
    torch.manual_seed(0)
    loss = objective.differentiable_loss(world.model, world.guide, x)
    wanted = difference(lambda: objective.loss(world.model, world.guide, x), parameters)
    return flat(torch.autograd.grad(loss, parameters)), wanted


def close(met, wanted):
    """Hold a derivative against a central difference with a step of 1e-5 in float64."""
    torch.testing.assert_close(met, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", JOINT)
def test_a_plain_gradient_is_the_derivative_at_the_same_draws(name):
    world = Linear()
    parameters = [world.shift, world.log_scale, world.mean]
    close(*derivative(JOINT[name]("plain"), world, random(0, 20, 3), parameters))


@pytest.mark.parametrize("name", JOINT)
def test_a_dreg_gradient_has_the_expectation_of_the_plain_one_and_less_noise(name):
    world, x = Linear(), random(0, 1, 3)
    parameters = [world.shift, world.log_scale, world.mean]
    plain, dreg = (
        mean_gradient(of(JOINT[name](gradient), world), x, parameters)
        for gradient in ("plain", "dreg")
    )
    assert plain.agrees(dreg)
    # The model's gradient is the same; a guide's error below 0.7 of the other's, of 40 batches
    # each, is beyond an F test at 2%.
    assert (dreg.error[:2] < 0.7 * plain.error[:2]).all()
    torch.testing.assert_close(dreg.value[2:], plain.value[2:])


def test_stl_follows_the_elbo_in_closed_form():
    world, x = Linear(), random(0, 1, 3)
    posterior = torch.distributions.MultivariateNormal(
        world.world.posterior_mean(x), scale_tril=world.world.scale_tril
    )
    guide = world.posterior.at(x)
    guide = torch.distributions.MultivariateNormal(guide.mean, torch.diag_embed(guide.variance))
    parameters = [world.shift, world.log_scale]
    # At the world's own mean the posterior is known, and ELBO = log p(x) - KL(q || posterior).
    world.mean.data.copy_(world.world.mean)
    kl = torch.distributions.kl_divergence(guide, posterior).sum()
    exact = flat(torch.autograd.grad(kl, parameters))
    for objective in (
        MIWAE(2, k=1, gradient="stl"),
        MIWAE(2, k=1, gradient="dreg"),
        MIWAE(2, k=1),
    ):
        assert mean_gradient(of(objective, world), x, parameters).agrees(exact)


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
@pytest.mark.parametrize("name", BOUNDS)
def test_at_the_exact_posterior_the_guide_has_no_gradient(name, gradient):
    world, x = Ladder(), random(0, 4, 3)
    parameters = list(world.parameters())

    def norm(objective):
        loss = of(objective, world)(x)
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        return sum(float(grad.abs().sum()) for grad in grads if grad is not None)

    assert norm(BOUNDS[name](gradient)) < 1e-9
    assert norm(BOUNDS[name]("plain")) > 0.1


def both(make, world, x, parameters):
    """Return the mean gradients of the plain and the doubly reparameterized estimator."""
    return [mean_gradient(of(make(which), world), x, parameters) for which in ("plain", "dreg")]


def test_a_guide_of_two_levels_is_followed_through_both():
    world, x = Ladder(move=0.2), random(0, 1, 3)
    parameters = [world.top_gain, world.low_gain]
    close(*derivative(IWAE(4), world, x.repeat(20, 1), parameters))
    plain, dreg = both(lambda gradient: IWAE(4, gradient=gradient), world, x, parameters)
    assert plain.agrees(dreg)
    assert (dreg.error < plain.error).all()


def test_a_kl_weight_moves_the_bound_and_its_gradient_together():
    learned, x, weight = Linear(), random(0, 1, 3), kl_weight(0.3)
    world = Weighted(weight(learned.model), weight(learned.guide))
    parameters = [learned.shift, learned.log_scale, learned.mean]
    close(*derivative(IWAE(4), world, x.repeat(20, 1), parameters))
    plain, dreg = both(lambda gradient: IWAE(4, gradient=gradient), world, x, parameters)
    assert plain.agrees(dreg)


@dataclass
class Weighted:
    """Programs under a handler."""

    model: Any
    guide: Any


def test_cubo_moves_the_guide_alone():
    world, x = Linear(), random(0, 1, 3)
    parameters = [world.shift, world.log_scale]
    close(*derivative(CUBO(2.0, 5), world, x.repeat(20, 1), parameters))
    plain, dreg = both(lambda gradient: CUBO(2.0, 5, gradient=gradient), world, x, parameters)
    assert plain.agrees(dreg)
    loss = of(CUBO(2.0, 5), world)(x)
    assert torch.autograd.grad(loss, [world.mean], allow_unused=True) == (None,)


def test_piwae_gives_the_model_iwae_and_the_guide_miwae():
    world, x = Linear(), random(0, 1, 3)
    of_guide = [world.shift, world.log_scale]
    for parameters, alone in ((of_guide, MIWAE(6, k=3)), ([world.mean], IWAE(6))):
        grads = []
        for objective in (PIWAE(6, k=3), alone):
            torch.manual_seed(0)
            grads.append(flat(torch.autograd.grad(of(objective, world)(x), parameters)))
        torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)
    plain, dreg = both(lambda gradient: PIWAE(6, k=3, gradient=gradient), world, x, of_guide)
    assert plain.agrees(dreg)
    assert (dreg.error < 0.7 * plain.error).all()


def test_reweighted_wake_sleep_fits_the_guide_to_weighted_draws():
    world, start, x = Linear(), Linear(), random(0, 1, 3)
    parameters = [world.shift, world.log_scale]

    def weighted_log_q():
        """Return -sum of w log q at draws and weights of the guide as it was at the start."""
        z = start.posterior.at(x).sample((4,))
        weights = start.log_w(x, z).softmax(0)
        return -(weights * world.posterior.at(x).log_prob(z)).sum().item()

    torch.manual_seed(0)
    met = flat(torch.autograd.grad(of(ReweightedWakeSleep(4), world)(x), parameters))
    close(met, difference(weighted_log_q, parameters))
    plain, dreg = both(
        lambda gradient: ReweightedWakeSleep(4, gradient=gradient), world, x, parameters
    )
    assert plain.agrees(dreg)
    for gradient in ("plain", "dreg"):
        grads = []
        for objective in (ReweightedWakeSleep(4, gradient=gradient), IWAE(4)):
            torch.manual_seed(0)
            grads.append(torch.autograd.grad(of(objective, world)(x), [world.mean])[0])
        torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("objective", "exact"),
    [(MIWAE(1, k=1), "exact_elbo"), (MIWAE(3, k=1), "exact_elbo"), (IWAE(2), "exact_iwae_2")],
    ids=["ELBO, no baseline", "ELBO", "IWAE"],
)
def test_a_class_that_is_drawn_gets_the_score_function(objective, exact):
    world, x = Classes(), random(0, 2, 2)
    parameters = [world.logits, world.centers]
    wanted = -flat(torch.autograd.grad(getattr(world, exact)(x), parameters))
    assert mean_gradient(of(objective, world), x, parameters).agrees(wanted)


def test_the_baseline_takes_noise_away():
    world, x = Classes(), random(0, 1, 2)
    # Three particles average three draws: without a baseline the error would fall by sqrt(3).
    alone, three = (
        mean_gradient(of(MIWAE(m, k=1), world), x, [world.logits]).error for m in (1, 3)
    )
    assert (three < 0.6 * alone / 3**0.5).all()


def test_a_class_that_is_summed_out_gives_the_gradient_of_the_evidence():
    world, x = Classes(), random(0, 5, 2)
    loss = IWAE(3).differentiable_loss(world.model_enumerated, world.empty_guide, x)
    evidence = world.log_joint(x).logsumexp(-1).sum()
    torch.testing.assert_close(loss, -evidence)
    met, wanted = (torch.autograd.grad(v, [world.centers])[0] for v in (loss, -evidence))
    torch.testing.assert_close(met, wanted)


class Mixed(nn.Module):
    """A guide with a class, and a z whose mean depends on it: both estimators at once."""

    def __init__(self):
        super().__init__()
        self.logits, self.means = parameter([0.4, -0.4]), parameter([[0.5], [-0.8]])
        self.centers = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)

    def model(self, x):
        with data_plate(x):
            c = pyro.sample("c", dist.Categorical(logits=torch.zeros(2, dtype=torch.float64)))
            z = pyro.sample("z", dist.Normal(self.centers[c], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(self, x):
        with data_plate(x):
            c = pyro.sample("c", dist.Categorical(logits=self.logits))
            pyro.sample("z", dist.Normal(self.means[c] + 0.5 * x, 0.6).to_event(1))

    def exact_elbo(self, x):
        """Return the ELBO by the sum over classes and closed forms for normals."""
        normal, log_q = torch.distributions.Normal, self.logits.log_softmax(-1)
        mean = self.means.squeeze(-1) + 0.5 * x
        rate = torch.distributions.kl_divergence(
            normal(mean, 0.6), normal(self.centers.squeeze(-1), 1.0)
        )
        distortion = -normal(mean, 0.5).log_prob(x) + 0.6**2 / (2 * 0.5**2)
        half = torch.tensor(0.5, dtype=torch.float64).log()
        return (log_q.exp() * (half - log_q - rate - distortion)).sum()


def test_a_class_and_a_continuous_latent_share_one_gradient():
    world, x = Mixed(), random(0, 1, 1)
    parameters = [world.logits, world.means]
    wanted = -flat(torch.autograd.grad(world.exact_elbo(x), parameters))
    assert mean_gradient(of(MIWAE(2, k=1), world), x, parameters).agrees(wanted)


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_a_site_without_a_reparameterized_sample_is_named(gradient):
    world = Classes()
    with pytest.raises(
        ValueError, match=r"site 'c' has the distribution Categorical.*score function"
    ):
        IWAE(2, gradient=gradient).loss(world.model, world.guide, random(0, 2, 2))


def test_latents_of_several_kl_weights_have_no_dreg():
    world = Ladder()
    guide = pyro.poutine.scale(world.guide, 1.0)

    class half_the_top(pyro.poutine.messenger.Messenger):  # noqa: N801
        def _pyro_sample(self, msg):
            if msg["name"] == "top":
                msg["scale"] = 0.5 * msg["scale"]

    programs = half_the_top()(world.model), half_the_top()(guide)
    IWAE(2).loss(*programs, random(0, 2, 3))
    with pytest.raises(ValueError, match=r"one KL weight.*0.5 at site 'top' and 1.0 at 'low'"):
        IWAE(2, gradient="dreg").loss(*programs, random(0, 2, 3))


def test_dropout_in_the_guide_is_refused_where_the_guide_runs_twice():
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4)).double()

    def guide(x):
        with data_plate(x):
            loc, raw = net(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    world, x = Linear(), random(0, 5, 3)
    IWAE(2).loss(world.model, guide, x)
    with pytest.raises(ValueError, match=r"replayed on its own samples.*dropout.*eval.*plain"):
        IWAE(2, gradient="dreg").loss(world.model, guide, x)
    net.eval()
    IWAE(2, gradient="dreg").loss(world.model, guide, x)


class Views(nn.Module):
    """The exact guide of the linear world, its parameters seen through views made once."""

    def __init__(self):
        super().__init__()
        self.world = LinearGaussian()
        self.flat = parameter([0.0, 0.0, 1.0])
        self.shift, self.stretch = self.flat[:2], self.flat[2:]

    def guide(self, x):
        with data_plate(x):
            loc = self.world.posterior_mean(x) + self.shift
            scale = self.stretch * self.world.scale_tril
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale))


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_parameters_behind_views_are_held_too(gradient):
    world, x = Views(), random(0, 4, 3)

    def slope(objective):
        loss = objective.differentiable_loss(world.world.model, world.guide, x)
        return float(torch.autograd.grad(loss, [world.flat])[0].abs().sum())

    assert slope(IWAE(3, gradient=gradient)) < 1e-9
    assert slope(IWAE(3)) > 0.1


ENUMERATED = {"enumerate": "parallel"}


def strata(x):
    """A guide that sums over an auxiliary class."""
    with data_plate(x):
        net = nn.Linear(3, MixtureOfNormals.width(2, 2)).double()
        MixtureOfNormals(net, 2, component="enumerated")(x)


def classified(x):
    """A guide with a posterior over a class that is summed out."""
    with data_plate(x):
        logits = torch.zeros(3, dtype=torch.float64)
        pyro.sample("c", dist.Categorical(logits=logits), infer=ENUMERATED)


def point(x):
    with data_plate(x):
        pyro.sample("z", dist.Delta(torch.zeros(len(x), 2, dtype=torch.float64), event_dim=1))


@pytest.mark.parametrize(
    ("objective", "model", "guide", "words"),
    [
        (IWAE(3), Classes().model, classified, "'c' is enumerated.*would not be trained"),
        (
            IWAE(3, gradient="stl"),
            LinearGaussian().model,
            strata,
            "enumerates its site 'stratum'.*'plain'",
        ),
        (
            IWAE(3, gradient="dreg"),
            LinearGaussian().model,
            strata,
            "enumerates its site 'stratum'.*'plain'",
        ),
        (ReweightedWakeSleep(3), LinearGaussian().model, strata, "enumerates its site 'stratum'"),
        (IWAE(3, gradient="dreg"), LinearGaussian().model, point, "'z' is a point mass.*'stl'"),
    ],
)
def test_what_an_estimator_does_not_train_right_is_refused(objective, model, guide, words):
    with pytest.raises(ValueError, match=words):
        objective.loss(model, guide, random(0, 4, 3 if guide is not classified else 2))


def test_a_kl_weight_on_a_class_that_is_summed_out_is_refused():
    world, weight = Classes(), kl_weight(0.5)
    programs = weight.wrap(world.model_enumerated, world.empty_guide)
    with pytest.raises(
        ValueError, match="site 'c' is summed out .*a KL weight on it gives no bound"
    ):
        IWAE(2).loss(*programs, random(0, 4, 2))


@pytest.mark.parametrize("objective", [PIWAE(3, k=3), ReweightedWakeSleep(3)])
def test_a_handlers_factor_is_refused_where_the_programs_part(objective):
    world = Linear()
    programs = free_bits(50.0).wrap(world.model, world.guide)
    with pytest.raises(ValueError, match=r"factor 'z_free_bits' needs an objective"):
        objective.loss(*programs, random(0, 4, 3))


def test_a_handlers_factor_has_no_dreg_on_two_levels():
    world = Ladder(move=0.2)
    programs = free_bits(50.0, per="site").wrap(world.model, world.guide)
    IWAE(2).loss(*programs, random(0, 4, 3))
    with pytest.raises(ValueError, match="for a guide with one site"):
        IWAE(2, gradient="dreg").loss(*programs, random(0, 4, 3))


class TwoBits(nn.Module):
    """Two bits, both drawn by the guide; x is a normal around a sum of them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = parameter(0.4), parameter(-0.7)

    def model(self, x):
        with data_plate(x):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.5, dtype=torch.float64)))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
            pyro.sample("x", dist.Normal(a - 2 * b, 0.7), obs=x[:, 0])

    def guide(self, x):
        with data_plate(x):
            pyro.sample("a", dist.Bernoulli(logits=self.first))
            pyro.sample("b", dist.Bernoulli(logits=self.second))

    def exact_elbo(self, x):
        """Return the ELBO by the sum over the four pairs."""
        total = torch.zeros((), dtype=torch.float64)
        for a in (0.0, 1.0):
            for b in (0.0, 1.0):
                q = (2 * a - 1) * self.first, (2 * b - 1) * self.second
                log_q = sum(nn.functional.logsigmoid(logit) for logit in q)
                log_p = torch.tensor(0.5 * (0.3 if b else 0.7), dtype=torch.float64).log()
                log_x = torch.distributions.Normal(a - 2 * b, 0.7).log_prob(x[:, 0])
                total = total + (log_q.exp() * (log_p + log_x - log_q)).sum()
        return total


def test_two_sites_that_are_drawn_each_get_the_score_function():
    world, x = TwoBits(), random(0, 1, 1)
    parameters = [world.first, world.second]
    wanted = -flat(torch.autograd.grad(world.exact_elbo(x), parameters))
    assert mean_gradient(of(MIWAE(3, k=1), world), x, parameters).agrees(wanted)


def test_a_class_that_cannot_be_counts_as_nothing_in_the_baselines():
    logits = parameter([1.0, 0.5, 0.0])
    log_joint = torch.tensor([-1.0, -2.0, -torch.inf], dtype=torch.float64)
    met = []

    def model(x):
        with data_plate(x):
            c = pyro.sample("c", dist.Categorical(logits=log_joint.new_zeros(3)).mask(mask=False))
            pyro.factor("joint", log_joint[c])
        met.append(c)

    def guide(x):
        with data_plate(x):
            pyro.sample("c", dist.Categorical(logits=logits))

    loss = IWAE(3).differentiable_loss(model, guide, random(0, 6, 1))
    drawn = met[-1]
    assert sorted({*(drawn == 2).sum(0).tolist()}) == [0, 1, 2]  # 3 would make the loss infinite
    log_q = logits.log_softmax(-1)[drawn]
    log_w = log_joint[drawn] - log_q
    bound = log_w.logsumexp(0)
    wanted = bound.sum()
    for k in range(3):
        left = torch.cat([log_w[:k], log_w[k + 1 :]]).detach()
        baseline = torch.stack([*left, left.mean(0)]).logsumexp(0)
        baseline[left.isinf().all(0)] = math.log(3)  # of the mean: a bound of 0
        wanted = wanted + ((bound.detach() - baseline) * log_q[k]).sum()
    close(*(flat(torch.autograd.grad(value, [logits])) for value in (loss, -wanted)))
