"""Test runs leave no trace in batch statistics, and measurements find every module that runs."""

import threading
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import pyrovae as pv
from pyrovae.objectives import IWAE
from pyrovae.weights.target import buffers_kept, evaluation_mode

STEPS = 4


def decoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def of_function(net):
    return lambda z, x=None: pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)


def vae_of(likelihood):
    torch.manual_seed(1)
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(3, 4))
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)


LIKELIHOODS = {
    "a part": lambda net: pv.likelihoods.Normal(net, scale=1.0),
    "a part, folded": lambda net: pv.likelihoods.Normal(pv.nets.Folded(net), scale=1.0),
    "a function": of_function,
}
HANDLED = {
    "nothing": lambda model, guide: (model, guide),
    "a KL weight": pv.handlers.kl_weight(0.5).wrap,
    "a scale": lambda *pair: tuple(poutine.scale(each, scale=0.5) for each in pair),
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=LIKELIHOODS)
@pytest.mark.parametrize("handled", HANDLED.values(), ids=HANDLED)
def test_each_step_updates_the_statistics_of_a_batch_once(likelihood, handled):
    net = decoder()
    vae, x = vae_of(likelihood(net)), torch.randn(20, 3)
    programs = handled(vae.model, vae.guide)
    for _ in range(STEPS):
        IWAE(3).loss(*programs, x)
    assert int(net[1].num_batches_tracked) == STEPS


class Holder:
    """A likelihood that is a callable object, no module."""

    def __init__(self, net):
        self.net = net

    def __call__(self, z, x=None):
        return of_function(self.net)(z, x)


def in_dictionary(net):
    nets = {"x": net}
    return lambda z, x=None: of_function(nets["x"])(z, x)


def in_list(net):
    nets = [net]
    return lambda z, x=None: of_function(nets[0])(z, x)


def in_namespace(net):
    held = SimpleNamespace(net=net)
    return lambda z, x=None: of_function(held.net)(z, x)


PLACES = {
    "a closure": of_function,
    "a dictionary": in_dictionary,
    "a list": in_list,
    "a namespace": in_namespace,
    "an object": Holder,
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("as_pair", [False, True])
def test_a_network_is_measured_in_evaluation_mode_wherever_it_is_kept(place, as_pair):
    x, found = torch.randn(6, 3), []
    for training in (True, False):
        net = decoder().train(training)
        vae = vae_of(place(net))
        target = (vae.model, vae.guide) if as_pair else vae
        found.append(pv.evaluate(target, x, particles=20).elbo.value)
        assert all(module.training is training for module in net.modules())
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_refined_guide_is_measured_with_the_decoder_in_evaluation_mode():
    net, x = decoder(), torch.randn(6, 3)
    vae = vae_of(of_function(net))
    pair = vae.model, pv.refine(vae, x, steps=2)
    found = pv.evaluate(pair, x, particles=20).elbo.value
    net.eval()
    torch.testing.assert_close(found, pv.evaluate(pair, x, particles=20).elbo.value)


def test_the_modules_of_another_thread_keep_their_mode_and_their_buffers():
    vae, other = vae_of(in_list(decoder())), nn.BatchNorm1d(3)
    x = torch.randn(6, 3)
    with evaluation_mode(vae), buffers_kept(vae):
        thread = threading.Thread(target=other, args=(x,))
        thread.start()
        thread.join()
    assert other.training
    torch.testing.assert_close(other.running_mean, 0.1 * x.mean(0))


@pytest.mark.parametrize(
    "handler",
    [
        pv.handlers.free_bits(0.3),
        pv.handlers.free_bits(0.3, per="site"),
        pv.handlers.capacity(1.0, strength=2.0),
    ],
)
def test_a_network_that_mistakes_particles_is_told_so_under_free_bits(handler):
    """As many data as features, so that batch normalization over axis 1 runs on [K, N, D]."""
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval()
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.1, 3.0)
    x = torch.randn(8, 3)
    plain, folded = (
        handler.wrap(vae.model, vae.guide)
        for vae in map(vae_of, (LIKELIHOODS[name](net) for name in ("a part", "a part, folded")))
    )
    with pytest.raises(ValueError, match=r"pyrovae.nets.Folded\(network\)"):
        IWAE(5).loss(*plain, x)
    assert IWAE(5).loss(*folded, x) > 0
