"""Paths between the latents of two data, and the manifold over the plane of the prior."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from all_cases import CASES
from torch import distributions as td
from worlds import LinearGaussian, random

import pyrovae as pv
from pyrovae.measure.latents.interpolate import interpolate
from pyrovae.measure.latents.manifold import manifold
from pyrovae.measure.latents.paths import linear, spherical

SHARES = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)


def slerp(a, b, t):
    """Return Shoemake's formula for two vectors of one norm, by hand."""
    angle = math.acos(sum(x * y for x, y in zip(a, b, strict=True)) / sum(x * x for x in a))
    weights = math.sin((1 - t) * angle), math.sin(t * angle)
    return [(weights[0] * x + weights[1] * y) / math.sin(angle) for x, y in zip(a, b, strict=True)]


class TestSpherical:
    def test_is_shoemakes_formula_at_equal_norms(self):
        a = 2 * torch.nn.functional.normalize(random(1, 5), dim=0)
        b = 2 * torch.nn.functional.normalize(random(2, 5), dim=0)
        wanted = [slerp(a.tolist(), b.tolist(), t) for t in SHARES.tolist()]
        torch.testing.assert_close(spherical(a, b, SHARES), torch.tensor(wanted).double())

    def test_turns_by_the_share_of_the_angle_and_keeps_the_norm(self):
        a, b = random(3, 50), 3 * random(4, 50)
        found = spherical(a, b, SHARES)
        whole = torch.acos(a @ b / a.norm() / b.norm())
        turned = torch.acos((found @ a / found.norm(dim=1) / a.norm()).clamp(max=1))
        torch.testing.assert_close(turned, SHARES * whole, atol=1e-7, rtol=1e-7)
        norms = (1 - SHARES) * a.norm() + SHARES * b.norm()
        torch.testing.assert_close(found.norm(dim=1), norms)
        torch.testing.assert_close(found[[0, -1]], torch.stack([a, b]))

    def test_ends_that_are_alike_stay_where_they_are(self):
        a = random(5, 4)
        torch.testing.assert_close(spherical(a, a, SHARES), a.expand(5, 4))
        near = a + 1e-9 * random(6, 4)
        torch.testing.assert_close(spherical(a, near, SHARES), linear(a, near, SHARES))
        torch.testing.assert_close(
            spherical(a, 2 * a, SHARES), (1 + SHARES).unsqueeze(1) * a, rtol=1e-12, atol=0
        )

    def test_nearly_opposite_ends_go_through_the_circle_between(self):
        a, b = torch.tensor([1.0, 0.0]).double(), torch.tensor([-1.0, 1e-3]).double()
        middle = spherical(a, b, torch.tensor([0.5]).double())[0]
        torch.testing.assert_close(middle.norm(), torch.tensor(1.0).double(), atol=1e-5, rtol=0)
        assert middle[1] > 0.99

    @pytest.mark.parametrize(
        ("b", "said"), [(-2 * random(7, 6), "are opposite"), (0 * random(7, 6), "is zero")]
    )
    def test_refuses_ends_without_a_circle(self, b, said):
        with pytest.raises(ValueError, match=f"{said}.*use paths.linear"):
            spherical(random(7, 6), b, SHARES)


class TestInterpolate:
    @pytest.mark.parametrize("path", [linear, spherical])
    def test_of_a_linear_model_is_w_z_plus_mean_along_the_path(self, path):
        world = LinearGaussian()
        x = world.sample(2)
        found = interpolate(world.vae(), x, steps=5, path=path)
        a, b = world.posterior_mean(x) + world.shift
        shares = torch.linspace(0, 1, 5, dtype=torch.float64)
        z = path(a, b, shares)
        torch.testing.assert_close(found.shares, shares)
        torch.testing.assert_close(found.latents["z"], z)
        torch.testing.assert_close(found.means, z @ world.weight.T + world.mean)

    def test_turns_around_the_center_of_the_prior_in_its_units(self):
        prior = pv.priors.Normal(2)
        with torch.no_grad():
            prior.loc.copy_(torch.tensor([3.0, -1.0]))
        scale = prior.distribution().base_dist.scale.detach()
        vae = pv.VAE(
            prior,
            pv.likelihoods.Normal(pv.nets.MLP(2, 2)),
            lambda x: pyro.sample("z", dist.Normal(x, 0.1).to_event(1)),
        )
        x = torch.tensor([[4.0, -1.0], [3.0, 1.5]])
        found = interpolate(vae, x, path=spherical)
        a, b = (x - prior.loc.detach()) / scale
        wanted = spherical(a, b, found.shares) * scale + prior.loc.detach()
        torch.testing.assert_close(found.latents["z"], wanted)

    def test_every_site_moves_and_the_context_is_that_of_the_first(self):
        def prior(label):
            top = pyro.sample("top", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return top + pyro.sample("low", dist.Normal(torch.zeros(1), 1.0).to_event(1))

        def likelihood(z, x, label):
            return pyro.sample("x", dist.Normal(z + 10 * label, 1.0).to_event(1), obs=x)

        def guide(x, label):
            pyro.sample("top", dist.Normal(x, 0.5).to_event(1))
            pyro.sample("low", dist.Normal(2 * x, 0.5).to_event(1))

        x, label = torch.tensor([[1.0], [5.0]]), torch.tensor([[1.0], [2.0]])
        found = interpolate(pv.VAE(prior, likelihood, guide), x, label, steps=3)
        assert found.latents["top"].flatten().tolist() == [1, 3, 5]
        assert found.latents["low"].flatten().tolist() == [2, 6, 10]
        assert found.means.flatten().tolist() == [13, 19, 25]

    def test_a_sphere_is_left_by_the_line_and_kept_by_the_circle(self):
        case = CASES["flows: hypersphere"]()
        found = interpolate(case.vae, case.x[:2], path=spherical)
        torch.testing.assert_close(found.latents["z"].norm(dim=-1), torch.ones(11))
        with pytest.raises(ValueError, match="outside the support of site 'z'.*paths.spherical"):
            interpolate(case.vae, case.x[:2])

    def test_refuses_what_has_no_path(self):
        vae, x = pv.mlp_vae(6, latents=2, hidden=4), torch.zeros(3, 6)
        with pytest.raises(ValueError, match="got 3 data and steps=11: pass two rows"):
            interpolate(vae, x)
        with pytest.raises(ValueError, match="got 2 data and steps=1"):
            interpolate(vae, x[:2], steps=1)
        joint, clusters, laplace = (
            CASES[name]()
            for name in ("latents: Joint", "latents: Hierarchical, clusters", "priors: Laplace")
        )
        with pytest.raises(ValueError, match="site 'kind' is discrete"):
            interpolate(joint.vae, joint.x[:2])
        with pytest.raises(ValueError, match="depends on other sites: use paths.linear"):
            interpolate(clusters.vae, clusters.x[:2], path=spherical)
        with pytest.raises(ValueError, match="site 'z' is a Laplace: use paths.linear"):
            interpolate(laplace.vae, laplace.x[:2], path=spherical)


class TestManifold:
    def test_is_the_decoded_grid_of_the_inverse_distribution_function(self):
        world = LinearGaussian()
        found = manifold(world.vae(), side=4)
        levels = torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64)
        points = td.Normal(0.0, 1.0).icdf(levels)
        torch.testing.assert_close(found.grid, points.expand(2, 4))
        for i in range(4):
            for j in range(4):
                z = torch.stack([points[i], points[j]])
                wanted = world.vae().decode(z.unsqueeze(0)).mean[0]
                torch.testing.assert_close(found.means[i, j], wanted)

    def test_of_two_dimensions_of_many_holds_the_others_at_the_median(self):
        world = LinearGaussian(latents=4)
        found = manifold(world.vae(), side=2, dimensions=["z[3]", "z[1]"])
        quarter = td.Normal(0.0, 1.0).icdf(torch.tensor(0.75)).double()
        z = torch.zeros(4, dtype=torch.float64)
        z[3], z[1] = quarter, -quarter
        assert found.names == ("z[3]", "z[1]")
        wanted = world.weight @ z + world.mean
        torch.testing.assert_close(found.means[1, 0], wanted, rtol=1e-6, atol=1e-6)

    def test_of_a_conditional_vae_is_that_of_its_context(self):
        case = CASES["latents: ConditionalNormal"]()
        for row in (0, 1):
            label = case.context[0][row : row + 1]
            found = manifold(case.vae, label, side=2)
            z = torch.stack([found.grid[0, 1], found.grid[1, 0]]).unsqueeze(0)
            torch.testing.assert_close(found.means[1, 0], case.vae.decode(z, label).mean[0])
            prior = case.vae.prior.distribution(label).base_dist
            middle = prior.mean[0]
            torch.testing.assert_close(found.grid.mean(1), middle)

    @pytest.mark.parametrize(
        ("latents", "given", "said"),
        [
            (
                3,
                {},
                r"has 3 continuous ones, \['z\[0\]'.*name two, dimensions=\('z\[0\]', 'z\[1\]",
            ),
            (1, {}, "has 1 continuous ones.*it needs two"),
            (2, {"side": 1}, "got side=1"),
            (2, {"dimensions": ["z[0]", "z[2]"]}, "expected two dimensions of"),
            (2, {"dimensions": ["z[0]", "z[0]"]}, "expected two dimensions of"),
        ],
    )
    def test_refuses_what_is_no_plane(self, latents, given, said):
        with pytest.raises(ValueError, match=said):
            manifold(pv.mlp_vae(6, latents=latents, hidden=4), **given)


@pytest.mark.parametrize("path", [linear, spherical])
@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_every_part_is_interpolated_or_says_why_not(make, path):
    case = make()
    try:
        found = interpolate(
            case.vae, case.x[:2], *[v[:2] for v in case.context], steps=3, path=path
        )
    except ValueError as error:
        said = str(error)
    else:
        assert len(found.means) == 3
        assert found.means.isfinite().all()
        return
    of_labels = "p(x | z) is a Categorical, which has no mean" in said
    assert of_labels or any(
        why in said for why in ("is discrete", "outside the support", "paths.linear")
    )
