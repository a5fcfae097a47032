"""States that are integrated out, held against one multivariate normal of the whole sequence."""

import pytest
import torch
from state_space import masked

from pyrovae.distributions import LinearStates, LinearStep

STATES, WIDTH, LENGTH = 2, 3, 4
FIRST = torch.tensor([0.7, -0.4], dtype=torch.float64)


def parameters(*lead, width=WIDTH, seed=0):
    """Return parameters that differ at every step, [*lead, *event]."""
    generator = torch.Generator().manual_seed(seed)
    shapes = LinearStep.shapes(STATES, width)
    found = {
        name: torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    for name in ("drift_scale", "scale"):
        found[name] = 0.2 + found[name].abs()
    return LinearStep(**found)


def of(steps, mask, first=FIRST):
    """Return the distribution whose parameters are these, whatever the latents."""
    z = first.new_zeros(*steps.drift.shape[:-1], 1)
    return LinearStates(lambda z: steps, z, mask, first=first)


def dense(steps, length):
    """Return the normal of x_1:length as one vector, of parameters [T, *event]."""
    a, b, q, c, d, r = steps
    mean, root, means, rows = FIRST, torch.zeros(STATES, LENGTH * STATES).double(), [], []
    for t in range(length):
        mean, root = a[t] @ mean + b[t], a[t] @ root
        root[:, STATES * t : STATES * (t + 1)] += q[t].diag()
        means.append(c[t] @ mean + d[t])
        rows.append(c[t] @ root)
    rows, noise = torch.cat(rows), torch.cat([r[t] for t in range(length)])
    return torch.distributions.MultivariateNormal(
        torch.cat(means), rows @ rows.T + (noise**2).diag()
    )


@pytest.mark.parametrize("width", [1, 3])
def test_the_density_is_that_of_one_normal_of_all_steps(width):
    mask = masked(4, 2, 1)
    steps = parameters(5, 3, LENGTH, width=width)
    x = torch.randn(3, LENGTH, width, generator=torch.Generator().manual_seed(1)).double()
    found = of(steps, mask).log_prob(x)
    for k in range(5):
        for n, length in enumerate(mask.sum(1).tolist()):
            normal = dense(LinearStep(*(each[k, n] for each in steps)), length)
            torch.testing.assert_close(found[k, n], normal.log_prob(x[n, :length].flatten()))


def test_draws_have_the_moments_of_that_normal():
    steps, number = parameters(LENGTH), 40_000
    own, truth = of(steps, masked(LENGTH)[0]), dense(steps, LENGTH)
    torch.manual_seed(0)
    x = own.sample((number,))
    assert x.shape == (number, LENGTH, WIDTH)
    torch.testing.assert_close(own.mean.flatten(), truth.mean)
    centred = x.flatten(1) - truth.mean
    variance = truth.covariance_matrix.diag()
    assert (centred.mean(0).abs() < 4 * (variance / number).sqrt()).all()
    apart = centred.T @ centred / number - truth.covariance_matrix
    scale = (variance[:, None] * variance).sqrt()
    assert (apart.abs() < 5 * scale * (2 / number) ** 0.5).all()


def test_draws_step_by_step_are_those_of_the_whole():
    """As a forecast draws them, with the belief after each x."""
    steps, number = parameters(LENGTH, seed=3), 40_000
    own, truth = of(steps, masked(LENGTH)[0]), dense(steps, LENGTH)
    belief = tuple(each.expand(number, *each.shape) for each in own.start)
    torch.manual_seed(0)
    found = []
    for t in range(LENGTH):
        own.dynamics = lambda z, t=t: LinearStep(*(each[t] for each in steps))
        x, belief = own.draw_step(t, torch.zeros(number, 1), belief)
        found.append(x)
    centred = torch.cat(found, -1) - truth.mean
    variance = truth.covariance_matrix.diag()
    assert (centred.mean(0).abs() < 4 * (variance / number).sqrt()).all()
    apart = centred.T @ centred / number - truth.covariance_matrix
    scale = (variance[:, None] * variance).sqrt()
    assert (apart.abs() < 5 * scale * (2 / number) ** 0.5).all()


@pytest.mark.parametrize("width", [1, 3])
def test_the_gradient_is_that_of_finite_differences(width):
    steps = [each.requires_grad_() for each in parameters(3, width=width)]
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(1)).double()
    mask, first = masked(3)[0], FIRST.clone().requires_grad_()

    def score(first, *steps):
        return of(LinearStep(*steps), mask, first).log_prob(x)

    assert torch.autograd.gradcheck(score, (first, *steps))


def test_single_precision_is_enough_where_sensors_are_many_and_exact():
    """The least eigenvalue r^2 of the covariance of x is lost in float32, but not in its root."""
    length, r = 30, 1e-4
    steps = LinearStep(*(each[0].expand(length, *each[0].shape) for each in parameters(1)))
    steps = steps._replace(
        transition=0.9 * steps.transition / torch.linalg.matrix_norm(steps.transition[0], 2),
        scale=torch.full_like(steps.scale, r),
    )
    mask = masked(length)[0]
    torch.manual_seed(0)
    x = of(steps, mask).sample()
    single = LinearStep(*(each.float().requires_grad_() for each in steps))
    p = single.emission[0] @ single.drift_scale[0].square().diag() @ single.emission[0].T
    least = torch.linalg.eigvalsh(p + r**2 * torch.eye(WIDTH))[0]
    assert abs(least.item() - r**2) > r**2
    found = of(single, mask, FIRST.float()).log_prob(x.float())
    # Each x, of |x| < 20, is rounded by 20 / 2^25, so each of T X whitened residuals, that are
    # below 4, by that over r.
    residuals = length * WIDTH * 4 * (20 / 2**25 / r)
    assert x.abs().max() < 20
    assert abs(found.item() - of(steps, mask).log_prob(x).item()) < residuals
    found.backward()
    assert all(each.grad.isfinite().all() for each in single)


@pytest.mark.parametrize("value", [0.0, 1e6])
def test_padding_of_x_and_z_moves_nothing(value):
    mask, x = masked(4, 2), torch.randn(2, LENGTH, WIDTH).double()
    steps = parameters(2, LENGTH)
    found = of(steps, mask).log_prob(x)
    x[1, 2:] = value
    for each in steps[:3]:
        each[1, 2:] = 0.5
    assert torch.equal(of(steps, mask).log_prob(x), found)
    assert of(steps, mask).observed().sum((-2, -1)).tolist() == [12, 6]
    wider = of(steps, mask).expand((4, 2))
    assert wider.sample().shape == (4, 2, LENGTH, WIDTH)
    assert torch.equal(wider.log_prob(x), found.expand(4, 2))


@pytest.mark.parametrize("name", LinearStep.shapes(1, 1))
def test_parameters_that_do_not_fit_are_refused(name):
    steps, mask = parameters(2, LENGTH), masked(4, 2)
    wrong = torch.cat([getattr(steps, name)] * 2, -1)
    where = "transition|drift|scale|emission" if name == "offset" else name
    with pytest.raises(
        ValueError, match=rf"LinearStates has 2 states .* ({where}) needs the shape"
    ):
        of(steps._replace(**{name: wrong}), mask)


def test_x_of_another_width_is_refused():
    steps, mask = parameters(2, LENGTH, width=1), masked(4, 2)
    with pytest.raises(ValueError, match=r"expected x of width 1; got \(2, 3\)"):
        of(steps, mask).log_prob(torch.zeros(2, LENGTH, 3).double())
