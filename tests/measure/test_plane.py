"""Two dimensions of the latent space on a grid, and walks along one of them."""

import math

import pytest
import torch
from aggregates import Aggregate, CorrelatedData
from coded import Coded, assert_within, linear
from torch import distributions as td
from worlds import Hierarchy, random

import pyrovae as pv
from pyrovae.measure.latents import latents
from pyrovae.measure.latents.latents import Latents
from pyrovae.measure.latents.plane import latent_plane
from pyrovae.measure.latents.traverse import traverse


class TestPlane:
    def test_holds_the_exact_densities_and_masses(self):
        """Two posteriors far apart: the grid's masses against an integral on a finer one."""
        x = torch.tensor([[2.5, 0.0], [-2.5, 0.0]], dtype=torch.float64)
        world = Coded(0.5)
        plane = latent_plane((world.model, world.guide), x, hole=0.1)
        z = torch.cartesian_prod(*plane.grid).reshape(*plane.aggregate.shape, 2)
        torch.testing.assert_close(plane.aggregate, world.log_density(x, z).exp())
        torch.testing.assert_close(plane.prior, td.Normal(0.0, 1.0).log_prob(z).sum(-1).exp())
        fine = torch.cartesian_prod(*[torch.linspace(-7, 7, 1401, dtype=torch.float64)] * 2)
        log_q, log_p = world.log_density(x, fine), td.Normal(0.0, 1.0).log_prob(fine).sum(-1)
        missed = (log_p.exp() * (log_q < math.log(0.1) + log_p)).sum().item() / 1e4
        outside = (log_q.exp() * (log_p < math.log(0.1) + log_q)).sum().item() / 1e4
        assert missed > 0.5
        # The edge of a region is known to half a step: a hundredth of the mass.
        assert plane.prior_mass_in_holes == pytest.approx(missed, abs=0.01)
        assert plane.aggregate_mass_outside == pytest.approx(outside, abs=0.01)
        numbers = Latents(draws=8000, hole=0.1)((world.model, world.guide), x).numbers
        assert_within(numbers[latents.HOLES], missed)
        assert_within(numbers[latents.OUTSIDE], outside)

    def test_of_a_site_that_depends_on_others_averages_over_these(self):
        """Of a hierarchy whose posterior is exact, both densities are the prior's normal."""
        world = Hierarchy()
        x = world.sample(2000)
        plane = latent_plane((world.model, world.exact_guide), x)
        assert plane.names == ("low[0]", "low[1]")
        assert plane.smoothed == ("aggregate",)  # its full-rank normals do not factor
        exact = td.MultivariateNormal(torch.zeros(2).double(), world.covariance[1:3, 1:3])
        truth = exact.log_prob(torch.cartesian_prod(*plane.grid)).exp().reshape(plane.prior.shape)
        # The prior is the mean over 20,000 tops, the aggregate over 2,000 data.
        assert (plane.prior - truth).abs().max() < 0.05 * truth.max()
        assert (plane.aggregate - truth).abs().max() < 0.2 * truth.max()

    def test_takes_the_two_most_active_dimensions_unless_told(self):
        x = random(4, 50, 4) * torch.tensor([0.1, 2.0, 0.5, 1.0]).double()
        world = Coded(0.5, width=4)
        target = (world.model, world.guide)
        assert latent_plane(target, x).names == ("z[1]", "z[3]")
        plane = latent_plane(target, x, dimensions=("z[2]", "z[0]"))
        z = torch.cartesian_prod(*plane.grid).reshape(*plane.aggregate.shape, 2)
        truth = world.log_density(x[:, [2, 0]], z).exp()
        torch.testing.assert_close(plane.aggregate, truth)

    @pytest.mark.parametrize("names", [("z[0]", "z[0]"), ("z[0]", "z[7]"), ("z[0]",)])
    def test_refuses_what_is_no_plane(self, names):
        world = Coded(0.5)
        with pytest.raises(ValueError, match="name (two|one) such as"):
            latent_plane((world.model, world.guide), random(3, 5, 2), dimensions=names)

    def test_a_single_dimension_has_no_plane(self):
        world = Coded(0.5, width=1)
        with pytest.raises(ValueError, match="two dimensions of one latent site"):
            latent_plane((world.model, world.guide), random(3, 5, 1))

    def test_figure_shows_the_densities_and_states_the_masses(self):
        x = torch.tensor([[2.5, 0.0], [-2.5, 0.0]], dtype=torch.float64)
        plane = latent_plane((Coded(0.5).model, Coded(0.5).guide), x)
        figure = pv.plots.holes(plane)
        drawn = torch.as_tensor(figure.axes[0].collections[0].get_array())
        torch.testing.assert_close(drawn.reshape(plane.aggregate.shape), plane.aggregate.T)
        text = " ".join(label.get_text() for label in figure.legends[0].get_texts())
        assert f"{100 * plane.prior_mass_in_holes:.1f}% of the prior" in text
        assert f"{100 * plane.aggregate_mass_outside:.1f}% of the codes" in text


class TestTraversal:
    def test_moves_one_dimension_and_holds_the_others_at_the_code(self):
        vae, x = linear(3)
        found = traverse(vae, x, datum=5, dimensions=["z[1]", "z[0]"], quantiles=[0.1, 0.5, 0.9])
        code = vae.posterior.gain @ x[5]
        for row, column in enumerate([1, 0]):
            for step in range(3):
                z = code.clone()
                z[column] = found.values[row, step]
                torch.testing.assert_close(found.means[row, step], vae.likelihood.weight @ z)

    def test_steps_are_the_quantiles_of_the_aggregate_posterior(self):
        world = CorrelatedData()
        aggregate = Aggregate(world)
        shares = [0.1, 0.5, 0.9]
        size = 4000
        found = traverse(world.vae, world.sample(size), quantiles=shares)
        order = [int(name[2]) for name in found.names]
        for row, column in enumerate(order):
            normal = td.Normal(aggregate.loc[column], aggregate.covariance[column, column].sqrt())
            truth = normal.icdf(torch.tensor(shares).double())
            density = normal.log_prob(truth).exp()
            error = (torch.tensor(shares) * (1 - torch.tensor(shares)) / size).sqrt() / density
            assert ((found.values[row] - truth).abs() < 4 * error).all()

    def test_of_a_hierarchy_moves_one_level(self):
        prior = pv.priors.Hierarchical(
            pv.priors.StandardNormal(2), pv.priors.ConditionalNormal(pv.nets.MLP(2, 2 * 3))
        )
        guide = pv.guides.Hierarchical(
            pv.guides.MeanFieldNormal(pv.nets.MLP(16, 2 * 3)),
            pv.guides.MeanFieldNormal(pv.nets.MLP(3, 2 * 2)),
        )
        vae = pv.VAE(prior, pv.likelihoods.Bernoulli(pv.nets.MLP(3, 16)), guide)
        x = torch.bernoulli(torch.full((20, 16), 0.5))
        found = traverse(vae, x, dimensions=["z_1[2]", "z_2[0]"])
        assert found.means[0].std(0).min() > 0
        assert found.means[1].std(0).max() < 1e-6  # x depends on z_2 through z_1 alone

    def test_refuses_what_there_is_not(self):
        vae, x = linear(3)
        with pytest.raises(ValueError, match="no dimensions \\['z\\[2\\]'\\]"):
            traverse(vae, x, dimensions=["z[2]"])
        with pytest.raises(ValueError, match="datum=300"):
            traverse(vae, x, datum=300)

    def test_figure_has_a_row_for_each_dimension(self):
        vae, x = linear(3)
        figure = pv.plots.traversals(traverse(vae, x, dimensions=["z[1]"]), (1, 2, 2))
        pixels = torch.as_tensor(figure.axes[0].images[0].get_array().filled(math.nan))
        found = traverse(vae, x, dimensions=["z[1]"]).means
        assert pixels.shape == (2, 9 * 3 - 1)
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["z[1]"]
        assert found.shape == (1, 9, 4)
