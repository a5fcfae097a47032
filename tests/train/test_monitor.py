"""The ELBO that training shows is that of the first data, however they are batched."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.data.batches import Batches
from pyrovae.data.datasets import Split
from pyrovae.train.monitor import BATCH, DATA, Monitor


@pytest.mark.parametrize(("size", "data"), [(16, DATA), (300, 2100), (2500, 2500)])
def test_the_elbo_is_that_of_the_batches_with_the_first_data(size, data):
    """An exact posterior has no noise: its ELBO is log p(x) at every draw."""
    world = LinearGaussian()
    x = world.sample(2600)
    pair = (world.model, world.exact_guide)
    batches = Batches(list(x.split(size)), size)
    found = Monitor(batches, Batches(x[:7], 7), seed=None).measure(pair)
    assert found["elbo"] == pytest.approx(world.log_evidence(x[:data]).mean().item(), abs=1e-9)
    assert found["validation_elbo"] == pytest.approx(world.log_evidence(x[:7]).mean().item())
    assert found["elbo"] == pytest.approx(-found["rate"] - found["distortion"])


@pytest.mark.parametrize("batch_size", [1, 100, 5000])
def test_the_size_of_a_step_does_not_change_what_is_shown(batch_size):
    world = LinearGaussian()
    x = world.sample(2600)
    batches = Batches(x, batch_size, shuffle=True)
    found = Monitor(batches.in_order(BATCH), None, seed=0).measure(
        (world.model, world.exact_guide)
    )
    assert found["elbo"] == pytest.approx(world.log_evidence(x[:DATA]).mean().item(), abs=1e-9)
    assert math.isnan(found["validation_elbo"])


def test_a_dynamic_split_is_monitored_on_the_pixels_that_evaluate_measures():
    """The guide is exact, so that no noise is left: the same bits give the same ELBO."""
    split = Split(torch.rand(2500, 4), torch.arange(2500), dynamic=True)

    class Independent(nn.Module):
        """Two kinds of images, apart in one pixel."""

        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([0.3, -1.0, 2.0, 0.1]))

        def forward(self, z, x=None, *label):
            return pyro.sample("x", dist.Bernoulli(logits=self.logits + 0 * z).to_event(1), obs=x)

    def prior(*label):
        return pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    def guide(x, *label):
        return pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    for given in (split, (split, split.labels)):
        vae = pv.VAE(prior, Independent(), guide)
        shown = pv.fit(vae, given, validation=given, epochs=1, seed=3, callbacks=[])
        found = pv.evaluate(vae, given, particles=2, seed=7)
        metrics = shown.epochs[0]
        assert metrics.validation_elbo == pytest.approx(found.elbo.mean, abs=1e-5)
        first = found.elbo.value[:DATA].double().mean().item()
        assert metrics.elbo == pytest.approx(first, abs=1e-5)


def test_training_still_draws_the_pixels_afresh():
    split = Split(torch.full((50, 4), 0.5), torch.arange(50), dynamic=True)
    batches = Batches(split, 50)
    ((one,), (other,)) = (next(iter(batches)) for _ in range(2))
    assert not torch.equal(one, other)
    shown = batches.in_order(50)
    ((one,), (other,)) = (next(iter(shown)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(one, split.draw())
