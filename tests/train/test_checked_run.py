"""A graph that differs from an eager step by its rounding alone is kept; any other is dropped."""

import ctypes
import warnings

import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrovae as pv
from pyrovae.train.svi import ROUNDED, SVI

X = torch.bernoulli(torch.full((6, 8), 0.4), generator=torch.Generator().manual_seed(0))


class Normalized(nn.Module):
    """A guide's network with statistics, which each step moves."""

    def __init__(self):
        super().__init__()
        first = nn.Linear(8, 5, bias=False)  # whose gradient would be rounding alone
        self.layers = nn.Sequential(first, nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))

    def forward(self, x):
        return self.layers(x)


def perceptron():
    return pv.nets.MLP(8, 5, 2 * 2)


def made(net=perceptron):
    torch.manual_seed(0)
    guide = pv.guides.MeanFieldNormal(net())
    likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(2, 5, 8))
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)


def steps(kind, vae, number):
    svi = kind(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
    torch.manual_seed(1)
    return svi, [svi.step(X) for _ in range(number)]


@pytest.fixture
def moved(monkeypatch):
    """Move one entry of the first gradient by a tenth at the given runs of a compiled graph."""

    def at(runs):
        calls = iter(range(-1, 1000))  # the first call compiles

        def compiled(graph, **options):
            def run(*tensors):
                loss, grads = graph(*tensors)
                if next(calls) in runs:
                    grads[0].flatten()[0] += 0.1 * grads[0].abs().max()
                return loss, grads

            return run

        monkeypatch.setattr(torch, "compile", compiled)

    return at


@pytest.mark.parametrize("net", [perceptron, Normalized])
def test_a_gradient_that_rounding_moves_once_is_that_of_the_eager_step(moved, net):
    """Run 3 is the fourth, which is checked; so is the fifth after it, which agrees."""
    moved({3})
    vae, wanted = (made(net) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svi, losses = steps(SVI, vae, 12)
    _, wanted_losses = steps(pyro.infer.SVI, wanted, 12)
    assert svi.compiled
    assert svi.graphs[0].rounded == 0
    assert losses == pytest.approx(wanted_losses, rel=1e-5)
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(vae.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_gradients_that_compiling_moves_at_every_step_end_it(moved):
    moved(set(range(1000)))
    vae, wanted = made(), made()
    with pytest.warns(UserWarning, match=f"at {ROUNDED} steps in a row, compiling changes the"):
        svi, losses = steps(SVI, vae, 8)
    assert not svi.compiled
    _, wanted_losses = steps(pyro.infer.SVI, wanted, 8)
    assert losses == pytest.approx(wanted_losses, rel=1e-5)  # the checked steps were eager
    for one, other in zip(vae.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_recorded_operations_one_by_one_are_the_eager_step_bit_for_bit(interpreted):
    """Otherwise a rounding could not be told from another program."""
    vae = made(Normalized)
    svi, _ = steps(SVI, vae, 3)
    (graph,) = svi.graphs
    x = X.clone()
    torch.manual_seed(5)
    found, grads = graph.run.on(graph.run.placed([x]), compiled=False)
    torch.manual_seed(5)
    loss = TraceMeanField_ELBO().differentiable_loss(vae.model, vae.guide, x)
    wanted = torch.autograd.grad(loss, graph.trained)
    assert float(found) == loss.item()
    assert all(torch.equal(one, other) for one, other in zip(grads, wanted, strict=True))


def test_a_check_that_drops_a_graph_leaves_the_statistics_of_the_eager_step(interpreted):
    """Memory of C's is out of every guard's sight; batch normalization keeps what it scales."""
    hidden = ctypes.c_double(1.0)

    class Scaled(Normalized):
        def forward(self, x):
            return super().forward(x * hidden.value)

    found = []
    for kind in (SVI, pyro.infer.SVI):
        vae, hidden.value = made(Scaled), 1.0
        svi = kind(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
        torch.manual_seed(1)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for i in range(5):  # the last runs the graph a fourth time, which is checked
                hidden.value = 1.0 if i < 4 else 3.0
                svi.step(X)
        found.append((vae.state_dict(), [str(each.message) for each in said]))
    (state, said), (wanted, _) = found
    assert any("a value changes that no guard sees" in sentence for sentence in said)
    for name, value in wanted.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)
