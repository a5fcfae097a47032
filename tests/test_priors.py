"""The standard normal prior."""

import pyro
import pytest
import torch
from pyro import poutine

from pyrovae import priors


def test_the_standard_normal_has_its_density_and_one_event_per_datum():
    with poutine.trace() as tape, pyro.plate("data", 5, dim=-1):
        z = priors.StandardNormal(3).double()()
    site = tape.trace.nodes["z"]
    assert z.shape == (5, 3)
    assert (site["fn"].batch_shape, site["fn"].event_shape) == ((5,), (3,))
    wanted = -0.5 * (z.square() + torch.log(torch.tensor(2 * torch.pi))).sum(-1)
    torch.testing.assert_close(site["fn"].log_prob(z), wanted)


def test_its_buffers_move_with_the_module_and_nothing_is_trained():
    prior = priors.StandardNormal(3)
    assert list(prior.parameters()) == []
    assert {buffer.dtype for buffer in prior.double().buffers()} == {torch.float64}
    assert {buffer.device.type for buffer in prior.to("meta").buffers()} == {"meta"}


def test_context_does_not_matter():
    torch.manual_seed(1)
    with pyro.plate("data", 5):
        plain = priors.StandardNormal(3)()
    torch.manual_seed(1)
    with pyro.plate("data", 5):
        found = priors.StandardNormal(3)(torch.ones(5, 2), torch.zeros(5))
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


@pytest.mark.parametrize("latents", [0, -2])
def test_fewer_than_one_dimension_is_refused(latents):
    with pytest.raises(ValueError, match=f"at least one latent dimension; got {latents}"):
        priors.StandardNormal(latents)
