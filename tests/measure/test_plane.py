"""Two dimensions of the latent space on a grid."""

import math

import pytest
import torch
from coded import Coded, assert_within
from torch import distributions as td
from worlds import Hierarchy, random

import pyrovae as pv
from pyrovae.measure.latents import latents
from pyrovae.measure.latents.latents import Latents
from pyrovae.measure.latents.plane import latent_plane


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
