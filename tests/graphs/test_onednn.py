"""Products sent to oneDNN are the products that torch computes."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.graphs import onednn

available = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)


def products(x, weight, bias, y):
    """A layer and the two products of its gradient, transposed views included."""
    return torch.addmm(bias, x, weight.t()), torch.mm(y.t(), x), torch.mm(y, weight)


def recorded(monkeypatch, dtype, *, faster):
    monkeypatch.setattr(onednn, "is_faster", lambda: faster)
    torch.manual_seed(0)
    shapes = ((30, 70), (50, 70), (50,), (30, 50))
    inputs = [torch.randn(shape, dtype=dtype) for shape in shapes]
    graph = make_fx(products, tracing_mode="fake")(*inputs)
    onednn.route_products(graph)
    routed = [n for n in graph.graph.nodes if n.target is torch.ops.pyrovae.linear.default]
    return graph, inputs, len(routed)


@available
def test_routed_products_are_right_to_single_precision(monkeypatch):
    graph, inputs, routed = recorded(monkeypatch, torch.float32, faster=True)
    assert routed == 3
    exact = products(*(tensor.double() for tensor in inputs))
    for met, wanted in zip(graph(*inputs), exact, strict=True):
        # A sum of 70 products of size 1 in float32: some 70 roundings of 6e-8 each.
        torch.testing.assert_close(met.double(), wanted, rtol=0, atol=70 * 6e-8 * 10)


@pytest.mark.parametrize(("dtype", "faster"), [(torch.float64, True), (torch.float32, False)])
def test_products_stay_where_they_are(monkeypatch, dtype, faster):
    graph, inputs, routed = recorded(monkeypatch, dtype, faster=faster)
    assert routed == 0
    for met, wanted in zip(graph(*inputs), products(*inputs), strict=True):
        assert torch.equal(met, wanted)


def test_the_choice_is_measured_once_and_leaves_the_generator_alone(monkeypatch):
    monkeypatch.setattr(onednn, "_decided", [])
    assert onednn.measured() is None
    before = torch.random.get_rng_state()
    chosen = onednn.is_faster()
    assert torch.equal(torch.random.get_rng_state(), before)
    monkeypatch.setattr(onednn, "_measure", lambda: pytest.fail("measured again"))
    assert onednn.is_faster() is onednn.measured() is chosen


def test_the_choice_of_another_process_is_taken(monkeypatch):
    monkeypatch.setattr(onednn, "_decided", [])
    monkeypatch.setattr(onednn, "_measure", lambda: pytest.fail("measured"))
    for chosen in (True, False):
        onednn.choose(chosen)
        assert onednn.is_faster() is chosen


def awkward(bias, x, weight):
    """Products whose operands oneDNN would read wrongly: they stay with torch."""
    return (
        torch.addmm(bias[:1].expand(50), x, weight.t()),
        torch.addmm(bias[::2], x, weight.t()[:, ::2]),
        torch.mm(x[::2, ::2], weight.t()[::2]),
        torch.addmm(bias[:1], x, weight.t()),
        torch.mm(x[:, :0], weight.t()[:0]),
    )


@available
def test_operands_that_are_laid_out_otherwise_are_left_alone(monkeypatch):
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    inputs = [torch.randn(50), torch.randn(30, 70), torch.randn(50, 70)]
    graph = make_fx(awkward, tracing_mode="fake")(*inputs)
    onednn.route_products(graph)
    for met, wanted in zip(graph(*inputs), awkward(*inputs), strict=True):
        torch.testing.assert_close(met, wanted, rtol=1e-4, atol=1e-4)
