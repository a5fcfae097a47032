"""Every measurement switches dropout off, and back on where it was."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.measure.discrepancies import mean
from pyrovae.measure.latents.active_units import active_units
from pyrovae.measure.novelty import likelihood_regret, surprise


class Dropping(nn.Module):
    """A network that drops half of what goes in, and takes no notice of context."""

    def __init__(self, *widths):
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(0.5), pv.nets.MLP(*widths))

    def forward(self, x, *context):
        """Return what the layers make of x."""
        return self.layers(x)


def dropping_vae():
    torch.manual_seed(0)
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(Dropping(2, 5, 4)),
        pv.guides.MeanFieldNormal(Dropping(4, 5, 4)),
    )


def posterior_check(vae, x):
    check = pv.PredictiveCheck({"m": mean}, draws=80, particles=5, replication="posterior")
    return check(vae, x).tensors()


MEASURED = {
    "AIS": lambda vae, x: pv.AIS(3, particles=2, limit=4)(vae, x).tensors(),
    "gaps": lambda vae, x: pv.Gaps(steps=2, particles=5, flow=None)(vae, x).tensors(),
    "latents": lambda vae, x: {
        name: torch.tensor(quantity.mean)
        for name, quantity in pv.Latents(draws=20)(vae, x).quantities.items()
    },
    "active units": lambda vae, x: {"squares": active_units(vae, x).squares},
    "surprise": lambda vae, x: {"scores": surprise(vae, x, particles=5)},
    "regret": lambda vae, x: {"scores": likelihood_regret(vae, x, particles=5, steps=2)},
    "prior check": lambda vae, x: pv.PredictiveCheck({"m": mean}, draws=40)(vae, x).replicated,
    "posterior check": posterior_check,
}


@pytest.mark.parametrize("name", MEASURED)
def test_dropout_is_off_while_measuring(name):
    found, x = [], torch.randn(4, 4)
    for mode in (True, False):
        target = dropping_vae().train(mode)
        torch.manual_seed(1)
        found.append(MEASURED[name](target, x))
        assert all(module.training == mode for module in target.modules())
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("as_pair", [False, True])
def test_dropout_is_off_in_the_modules_that_plain_functions_hold(as_pair):
    net, x = Dropping(2, 5, 4), torch.randn(4, 4)

    def likelihood(z, x=None):
        return pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    vae = dropping_vae()
    vae = pv.VAE(vae.prior, likelihood, vae.posterior)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            likelihood(vae.prior(), x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            vae.posterior(x)

    target = (model, guide) if as_pair else vae
    torch.manual_seed(0)
    noisy = pv.evaluate(target, x, particles=3).elbo.value
    assert net.training
    assert vae.posterior.training
    for module in (net, vae.posterior):
        module.eval()
    assert torch.equal(pv.evaluate(target, x, particles=3).elbo.value, noisy)
