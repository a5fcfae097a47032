"""What every part of the library is put through, in a VAE of the tables `CASES`.

A part is tested for its own truth in a file of its own; here are the promises that all make.
"""

import copy
import pickle

import pyro
import pytest
import torch
from all_cases import CASES, doubled, in_double
from cases import Case
from pyro import poutine

import pyrovae as pv
from pyrovae.train.step import default_loss
from pyrovae.train.svi import SVI
from pyrovae.weights.run import run
from pyrovae.weights.sites import enumeration_dim, sample_sites
from pyrovae.weights.target import check_data
from pyrovae.weights.traces import trace_pair

PARTICLES = 3

FALLBACKS: dict[str, str] = {}
"""The cases that have no static graph, and what the warning says of each."""


every_case = pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())


def weights(vae, x, *context):
    with pv.seeded(3), torch.no_grad():
        return pv.log_weights(vae, x, *context, particles=PARTICLES)


def draws(case):
    """Return the trace of the guide's draws [K, N, ...]."""
    with pv.seeded(3), torch.no_grad():
        pair = trace_pair(
            case.vae.model, case.vae.guide, case.x, *case.context, particles=PARTICLES
        )
    return pair[1]


def replayed(case, trace, change):
    """Return the log-weights of a case at given draws, each changed by a function."""
    fixed = poutine.Trace()
    for name, site in sample_sites(trace):
        if enumeration_dim(site) is None:
            value = change(site["value"], site["fn"].event_dim)
            fixed.add_node(name, **{**site, "value": value})
    guide = poutine.replay(case.vae.guide, trace=fixed)
    with torch.no_grad():
        return run(case.vae.model, guide, case.x, *case.context, particles=PARTICLES).log_w


def gradients(case, *, compile):
    """Return the loss that `fit` takes by default, and the gradients, at one seed."""
    programs = case.vae.model, case.vae.guide
    with pv.seeded(2):
        loss = default_loss(*programs, case.x, *case.context)
    svi = SVI(*programs, torch.optim.SGD(case.vae.parameters(), 0.1), loss, compile=compile)
    with pv.seeded(3):
        value, _ = svi.gradients(case.x, *case.context)
    found = {name: p.grad for name, p in case.vae.named_parameters()}
    case.vae.zero_grad()
    return value, found, svi


@every_case
def test_gradients_reach_every_parameter(make):
    case = make()
    _, found, _ = gradients(case, compile=False)
    assert found
    for name, gradient in found.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert (gradient != 0).any(), name


@every_case
def test_each_datum_has_its_own_weight_whatever_stands_beside_it(make):
    case = in_double(make())
    trace = draws(case)
    together = replayed(case, trace, lambda value, event: value)
    assert together.shape == (PARTICLES, len(case.x))
    assert together.isfinite().all()
    for n in range(len(case.x)):

        def row(value, event, n=n):
            axis = value.ndim - event - 1
            return value.narrow(axis, n, 1) if value.shape[axis] > 1 else value

        here = slice(n, n + 1)
        alone = Case(case.vae, case.x[here], tuple(c[here] for c in case.context))
        # The same sums in another order, and a flow's inverse: rounding of float64 alone.
        torch.testing.assert_close(
            replayed(alone, trace, row), together[:, here], rtol=1e-9, atol=1e-9
        )


@every_case
def test_in_double_it_is_the_same_to_the_accuracy_of_single(make):
    case = make()
    wide, trace = in_double(case), draws(case)
    single = replayed(case, trace, lambda value, event: value)
    double = replayed(wide, trace, lambda value, event: doubled(value))
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    # A thousand roundings of float32: 1e-4.
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@every_case
def test_nothing_stays_behind_when_it_moves_to_another_device(make):
    """On the meta device, which as a GPU does refuses tensors from elsewhere."""
    case = make()
    vae, x = case.vae.to("meta"), case.x.to("meta")
    context = tuple(c.to("meta") for c in case.context)
    with torch.no_grad(), pyro.validation_enabled(is_validate=False):
        log_w = run(vae.model, vae.guide, x, *context, particles=PARTICLES).log_w
    assert (log_w.device.type, log_w.shape) == ("meta", (PARTICLES, len(x)))


@every_case
def test_it_comes_back_from_a_run_s_folder(make, tmp_path):
    case = make()
    pv.save(case.vae, tmp_path)
    again = pv.load(tmp_path)
    wanted = {name: p.shape for name, p in case.vae.named_parameters()}
    assert {name: p.shape for name, p in again.named_parameters()} == wanted
    assert torch.equal(weights(again, case.x, *case.context), weights(*_arguments(case)))


@every_case
def test_it_is_copied_and_pickled_once_it_has_run(make):
    case = make()
    wanted = weights(*_arguments(case))
    gradients(case, compile=False)
    copies = copy.deepcopy(case.vae), pickle.loads(pickle.dumps(case.vae))
    with torch.no_grad():
        for parameter in case.vae.parameters():
            parameter.zero_()
    for again in copies:
        assert torch.equal(weights(again, case.x, *case.context), wanted)


@every_case
@pytest.mark.usefixtures("interpreted")
def test_its_recorded_step_is_its_step(make, request):
    case = make()
    value, wanted, _ = gradients(case, compile=False)
    name = request.node.callspec.id
    if name in FALLBACKS:
        with pytest.warns(UserWarning, match=FALLBACKS[name]):
            gradients(case, compile=True)
        return
    loss, found, svi = gradients(case, compile=True)
    assert svi.compiled
    assert loss == pytest.approx(value, rel=1e-5)
    assert found.keys() == wanted.keys()
    for parameter, gradient in found.items():
        scale = wanted[parameter].abs().max().item()
        torch.testing.assert_close(gradient, wanted[parameter], rtol=1e-5, atol=1e-5 * scale)


@every_case
def test_draws_from_the_prior_are_data(make):
    case = make()
    count = min(3, len(case.x))
    drawn = case.vae.sample(count, *(c[:count] for c in case.context))
    assert drawn.shape == (count, *case.x.shape[1:])
    assert drawn.dtype == case.x.dtype
    check_data(case.vae, drawn)
    assert case.vae.likelihood.domain.check(drawn).all()


@every_case
def test_its_data_are_accepted(make):
    case = make()
    check_data(case.vae, case.x)


def _arguments(case):
    return case.vae, case.x, *case.context
