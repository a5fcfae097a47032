"""A flow for each datum, held against Jacobians by autograd, quadrature and what it bends."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import distributions as td
from worlds import random

from pyrovae import guides
from pyrovae.distributions.spheres import PowerSpherical
from pyrovae.measure.refinement.flow import LIMIT, PerDatumFlow, _Coupling


def normal(h):
    loc, log_scale = h.chunk(2, -1)
    return dist.Normal(loc, log_scale.exp()).to_event(1)


def full_rank(h):
    return guides.FullRankNormal(torch.nn.Identity()).distribution(h)


FAMILIES = {
    "one dimension": (normal, 2),
    "normal": (normal, 6),
    "many dimensions": (normal, 22),
    "full rank": (full_rank, 9),
    "mixture": (guides.MixtureOfNormals(torch.nn.Identity(), 2).distribution, 10),
    "a number": (lambda h: dist.Normal(h[..., 0], h[..., 1].exp()), 2),
    "a matrix": (lambda h: dist.Normal(h.unflatten(-1, (2, 3)), 0.5).to_event(2), 6),
    "positive": (lambda h: td.TransformedDistribution(normal(h), td.ExpTransform()), 6),
    "positive by name": (lambda h: dist.LogNormal(h, 0.5).to_event(1), 3),
    "simplex": (lambda h: dist.Dirichlet(3 * h.exp()), 4),
}


def bent(base, width, *, n=4, amount=0.3, **options):
    """Return a flow with random weights about a base with random parameters."""
    parameters = 0.5 * random(10, n, width)
    family, start = PerDatumFlow(**options).around(base, parameters)
    moved = start + amount * random(11, *start.shape)
    return family, start, moved


@pytest.mark.parametrize(("base", "width"), FAMILIES.values(), ids=FAMILIES.keys())
def test_it_starts_as_the_posterior_that_it_bends(base, width):
    family, start, _ = bent(base, width)
    torch.testing.assert_close(start[:, :width], 0.5 * random(10, 4, width))
    q, original = family(start), base(start[:, :width])
    torch.manual_seed(1)
    z = q.rsample((50,))
    torch.manual_seed(1)
    torch.testing.assert_close(z, original.rsample((50,)))
    torch.testing.assert_close(q.log_prob(z), original.log_prob(z), rtol=1e-8, atol=1e-8)
    assert (q.batch_shape, q.event_shape) == (original.batch_shape, original.event_shape)


@pytest.mark.parametrize(("base", "width"), FAMILIES.values(), ids=FAMILIES.keys())
def test_a_draw_is_scored_alike_on_its_way_and_from_elsewhere(base, width):
    family, _, moved = bent(base, width)
    q = family(moved).expand((50, 4))
    z = q.rsample()
    assert q.support.check(z).all()
    # Rounding in the inverse: a bound on what the bends stretch, in float64.
    torch.testing.assert_close(
        q.log_prob(z), family(moved).log_prob(z.clone()), rtol=1e-6, atol=1e-6
    )


def test_the_density_is_that_of_the_change_of_variables():
    """Hold log q against the base's density and the determinant of dz/dy by autograd."""
    family, _, moved = bent(normal, 6, n=1)
    q = family(moved)
    y = q.base_dist.rsample()

    def forward(y):
        for transform in family(moved).transforms:
            y = transform(y)
        return y

    jacobian = torch.autograd.functional.jacobian(lambda v: forward(v[None])[0], y[0])
    wanted = normal(moved[:, :6]).log_prob(y) - jacobian.det().abs().log()
    torch.testing.assert_close(q.log_prob(forward(y)), wanted)
    assert (jacobian != torch.diag(jacobian.diagonal())).any(), "no dimension bends another"


SUPPORTS = {"real": normal, "positive": lambda h: dist.LogNormal(h[..., :1], 1.0).to_event(1)}


@pytest.mark.parametrize("base", SUPPORTS.values(), ids=SUPPORTS.keys())
def test_the_density_integrates_to_one(base):
    """Integrate by the trapezoid rule, which is exact to rounding for what is so smooth."""
    family, _, moved = bent(base, 2, n=3, amount=1.0)
    q = family(moved)
    onto = td.biject_to(q.support)
    grid = torch.linspace(-20, 20, 20_001, dtype=torch.float64)[:, None, None].expand(-1, 3, 1)
    z = onto(grid)
    log_q = q.log_prob(z) + onto.log_abs_det_jacobian(grid, z).reshape(20_001, 3)
    total = torch.trapezoid(log_q.exp(), grid[:, 0, 0], dim=0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-6, atol=1e-6)


def test_each_datum_has_weights_of_its_own():
    family, _, moved = bent(normal, 6)
    z = family(moved).rsample()
    changed = moved.clone()
    changed[2] += 0.5
    before, after = family(moved).log_prob(z.clone()), family(changed).log_prob(z.clone())
    assert (before == after).tolist() == [True, True, False, True]


def test_any_two_dimensions_come_to_depend_on_each_other():
    """Six couplings go through the three binary digits of six dimensions, in both roles."""
    family, _, moved = bent(normal, 12, n=1, transforms=6)
    y = torch.zeros(6, dtype=torch.float64)

    def forward(y):
        for transform in family(moved).transforms:
            y = transform(y)
        return y

    jacobian = torch.autograd.functional.jacobian(lambda v: forward(v[None])[0], y)
    assert (jacobian.abs() > 1e-12).all()


def test_one_dimension_is_bent_by_every_coupling():
    family, start, _ = bent(normal, 2, n=1, transforms=3, hidden=2)
    # Two numbers of the base, place and spread, then 2 biases and 4 (2 + 1) weights each.
    assert start.shape == (1, 2 + 2 + 3 * (2 + 12))
    z = torch.ones(1, 1, dtype=torch.float64)
    for coupling in range(3):
        moved = start.clone()
        moved[0, 4 + 14 * coupling + 2 :][:12] += 0.5
        assert (family(moved).log_prob(z) - family(start).log_prob(z)).abs() > 1e-3


@pytest.mark.parametrize("options", [{"transforms": 0}, {"hidden": 0}])
def test_bad_sizes_are_refused(options):
    with pytest.raises(ValueError, match="at least one transform and one hidden unit; got"):
        PerDatumFlow(**options)


def test_what_no_real_vector_maps_onto_is_refused():
    def sphere(h):
        return PowerSpherical(torch.nn.functional.normalize(h, dim=-1), torch.ones(len(h)))

    with pytest.raises(ValueError, match="a bijection from real vectors.*; got a PowerSpherical"):
        PerDatumFlow().around(sphere, torch.randn(2, 3))


def test_a_posterior_of_no_width_does_not_divide_by_zero():
    family, start = PerDatumFlow().around(
        lambda h: dist.Normal(h, 1e-30).to_event(1), torch.zeros(2, 3)
    )
    assert family(start).rsample().isfinite().all()


def test_two_modes_are_within_reach_of_one_dimension():
    """Ascend to a density with a mode at each side: the KL falls to under a tenth of ln 2."""

    def target():
        return td.MixtureSameFamily(
            td.Categorical(torch.tensor([0.5, 0.5], dtype=torch.float64)),
            td.Normal(torch.tensor([-2.0, 2.0], dtype=torch.float64), 0.7),
        )

    family, start = PerDatumFlow().around(normal, torch.zeros(1, 2, dtype=torch.float64) + 0.7)
    parameters = start.requires_grad_()
    optimizer = torch.optim.Adam([parameters], 0.05)
    for _ in range(400):
        q = family(parameters).expand((256, 1))
        z = q.rsample()
        loss = (q.log_prob(z) - target().log_prob(z.squeeze(-1))).mean()
        (parameters.grad,) = torch.autograd.grad(loss, parameters)
        optimizer.step()
    assert loss < 0.1 * math.log(2)


def test_a_coupling_stays_within_its_limit():
    coupling = _Coupling(2, 0, 4)
    weights = coupling.weights(torch.zeros(3, 1))
    _, *others = coupling.bend(weights + 50.0)._numbers(torch.randn(3, 2))
    assert all((other.abs() <= LIMIT).all() for other in others)
