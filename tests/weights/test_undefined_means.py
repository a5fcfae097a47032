"""A mean that there is not is said to be missing, wherever one would be shown."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.cli.figures import vae_figures
from pyrovae.data.datasets import Split
from pyrovae.measure.latents.traverse import traverse
from pyrovae.weights.sites import UndefinedMean, mean_of

TWO, MASK = torch.zeros(2), torch.tensor([True, False])

WITHOUT = {
    "classes": dist.Categorical(logits=torch.zeros(2, 3)).to_event(1),
    "masked classes": dist.Categorical(logits=torch.zeros(2, 3)).mask(MASK).to_event(1),
    "Cauchy": dist.Cauchy(TWO, 1.0).to_event(1),
    "Student's t at one degree": dist.StudentT(1.0, TWO, 1.0).to_event(1),
    "Student's t in one column": dist.StudentT(torch.tensor([1.0, 3.0]), TWO, 1.0).to_event(1),
    "a transform": dist.TransformedDistribution(
        dist.Normal(TWO, 1.0), dist.transforms.SigmoidTransform()
    ).to_event(1),
}
WITH = {
    "normal": (dist.Normal(TWO + 1, 1.0).to_event(1), 1.0),
    "one-hot": (dist.OneHotCategorical(logits=TWO), 0.5),
    "levels": (pv.distributions.Levels(torch.zeros(2, 3)).to_event(1), 1.0),
    "infinite": (dist.Pareto(TWO + 1, 1.0).to_event(1), math.inf),
}


def vae_of(observation):
    def likelihood(z, x=None):
        return pyro.sample("x", observation.expand(z.shape[:-1]), obs=x)

    def prior():
        return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide(x):
        return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    return pv.VAE(prior, likelihood, guide)


@pytest.mark.parametrize("name", WITHOUT)
def test_what_has_no_mean_is_named(name):
    vae, x = vae_of(WITHOUT[name]), torch.zeros(4, 2)
    for shown in (
        lambda: mean_of(WITHOUT[name]),
        lambda: vae.reconstruct(x),
        lambda: pv.plots.samples(vae, 4, (1, 1, 2)),
        lambda: pv.plots.reconstructions(vae, x, (1, 1, 2)),
        lambda: traverse(vae, x, dimensions=["z[0]"]),
    ):
        with pytest.raises(ValueError, match=r"p\(x \| z\) is a \w+, which has no mean.*draw"):
            shown()


@pytest.mark.parametrize("name", WITH)
def test_what_has_a_mean_is_rebuilt_by_it(name):
    observation, value = WITH[name]
    rebuilt = vae_of(observation).reconstruct(torch.zeros(4, 2))
    torch.testing.assert_close(rebuilt, torch.full((4, 2), value))


def test_a_run_without_a_mean_has_no_images_and_keeps_its_other_figures():
    vae = vae_of(WITHOUT["classes"])
    figures = vae_figures(vae, Split(torch.rand(4, 2).round(), torch.arange(4)), (1, 1, 2))
    assert set(figures) == {"latents"}


def test_a_posterior_without_a_mean_has_no_map():
    world = LinearGaussian()

    def guide(x):
        pyro.sample("z", dist.Cauchy(x[..., :2], 1.0).to_event(1))

    with pytest.raises(UndefinedMean, match=r"q\(z \| x\) is a Cauchy, which has no mean"):
        pv.plots.latent_map(world.vae(guide), world.sample(5), torch.arange(5))
