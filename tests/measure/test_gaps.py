"""Inference gaps, held against closed forms, quadrature, and their own intervals' coverage."""

import math
from unittest import mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from gap_worlds import PRECISION, WORLD, full_rank, mean_field, small
from torch import distributions as td
from torch import nn
from worlds import random

import pyrovae as pv
from pyrovae import guides
from pyrovae.measure.refinement import gaps as g
from pyrovae.measure.refinement.flow import PerDatumFlow
from pyrovae.measure.refinement.gaps import Gaps, inference_gaps, levels_and_gaps, refined_guides
from pyrovae.measure.refinement.refine import Refined, refine, unrefined
from pyrovae.nets import unconstrained
from pyrovae.weights.bounds import Estimate

MEAN_FIELD_GAP = 0.5 * float(PRECISION.diagonal().log().sum() - PRECISION.logdet())
"""KL of N(m, diag(1 / Lambda_jj)), the best factorized q, to the posterior N(m, Lambda^-1).

tr(Lambda diag(1 / Lambda_jj)) = D, so 2 KL = D - D - log det Lambda + sum_j log Lambda_jj.
"""


def loss_of_shift(shift):
    """Return KL of a normal to itself moved: delta' Lambda delta / 2."""
    delta = torch.full((2,), shift, dtype=torch.float64)
    return 0.5 * float(delta @ PRECISION @ delta)


def kl(guide, x):
    """Return KL(q(z | x) || p(z | x)) of a guide with normal posteriors, in closed form."""
    q = guide.distribution(guide.net(x))
    q = td.MultivariateNormal(q.mean, covariance_matrix=covariance(q))
    exact = td.MultivariateNormal(WORLD.posterior_mean(x), scale_tril=WORLD.scale_tril)
    return td.kl_divergence(q, exact)


def covariance(q):
    full = isinstance(q, td.MultivariateNormal)
    return q.covariance_matrix if full else torch.diag_embed(q.variance)


def assert_within(estimate, truth, *, errors=4):
    """Hold each datum, and the mean over data, to the truth within so many standard errors."""
    assert ((estimate.value - truth).abs() <= errors * estimate.standard_error + 1e-9).all()
    mean = torch.as_tensor(truth).mean()
    assert abs(estimate.mean - mean) <= errors * estimate.error_over_particles + 1e-9


def refined_in_both(vae, x, truth, *, own):
    """Measure the guide, its own family and a flow about it, refined from one to the next."""
    made = {g.ELBO: unrefined(vae, x)}
    made[g.REFINED] = refine(vae, x, steps=own, lr=0.1 if own > 1 else 1e-9)
    made[g.FLOW] = refine((vae.model, made[g.REFINED]), x, steps=400, family=PerDatumFlow())
    known = Estimate(truth, torch.zeros_like(truth))
    return levels_and_gaps(vae.model, made, x, particles=2000, log_evidence=known)[0]


class TestClosedForms:
    """What is measured of the guides that were found is their KL in closed form, at four errors.

    How far they are from the optimum is `noise_of_steps` of test_refinement; here the excess
    stays under a hundredth of a nat, or of the gap where that is larger.
    """

    def found(self, vae, **options):
        settings = Gaps(limit=20, particles=1000, **{"steps": 200, "flow": None} | options)
        x = WORLD.sample(20)
        made = []

        def noted(*given):
            made.append(refined_guides(*given))
            return made[-1]

        torch.manual_seed(1)
        with mock.patch.object(g, "refined_guides", noted):
            finding = inference_gaps(vae, x, settings=settings)
        (guides_of_all,) = made
        return finding.estimates, guides_of_all, x, finding

    def test_the_exact_guide_has_no_gap_and_stays_where_it_is(self):
        found, made, x, finding = self.found(full_rank())
        assert_within(found[g.ELBO], WORLD.log_evidence(x))
        assert_within(found[g.LOG_EVIDENCE], WORLD.log_evidence(x))
        excess = kl(made[g.REFINED], x)
        assert excess.mean() < 0.01
        assert_within(found[g.AMORTIZATION], -excess)
        assert_within(found[g.APPROXIMATION], excess)
        for name in (g.AMORTIZATION, g.APPROXIMATION, g.TOTAL):
            assert abs(found[name].mean) < 0.01
        assert finding.verdict[0].startswith("Neither gap is above two errors")

    def test_the_exact_family_off_its_optimum_has_an_amortization_gap_alone(self):
        found, made, x, finding = self.found(full_rank(shift=0.5))
        excess = kl(made[g.REFINED], x)
        assert excess.mean() < 0.01
        assert_within(found[g.AMORTIZATION], loss_of_shift(0.5) - excess)
        assert_within(found[g.APPROXIMATION], excess)
        assert finding.verdict[0].startswith("Amortization limits the bound: the amor")

    def test_a_mean_field_on_a_correlated_posterior_has_its_approximation_gap(self):
        found, made, x, finding = self.found(mean_field())
        loss = kl(made[g.REFINED], x)
        assert (loss > MEAN_FIELD_GAP - 1e-9).all(), "the closed form is no optimum"
        assert loss.mean() - MEAN_FIELD_GAP < 0.01
        assert_within(found[g.APPROXIMATION], loss)
        assert_within(found[g.AMORTIZATION], MEAN_FIELD_GAP - loss)
        assert_within(found[g.TOTAL], MEAN_FIELD_GAP)
        assert finding.verdict[0].startswith("The family of q limits the bound: the appr")

    def test_both_gaps_at_once(self):
        found, made, x, _ = self.found(mean_field(shift=0.3))
        loss = kl(made[g.REFINED], x)
        assert loss.mean() - MEAN_FIELD_GAP < 0.01
        assert_within(found[g.AMORTIZATION], MEAN_FIELD_GAP + loss_of_shift(0.3) - loss)
        assert_within(found[g.APPROXIMATION], loss)

    def test_a_flow_about_the_mean_field_closes_most_of_what_the_family_leaves(self):
        """In two dimensions the optimum is exact: a map linear in the other is in the flow."""
        x, vae = WORLD.sample(4), mean_field()
        found = refined_in_both(vae, x, WORLD.log_evidence(x), own=1)
        assert_within(found[g.APPROXIMATION], MEAN_FIELD_GAP, errors=5)
        assert found[g.OF_FLOW].mean < 0.5 * MEAN_FIELD_GAP
        assert_within(found[g.OF_FLOW], found[g.OF_FLOW].value.clamp(min=0.0))

    def test_evidence_that_is_given_is_taken_with_its_errors(self):
        x, vae = WORLD.sample(6), mean_field()
        truth = Estimate(WORLD.log_evidence(x), torch.full((6,), 0.2, dtype=torch.float64))
        settings = Gaps(limit=4, particles=100, steps=2, flow=None, batch_size=3)
        finding = inference_gaps(vae, x, settings=settings, log_evidence=truth)
        found = finding.estimates
        assert torch.equal(found[g.LOG_EVIDENCE].value, truth.value[:4])
        torch.testing.assert_close(
            found[g.APPROXIMATION].standard_error,
            found[g.REFINED].standard_error.hypot(truth.standard_error[:4]),
        )
        torch.testing.assert_close(
            found[g.AMORTIZATION].value, found[g.REFINED].value - found[g.ELBO].value
        )
        assert "log p(x) is the given log_evidence." in finding.verdict
        assert "effective sample size" not in finding.tensors()
        same = inference_gaps(vae, x, settings=settings, log_evidence=truth.value)
        assert (same.estimates[g.LOG_EVIDENCE].standard_error == 0).all()


def banana(z, x=None):
    loc = z[..., 1:] + z[..., :1].square()
    return pyro.sample("x", dist.Normal(loc, 0.3).to_event(1), obs=x)


def ring(z, x=None):
    loc = z.square().sum(-1, keepdim=True).sqrt()
    return pyro.sample("x", dist.Normal(loc, 0.2).to_event(1), obs=x)


def skewed(z, x=None):
    return pyro.sample("x", dist.Normal(z.exp(), 1.0).to_event(1), obs=x)


def by_quadrature(likelihood, latents, x):
    """Return log p(x) by the trapezoid rule on a grid, exact to rounding for such densities."""
    axis = torch.linspace(-7, 7, 701, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * latents).reshape(-1, 1, latents)
    with pyro.poutine.trace() as tape:
        likelihood(z, x.expand(len(z), *x.shape))
    log_prior = td.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_joint = log_prior + tape.trace.nodes["x"]["fn"].log_prob(x)
    return log_joint.logsumexp(0) + latents * math.log(axis[1] - axis[0])


CURVED = {"banana": (banana, 2, 0.0), "ring": (ring, 2, 1.0), "one dimension": (skewed, 1, 3.0)}


@pytest.mark.parametrize(("likelihood", "latents", "around"), CURVED.values(), ids=CURVED.keys())
def test_a_flow_has_a_smaller_gap_where_the_posterior_is_no_normal(likelihood, latents, around):
    def prior():
        zero = torch.zeros(latents, dtype=torch.float64)
        return pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))

    net = nn.Linear(1, 2 * latents).double()
    vae = pv.VAE(prior, likelihood, guides.MeanFieldNormal(net))
    x = around + torch.tensor([[0.0], [0.5]], dtype=torch.float64)
    truth = by_quadrature(likelihood, latents, x)
    found = refined_in_both(vae, x, truth, own=150)
    for name in (g.ELBO, g.REFINED, g.FLOW):
        assert (found[name].value <= truth + 4 * found[name].standard_error).all()
    gained = found[g.GAINED]
    assert gained.mean > 4 * gained.error_over_particles
    assert found[g.OF_FLOW].mean < 0.5 * found[g.APPROXIMATION].mean


class TestCoverage:
    """95% intervals hold the truth in 92 to 98% of repetitions: 2,000 data are 2,000 of them."""

    N, K = 2000, 400

    def guides(self, x):
        """Return normal guides with known KLs: moved, moved less, and bent by a linear map."""
        posterior = mean_field().posterior
        numbers = {g.ELBO: 0.4, g.HALF: 0.25, g.REFINED: 0.15}
        made = {
            name: Refined(
                posterior.distribution,
                posterior.net(x) + shift * torch.eye(4, dtype=torch.float64)[0],
                x,
            )
            for name, shift in numbers.items()
        }
        base = posterior.net(x) + 0.1 * torch.eye(4, dtype=torch.float64)[1]
        flow = PerDatumFlow(transforms=1, hidden=1)
        family, start = flow.around(posterior.distribution, base)
        # Of the one coupling z_0 is bent: its place is a weight times z_1 over three features.
        slope = start.clone()
        slope[:, 4 + 4 + 1 + 1] = -0.9
        made[g.FLOW] = Refined(family, slope, x)
        return made

    def truths(self, made, x):
        losses = {name: kl(made[name], x) for name in (g.ELBO, g.HALF, g.REFINED)}
        numbers = made[g.FLOW].parameters
        base, loc = made[g.FLOW].distribution(numbers).base_dist, numbers[:, 4:6]
        scale = numbers[:, 6:8].exp()
        matrix = torch.eye(2, dtype=torch.float64).repeat(len(x), 1, 1)
        matrix[:, 0, 1] = -0.9 / 3 * scale[:, 0] / scale[:, 1]
        mean = loc + (matrix @ (base.mean - loc).unsqueeze(-1)).squeeze(-1)
        spread = matrix @ torch.diag_embed(base.variance) @ matrix.mT
        bent = td.MultivariateNormal(mean, covariance_matrix=spread)
        exact = td.MultivariateNormal(WORLD.posterior_mean(x), scale_tril=WORLD.scale_tril)
        losses[g.FLOW] = td.kl_divergence(bent, exact)
        levels = {name: WORLD.log_evidence(x) - loss for name, loss in losses.items()}
        levels[g.LOG_EVIDENCE] = WORLD.log_evidence(x)
        differences = {
            name: levels[above] - levels[below]
            for name, (above, below) in g.DIFFERENCES.items()
            if above in levels and below in levels
        }
        return levels | differences

    @pytest.mark.parametrize("given", [False, True], ids=["estimated", "given"])
    def test_of_each_datum_and_of_means_of_ten(self, given):
        x = WORLD.sample(self.N)
        made = self.guides(x)
        truths = self.truths(made, x)
        log_evidence = None
        if given:
            error = torch.full((self.N,), 0.05, dtype=torch.float64)
            log_evidence = Estimate(torch.normal(truths[g.LOG_EVIDENCE], error), error)
        found, _ = levels_and_gaps(
            WORLD.model, made, x, particles=self.K, log_evidence=log_evidence
        )
        assert set(found) == {*truths, *g.DIFFERENCES} - {g.HALF, g.RISE_OF_FLOW}
        for name, estimate in found.items():
            off = estimate.value - truths[name]
            inside = off.abs() <= 1.96 * estimate.standard_error
            assert 0.92 <= inside.double().mean() <= 0.98, name
            tens = off.reshape(-1, 10).mean(1)
            errors = estimate.standard_error.reshape(-1, 10).square().sum(1).sqrt() / 10
            inside = tens.abs() <= 1.96 * errors
            assert 0.92 <= inside.double().mean() <= 0.98, name


def test_the_first_so_many_data_are_measured_in_batches():
    settings, vae, x = small(limit=3)
    finding = settings(vae, x)
    assert finding.title == "inference gaps of 3 data, nats per datum"
    assert all(len(estimate.value) == 3 for estimate in finding.estimates.values())
    assert finding.per_datum["effective sample size"].shape == (3,)
    everything = small(limit=None)[0](vae, x)
    assert everything.title == "inference gaps of 5 data, nats per datum"


def test_an_interrupt_keeps_the_batches_that_are_done(monkeypatch):
    settings, vae, x = small()
    original, calls = g.refined_guides, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(g, "refined_guides", interrupted)
    finding = settings(vae, x)
    assert finding.title == "inference gaps, partial: 4 of 5 data, nats per datum"
    assert len(finding.estimates[g.TOTAL].value) == 4


def test_a_context_goes_with_its_data():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = pv.nets.MLP(3 + 1, 4)

        def forward(self, x, label, power):
            return self.net(x, label**power)

    def prior(label, power):
        zero = torch.zeros(2)
        return pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))

    def likelihood(z, x, label, power):
        loc = torch.cat([z, label.expand(*z.shape[:-1], 1)], -1)
        return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    vae = pv.VAE(prior, likelihood, guides.MeanFieldNormal(Net()))
    settings, *_ = small(limit=4)
    finding = settings(vae, torch.randn(6, 3), torch.randn(6, 1), 2.0)
    assert finding.estimates[g.TOTAL].value.shape == (4,)


@pytest.mark.parametrize(("data", "particles", "batch_size"), [(4, 10, 2), (20, 1000, 20)])
def test_a_context_of_as_many_rows_as_are_measured_is_not_cut(data, particles, batch_size):
    """It is in no batch, and in no pass of the log-weights, which hold 16 data at K = 1,000."""

    class Net(nn.Module):
        def forward(self, x, shared, label):
            loc = (x - shared.mean() - label) / 2
            root = torch.full_like(loc, math.sqrt(0.5))
            return torch.cat([loc, unconstrained(root)], -1)

    def prior(*_):
        return pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))

    def likelihood(z, x, shared, label):
        loc = z + shared.mean() + label
        return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    guide = guides.MeanFieldNormal(Net())
    x, label = random(1, 30, 1), random(2, 30, 1)
    shared = torch.arange(float(data)).double().unsqueeze(-1)
    settings = Gaps(limit=data, particles=particles, steps=2, flow=None, batch_size=batch_size)
    finding = settings(pv.VAE(prior, likelihood, guide), x, shared, label)
    truth = dist.Normal(shared.mean() + label, 2**0.5).log_prob(x).flatten()[:data]
    # The network gives the exact posterior, so that every weight is the evidence.
    torch.testing.assert_close(finding.estimates[g.ELBO].value, truth)
    torch.testing.assert_close(finding.estimates[g.LOG_EVIDENCE].value, truth, rtol=0, atol=0.05)
    assert finding.title.startswith(f"inference gaps of {data} data")


@pytest.mark.parametrize("options", [{"limit": 0}, {"particles": 1}, {"steps": 1}])
def test_bad_settings_are_refused(options):
    name, value = next(iter(options.items()))
    with pytest.raises(
        ValueError, match=f"at least one datum, .*got {name}={value}: raise {name}"
    ):
        Gaps(**options)


def test_evidence_for_too_few_data_is_refused():
    settings, vae, x = small()
    with pytest.raises(ValueError, match=r"shape \[5\] or longer, .*got shape \(3,\)"):
        inference_gaps(vae, x, settings=settings, log_evidence=torch.zeros(3))
