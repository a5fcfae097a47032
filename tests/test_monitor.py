"""The ELBO that training shows is that of the first data, however they are batched."""

import math

import pytest
from worlds import LinearGaussian

from pyrovae.data import Batches
from pyrovae.monitor import BATCH, DATA, Monitor


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
