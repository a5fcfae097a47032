"""Walks along latent dimensions: where they lead, in what order, and what they decode."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from aggregates import Aggregate, CorrelatedData
from all_cases import CASES
from coded import linear
from torch import distributions as td
from worlds import LinearGaussian, random

import pyrovae as pv
from pyrovae.measure.latents.traverse import traverse

SIGMAS = torch.linspace(-3, 3, 13, dtype=torch.float64)


def perceptrons(prior, latents, width=6):
    return pv.VAE(
        prior,
        pv.likelihoods.Normal(pv.nets.MLP(latents, width)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(width, 2 * latents)),
    )


class TestOfThePrior:
    def test_decodes_a_linear_model_at_the_normal_quantiles_to_w_z_plus_mean(self):
        world = LinearGaussian()
        x = world.sample(50)
        walk = traverse(world.vae(), x, datum=7, of="prior")
        torch.testing.assert_close(walk.values, SIGMAS.expand(2, 13))
        code = world.posterior_mean(x[7]) + world.shift
        for row, name in enumerate(walk.names):
            z = code.repeat(13, 1)
            z[:, int(name[2])] = SIGMAS
            torch.testing.assert_close(walk.means[row], z @ world.weight.T + world.mean)

    @pytest.mark.parametrize("shift", [0.0, 1.5])
    def test_of_laplace_and_normal_priors_takes_their_own_quantiles(self, shift):
        levels = [0.01, 0.3, 0.9]
        prior = pv.priors.Normal(2)
        with torch.no_grad():
            prior.loc.fill_(shift)
        x = random(1, 9, 6).float()
        found = traverse(perceptrons(prior, 2), x, of="prior", quantiles=levels).values
        scale = prior.distribution().base_dist.scale[0].item()
        truth = shift + scale * torch.special.ndtri(torch.tensor(levels))
        torch.testing.assert_close(found, truth.expand(2, 3), rtol=1e-5, atol=1e-5)
        found = traverse(
            perceptrons(pv.priors.Laplace(2), 2), x, of="prior", quantiles=levels
        ).values
        truth = torch.tensor([math.log(0.02), math.log(0.6), -math.log(0.2)])
        torch.testing.assert_close(found, truth.expand(2, 3), rtol=1e-5, atol=1e-5)

    def test_of_a_prior_without_an_inverse_is_sampled(self):
        """Student's t: its quantiles from scipy, within four errors of 65,536 draws."""
        from scipy import stats

        levels = torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64)
        x = random(1, 9, 6).float()
        target = perceptrons(pv.priors.StudentT(2, df=5), 2)
        found = traverse(target, x, of="prior", quantiles=levels.tolist())
        truth = torch.as_tensor(stats.t.ppf(levels, 5))
        density = torch.as_tensor(stats.t.pdf(truth, 5))
        error = (levels * (1 - levels) / 2**16).sqrt() / density
        assert ((found.values.double() - truth).abs() < 4 * error).all()
        again = traverse(target, x, of="prior", quantiles=levels.tolist())
        assert torch.equal(found.values, again.values), "the draws have a seed of their own"

    def test_of_a_lower_level_takes_its_marginal_quantiles(self):
        """Of z_1 = 2 z_2 + noise of scale 1: N(0, 5)."""

        def prior():
            top = pyro.sample("top", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("low", dist.Normal(2 * top, 1.0).to_event(1))

        def guide(x):
            top = pyro.sample("top", dist.Normal(x[..., :1], 0.5).to_event(1))
            pyro.sample("low", dist.Normal(top, 0.5).to_event(1))

        vae = pv.VAE(prior, pv.likelihoods.Normal(pv.nets.MLP(1, 3)), guide)
        levels = torch.tensor([0.1, 0.5, 0.8])
        found = traverse(
            vae,
            random(1, 9, 3).float(),
            of="prior",
            dimensions=["low[0]", "top[0]"],
            quantiles=levels.tolist(),
        )
        normal = td.Normal(0.0, 1.0)
        truth = normal.icdf(levels)
        torch.testing.assert_close(found.values[1], truth)
        error = (levels * (1 - levels) / 2**16).sqrt() / normal.log_prob(truth).exp()
        assert ((found.values[0] / 5**0.5 - truth).abs() < 4 * error).all()

    def test_of_a_conditional_prior_is_given_the_context_of_its_datum(self):
        net = pv.nets.MLP(2, 2 * 2)
        vae = pv.VAE(
            pv.priors.ConditionalNormal(net),
            lambda z, x, label: pyro.sample("x", dist.Normal(z + label, 1.0).to_event(1), obs=x),
            lambda x, label: pyro.sample("z", dist.Normal(x, 0.5).to_event(1)),
        )
        x, label = random(1, 5, 2).float(), torch.eye(2)[[0, 1, 0, 1, 0]]
        for datum in (0, 1):
            found = traverse(vae, x, label, datum=datum, of="prior", dimensions=["z[1]"])
            truth = vae.prior.distribution(label[datum]).base_dist
            wanted = truth.mean[1] + truth.stddev[1] * SIGMAS.float()
            torch.testing.assert_close(found.values[0], wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found.means[0, :, 1], wanted + label[datum, 1])
            held = x[datum, 0] + label[datum, 0]
            torch.testing.assert_close(found.means[0, :, 0], held.expand(13))


class TestOrder:
    def test_is_that_of_the_analytic_kl_with_its_value_in_nats(self):
        scales = torch.tensor([0.9, 0.01, 0.5, 0.3])
        gains = torch.tensor([0.1, 0.8, 0.2, 2.0])

        def guide(x):
            pyro.sample("w", dist.Normal(gains * x, scales).to_event(1))

        def prior():
            return pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))

        vae = pv.VAE(prior, pv.likelihoods.Normal(pv.nets.MLP(4, 4)), guide)
        x = random(3, 400, 4).float()
        kl = 0.5 * (scales**2 + (gains * x) ** 2 - 1 - 2 * scales.log()).mean(0)
        order = kl.argsort(descending=True).tolist()
        walk = traverse(vae, x, dimensions=3)
        assert walk.order == "KL"
        assert walk.names == tuple(f"w[{j}]" for j in order[:3])
        torch.testing.assert_close(walk.kl, kl[order[:3]], rtol=1e-4, atol=1e-5)
        # The most active is not the one of most KL.
        assert pv.active_units(vae, x).order != order

    def test_is_by_activity_where_a_kl_is_not_known_and_says_so(self):
        vae = pv.VAE(
            pv.priors.StandardNormal(3),
            pv.likelihoods.Normal(pv.nets.MLP(3, 6)),
            pv.guides.FullRankNormal(pv.nets.MLP(6, 3 + 6)),
        )
        x = random(3, 40, 6).float()
        walk = traverse(vae, x)
        activity = pv.active_units(vae, x)
        assert walk.order == "activity"
        assert walk.names == tuple(activity.names[j] for j in activity.order)
        assert walk.kl.isnan().all()

    def test_a_point_guide_has_no_kl_and_is_walked_along_by_name(self):
        world = LinearGaussian()
        x = world.sample(20)
        walk = traverse(world.vae(world.mode), x, dimensions=["z[1]"], of="prior")
        assert walk.kl.isnan().all()
        z = world.posterior_mean(x[:1]).repeat(13, 1)
        z[:, 1] = SIGMAS
        torch.testing.assert_close(walk.means[0], z @ world.weight.T + world.mean)


class TestOfTheAggregatePosterior:
    def test_moves_one_dimension_and_holds_the_others_at_the_code(self):
        vae, x = linear(3)
        found = traverse(vae, x, datum=5, dimensions=["z[1]", "z[0]"], quantiles=[0.1, 0.5, 0.9])
        assert found.order == "given"
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


@pytest.mark.parametrize("levels", [[0.9], [0.1, 0.5, 0.9]])
def test_moves_latents_whose_axes_the_guide_transposes(levels):
    """The dimensions of z [2, 3] are numbered row by row, however its memory is laid out."""
    weight, back = random(1, 6, 5), random(2, 5, 6)

    def prior():
        return pyro.sample("z", dist.Normal(torch.zeros(2, 3).double(), 1.0).to_event(2))

    def likelihood(z, x=None):
        loc = z.flatten(-2) @ weight
        return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = (x @ back).unflatten(-1, (3, 2)).mT
        return pyro.sample("z", dist.Normal(loc, 0.1).to_event(2))

    x = random(3, 20, 5)
    walk = traverse(pv.VAE(prior, likelihood, guide), x, datum=4, of="prior", quantiles=levels)
    code = (x[4] @ back).unflatten(-1, (3, 2)).mT.flatten()
    assert len(walk.names) == 6
    for row, name in enumerate(walk.names):
        z = code.repeat(len(levels), 1)
        z[:, int(name[2])] = torch.special.ndtri(torch.tensor(levels, dtype=torch.float64))
        torch.testing.assert_close(walk.means[row], z @ weight)


def test_a_class_that_the_guide_leaves_out_is_held_along_the_walk():
    """Of x = z + 10 class, the class must not change from step to step."""

    def prior():
        kind = pyro.sample(
            "kind", dist.Categorical(torch.ones(5)), infer={"enumerate": "parallel"}
        )
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        return z + 10 * kind.unsqueeze(-1)

    def likelihood(z, x=None):
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    vae = pv.VAE(prior, likelihood, lambda x: pyro.sample("z", dist.Normal(x, 1.0).to_event(1)))
    walk = traverse(vae, torch.arange(6.0).unsqueeze(-1), of="prior")
    torch.testing.assert_close(
        walk.means[0, :, 0].diff(), torch.full((12,), 0.5), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_every_part_is_walked_along_or_says_why_not(make):
    case = make()
    try:
        walk = traverse(case.vae, case.x, *case.context, quantiles=[0.2, 0.8])
    except ValueError as error:
        said = str(error)
    else:
        assert walk.means.shape[:2] == walk.values.shape == (len(walk.names), 2)
        assert walk.means.isfinite().all()
        return
    of_labels = "p(x | z) is a Categorical, which has no mean" in said
    assert of_labels or "all latents are discrete" in said or "outside the support of site" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dimensions": ["z[2]"]}, r"no dimensions \['z\[2\]'\]: choose from \['z\[0\]'"),
        ({"dimensions": []}, "at least one dimension; got none"),
        ({"dimensions": 0}, "at least one dimension; got 0"),
        ({"datum": 300}, "datum=300"),
        ({"quantiles": [0.5, 1.5]}, r"quantiles=\[0.5, 1.5\]"),
        ({"quantiles": []}, r"quantiles=\[\]"),
        ({"quantiles": [0.0, 0.5], "of": "prior"}, "can be infinite; got \\[0.0, 0.5\\]"),
        ({"of": "posterior"}, "got of='posterior'"),
    ],
)
def test_refuses_what_there_is_not(given, said):
    vae, x = linear(3)
    with pytest.raises(ValueError, match=said):
        traverse(vae, x, **given)
