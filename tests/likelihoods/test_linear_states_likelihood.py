"""Which parameters of a linear state vary, and that each of them reaches x."""

import pyro
import pytest
import torch

import pyrovae as pv
from pyrovae.distributions import LinearStep
from pyrovae.nets import MLP, positive

SIZES = {"transition": 4, "drift": 2, "drift_scale": 2, "emission": 6, "offset": 3, "scale": 3}
MASK = torch.ones(5, 4, dtype=torch.bool)


def made(*varying, outputs=None):
    torch.manual_seed(0)
    outputs = outputs or sum(SIZES[name] for name in varying)
    net = MLP(2, outputs)
    return pv.likelihoods.LinearStates(net, states=2, width=3, varying=varying)


@pytest.mark.parametrize("varying", [("scale", "transition"), tuple(SIZES)], ids=["two", "all"])
def test_the_network_adds_to_the_constants_of_those_that_vary(varying):
    likelihood, z = made(*varying), torch.randn(5, 4, 2)
    step, output = likelihood.dynamics(z), likelihood.net(z)
    parts = dict(zip(varying, output.split([SIZES[name] for name in varying], -1), strict=True))
    for name, shape in LinearStep.shapes(2, 3).items():
        wanted = likelihood.constants[name]
        if name in parts:
            wanted = wanted + parts[name].reshape(5, 4, *shape)
        if "scale" in name:
            wanted = positive(wanted)
        torch.testing.assert_close(getattr(step, name), wanted)


@pytest.mark.parametrize("name", SIZES)
def test_each_parameter_and_the_latents_reach_the_density(name):
    likelihood, z, x = made(name), torch.randn(5, 4, 2, requires_grad=True), torch.randn(5, 4, 3)
    likelihood.first.data.fill_(0.5)
    score = likelihood.observation(z, MASK).log_prob(x).sum()
    slopes = torch.autograd.grad(score, [z, *likelihood.parameters()])
    assert all(slope.isfinite().all() and (slope != 0).any() for slope in slopes)


def test_states_start_with_the_variance_one():
    step = made("offset").dynamics(torch.zeros(1, 2))
    kept, noise = step.transition.diag(), step.drift_scale
    torch.testing.assert_close(noise**2 / (1 - kept**2), torch.ones(2))
    torch.testing.assert_close(step.scale, torch.ones(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"varying": []}, "with none, x does not depend on the latents; got"),
        ({"varying": ["offset", "speed"]}, "varying names one or more of transition, drift"),
        ({"varying": ["offset", "offset"]}, "each once"),
        ({"states": 0}, "got states=0 and width=3"),
        ({"width": 0}, "got states=2 and width=0"),
    ],
)
def test_what_makes_no_state_is_refused(change, message):
    settings = {"states": 2, "width": 3, "varying": ["offset"], **change}
    with pytest.raises(ValueError, match=message):
        pv.likelihoods.LinearStates(MLP(2, 3), **settings)


def test_a_network_of_another_width_is_refused():
    likelihood = made("transition", "offset", outputs=5)
    wanted = r"4 \(transition\) \+ 3 \(offset\) = 7 outputs; got 5"
    with pyro.plate("data", 5), pytest.raises(ValueError, match=wanted):
        likelihood(torch.zeros(5, 4, 2), None, MASK)
