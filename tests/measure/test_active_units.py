"""Active units against exact variances, and the verdict on a collapse."""

import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from coded import Coded, linear
from torch import distributions as td
from worlds import Hierarchy, LinearGaussian, data_plate, random

import pyrovae as pv
from pyrovae.measure.latents import latents
from pyrovae.measure.latents.active_units import ACTIVE, Activity, active_units
from pyrovae.measure.latents.latents import Latents


class TestActiveUnits:
    def test_draws_give_the_variance_of_the_means_without_their_noise(self):
        """A flow's draws stand for its mean; the same guide in closed form is the truth."""
        world, x = LinearGaussian(), LinearGaussian().sample(3000)

        def unknown_mean(x):
            loc = world.posterior_mean(x)
            with data_plate(x):
                base = dist.Normal(torch.zeros_like(loc), 1.0)
                maps = [dist.transforms.AffineTransform(loc, world.off_scale)]
                pyro.sample("z", dist.TransformedDistribution(base, maps).to_event(1))

        closed = active_units((world.model, world.off_guide), x)
        drawn = active_units((world.model, unknown_mean), x)
        means = world.posterior_mean(x)
        torch.testing.assert_close(closed.variance, means.var(0), rtol=1e-9, atol=0)
        # Given the data, what 100 draws leave on a squared deviation.
        noise = world.off_scale.square() / 100
        error = ((4 * means.var(0) * noise + 2 * noise.square()) / len(x)).sqrt()
        assert ((drawn.variance - closed.variance).abs() < 4 * error).all()
        assert (noise > 2 * error).all()  # so that the noise, left in, would show

    def test_of_the_linear_world_are_those_of_the_population(self):
        world = LinearGaussian()
        found = active_units((world.model, world.exact_guide), world.sample(4000))
        truth = 1 - world.covariance.diagonal()  # Var z less E Var[z | x]
        assert ((found.variance - truth).abs() < 4 * found.error_over_data).all()
        assert found.names == ("z[0]", "z[1]")

    @pytest.mark.parametrize(("factor", "count"), [(0.9, 0), (1.1, 2)])
    def test_count_what_varies_by_more_than_a_hundredth(self, factor, count):
        x = random(8, 500, 2)
        x = (x - x.mean(0)) / x.std(0) * math.sqrt(factor * ACTIVE)
        world = Coded(0.3)
        assert active_units((world.model, world.guide), x).count == count

    def test_of_sites_that_depend_on_others_are_taken_from_draws(self):
        world = Hierarchy()
        x = world.sample(2000)
        found = active_units((world.model, world.exact_guide_upwards), x)
        truth = world.given([0, 1, 2], [3, 4, 5], x).mean.var(0)[[1, 2, 0]]
        assert found.names == ("low[0]", "low[1]", "top[0]")
        assert ((found.variance - truth).abs() < 0.02 * truth + 0.01).all()


class TestContext:
    def test_that_all_data_share_is_not_cut_where_as_many_are_measured(self):
        """Thirty shared numbers, of which every program takes the mean, for the first 30 data."""
        x, label = random(1, 50, 2), random(2, 50, 2)
        shared = torch.arange(30.0).double()

        def vae(level):
            def prior(*_):
                return pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

            def likelihood(z, x, label, *rest):
                loc = z + level(*rest) + label
                return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

            def guide(x, label, *rest):
                loc = 0.7 * (x - label) + 0.01 * level(*rest)
                pyro.sample("z", dist.Normal(loc, 0.4).to_event(1))

            return pv.VAE(prior, likelihood, guide)

        found = []
        for model, rest in ((vae(torch.mean), [shared]), (vae(lambda: shared.mean()), [])):
            with pv.seeded(1):
                found.append(Latents(limit=30, draws=20)(model, x, label, *rest).to_json())
        assert found[0] == found[1]


class TestCollapse:
    @pytest.mark.parametrize("seed", range(20))
    def test_is_told_from_health_and_its_cause_is_named(self, seed):
        healthy, x = linear(seed)
        diagnose = Latents(draws=400)
        found = diagnose(healthy, x)
        assert not found.collapsed
        assert found.verdict[0].startswith("Healthy: z carries ")
        ignored = diagnose(linear(seed, decoder=0.0, encoder=0.0)[0], x)
        assert ignored.collapsed
        assert ignored.verdict[0].startswith("Collapsed: the decoder ignores z.")
        assert ignored.numbers[latents.SPREAD].mean < 1e-12  # rounding
        unread = diagnose(linear(seed, decoder=0.0)[0], x)
        assert unread.decoder_ignores_z
        assert "which the decoder does not use" in unread.verdict[1]
        blind = diagnose(linear(seed, encoder=0.0)[0], x)
        assert blind.verdict[0].startswith("Collapsed: the guide ignores x, although the decoder")
        assert blind.activity.count == 0

    @pytest.mark.parametrize("rate", [0.04, 0.09, 0.11, 0.3])
    def test_goes_by_what_the_exact_posterior_would_tell(self, rate):
        """x is one number at 100 s, p(x | z) = N(s z, 1): the posterior of z is all but N(a, 1).

        Its rate by quadrature is a^2 / 2, and the mark of 0.1 lies between 0.09 and 0.11. The
        mean of 10,000 differences |a (z - z')| has a relative error of 0.8%, the rate one of 1.5%.
        """
        a = math.sqrt(2 * rate)
        z = torch.linspace(-10, 10, 4001, dtype=torch.float64)
        slope, x = a / 100, torch.full((2, 1), 100.0).double()
        log_prior = td.Normal(0.0, 1.0).log_prob(z).log_softmax(0)
        log_likelihood = td.Normal(slope * z, 1.0).log_prob(x[0])
        log_posterior = (log_prior + log_likelihood).log_softmax(0)
        exact = (log_posterior.exp() * (log_posterior - log_prior)).sum().item()
        assert exact == pytest.approx(rate, rel=1e-3)

        def likelihood(z, x=None):
            return pyro.sample("x", dist.Normal(slope * z, 1.0).to_event(1), obs=x)

        vae = pv.VAE(
            lambda: pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1)),
            likelihood,
            lambda x: pyro.sample("z", dist.Normal(0 * x, 1.0).to_event(1)),
        )
        found = Latents(draws=20_000)(vae, x)
        assert found._attainable_rate == pytest.approx(exact, rel=0.06)
        assert found.decoder_ignores_z == (rate < 0.1)

    @pytest.mark.parametrize(
        ("encoder", "begins"),
        [
            (-1.0, "Mismatched: the guide encodes"),
            (0.4, "Weak: z carries 0.19 nats"),
            (1.0, "Healthy: z carries"),
        ],
    )
    def test_a_guide_that_contradicts_the_decoder_is_not_healthy(self, encoder, begins):
        """The posterior's own codes cost I(x; z) and the lautum information: never less than I.

        One that tells less than a nat is not called healthy either.
        """
        found = Latents(draws=600)(*linear(4, encoder=encoder))
        assert not found.collapsed
        told, cost = (found.numbers[n].mean for n in (latents.INFORMATION, latents.SWAPPED))
        assert (cost > told) == (encoder > 0)
        assert found.verdict[0].startswith(begins)

    def test_of_some_dimensions_names_them(self):
        vae, x = linear(3)
        vae.likelihood.weight[:, 1] = 0
        vae.posterior.gain[1] = 0
        found = Latents(draws=400)(vae, x)
        assert not found.collapsed
        assert found.verdict[0].startswith("Partially collapsed: 1 of 2 dimensions are active.")
        assert found.verdict[1].endswith("z[1].")

    def test_of_all_dimensions_can_leave_a_little_information(self):
        """Fifty dimensions below the mark, each with I = log(1 + 0.009) / 2, carry 0.22 nats."""
        x = random(6, 400, 50)
        x = x / x.std(0) * math.sqrt(0.009)
        found = Latents(draws=800)((Coded(1.0, width=50).model, Coded(1.0, width=50).guide), x)
        assert found.verdict[0].startswith("Nearly collapsed: 0 of 50 dimensions are active.")
        assert found.verdict[1].endswith("z[7] and 42 more.")

    def test_a_narrow_prior_is_no_collapse(self):
        """Means that vary by 0.0025 tell nats about x where the posterior is narrower still."""
        x = random(7, 400, 2)
        x = 0.05 * x / x.std(0)
        coded = Coded(0.005, width=2)
        found = Latents(draws=400)((coded.model, coded.guide), x)
        assert found.activity.count == 0
        assert found.verdict[0].startswith("Healthy: 0 of 2 dimensions are active. z carries ")

    def test_is_found_in_a_trained_model(self):
        """A KL weight of 30 collapses what a weight of 1 does not."""
        data = pv.data.load()
        found = {}
        for weight in (1.0, 30.0):
            vae = pv.VAE(
                prior=pv.priors.StandardNormal(4),
                likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(4, 50, 64)),
                guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 50, 2 * 4)),
            )
            step = pv.Step(pyro.optim.Adam({"lr": 1e-2}), kl_weight=weight)
            pv.fit(vae, data.train, epochs=8, batch_size=100, step=step, callbacks=[])
            found[weight] = Latents(draws=400)(vae, data.validation.draw())
        assert not found[1.0].collapsed
        assert found[30.0].collapsed
        assert found[30.0].guide_ignores_x


def test_the_error_over_data_is_widened_for_few_data_as_others_are():
    squares = torch.tensor([[0.0], [1.0], [2.0], [5.0], [2.0]], dtype=torch.float64)
    half = scipy.stats.t.ppf(0.975, 4) * squares.std(0) / math.sqrt(5)
    torch.testing.assert_close(1.96 * Activity(("z[0]",), squares).error_over_data, half)
