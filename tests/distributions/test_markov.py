"""Markov chains: their density is a product over steps, their draws have its moments."""

import pyro.distributions as dist
import torch
from state_space import ZERO, A, C, Q, R, masked, observed, transition

from pyrovae.distributions import EachStep, MarkovChain


def test_the_density_is_the_product_over_steps():
    mask = masked(4, 2, 1)
    z = torch.randn(5, 3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = MarkovChain(transition, ZERO, mask).log_prob(z)
    wanted = torch.zeros(5, 3, dtype=torch.float64)
    for n in range(3):
        before = ZERO
        for t in range(int(mask[n].sum())):
            step = torch.distributions.Normal(z[:, n, t - 1] @ A.T if t else before @ A.T, Q)
            wanted[:, n] += step.log_prob(z[:, n, t]).sum(-1)
    torch.testing.assert_close(found, wanted)


def test_draws_have_the_covariance_of_the_chain():
    number = 40_000
    chain = MarkovChain(transition, ZERO, masked(3)[0])
    torch.manual_seed(0)
    z = chain.rsample((number,))
    assert z.shape == (number, 3, 2)
    one = (Q**2).diag()
    two = A @ one @ A.T + one
    wanted = {(0, 0): one, (1, 0): A @ one, (1, 1): two, (2, 1): A @ two}
    for (i, j), covariance in wanted.items():
        found = z[:, i].T @ z[:, j] / number
        scale = (z[:, i].square().mean(0)[:, None] * z[:, j].square().mean(0)).sqrt()
        assert ((found - covariance).abs() < 5 * scale * (2 / number) ** 0.5).all(), (i, j)


def test_observations_count_each_step_once():
    mask = masked(3, 2)
    z = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    each = torch.distributions.Normal(z @ C.T, R).log_prob(x).sum(-1)
    found = EachStep(observed, z, mask)
    torch.testing.assert_close(found.log_prob(x), torch.stack([each[0].sum(), each[1, :2].sum()]))
    torch.testing.assert_close(found.mean, z @ C.T)
    assert found.event_shape == (3, 3)
    assert isinstance(found.expand((4, 2)), EachStep)
    assert found.expand((4, 2)).sample().shape == (4, 2, 3, 3)


def test_steps_that_are_not_reparameterized_are_drawn():
    def coins(before, inputs):
        return dist.Bernoulli(probs=0.25 + 0.5 * before).to_event(1)

    chain = MarkovChain(coins, torch.zeros(1), masked(2)[0])
    assert not chain.has_rsample
    torch.manual_seed(0)
    z = chain.sample((20_000,))
    share = z.mean(0).flatten()
    # One in four, then 1/4 + 1/2 * 1/4.
    wanted = torch.tensor([0.25, 0.375])
    assert ((share - wanted).abs() < 4 * (wanted * (1 - wanted) / 20_000).sqrt()).all()


def test_entries_of_padding_are_not_counted():
    found = EachStep(observed, torch.zeros(2, 3, 2, dtype=torch.float64), masked(3, 1))
    assert found.observed().sum((-2, -1)).tolist() == [9, 3]


def test_steps_may_be_of_any_distribution():
    """A chain of flows is scored as it was drawn, step by step."""
    torch.manual_seed(0)
    flow = dist.transforms.affine_autoregressive(2, hidden_dims=[4])

    def normal(before):
        return dist.Normal(0.5 * before, 1.5).to_event(1)

    def flowed(before, inputs):
        return dist.TransformedDistribution(normal(before), [flow])

    mask = masked(3, 2)
    with torch.no_grad():
        chain = MarkovChain(flowed, torch.zeros(2), mask)
        z = chain.rsample((5,))
        before, scores = torch.zeros(5, 2, 2), []
        for t in range(3):
            u = flow.inv(z[..., t, :])
            jacobian = flow.log_abs_det_jacobian(u, z[..., t, :])
            scores.append(normal(before).log_prob(u) - jacobian)
            before = z[..., t, :]
        wanted = (torch.stack(scores, -1) * mask).sum(-1)
        torch.testing.assert_close(chain.log_prob(z), wanted)
        without = MarkovChain(lambda before, _: normal(before), torch.zeros(2), mask)
        assert (without.log_prob(z) - wanted).abs().min() > 1e-3
