"""Active units against exact variances, and the verdict on a collapse."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from coded import Coded, linear
from worlds import Hierarchy, LinearGaussian, data_plate, random

import pyrovae as pv
from pyrovae import latents
from pyrovae.activity import ACTIVE, active_units
from pyrovae.latents import Latents


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


class TestCollapse:
    @pytest.mark.parametrize("seed", range(20))
    def test_is_told_from_health_and_its_cause_is_named(self, seed):
        healthy, x = linear(seed)
        diagnose = Latents(draws=400)
        found = diagnose(healthy, x)
        assert not found.collapsed
        assert found.verdict[0].startswith("Healthy: z tells ")
        ignored = diagnose(linear(seed, decoder=0.0, encoder=0.0)[0], x)
        assert ignored.collapsed
        assert ignored.verdict[0].startswith("Collapsed: the decoder ignores z.")
        assert ignored.numbers[latents.SPREAD].mean < 1e-12  # rounding
        unread = diagnose(linear(seed, decoder=0.0)[0], x)
        assert unread.decoder_ignores_z
        assert "which the decoder does not read" in unread.verdict[1]
        blind = diagnose(linear(seed, encoder=0.0)[0], x)
        assert blind.verdict[0].startswith("Collapsed: the guide ignores x, though the decoder")
        assert blind.activity.count == 0

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
        assert found.verdict[0].startswith("Healthy: 0 of 2 dimensions are active. z tells ")

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
