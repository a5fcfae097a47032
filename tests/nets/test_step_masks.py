"""A mask with padding before a step would leave out a latent on which others depend."""

import re

import pyro
import pytest
import torch

import pyrovae as pv
from pyrovae.nets import MLP, BackwardGRU
from pyrovae.nets.sequences import step_inputs

X = torch.zeros(2, 3, 5)
PARTS = {
    "Markov": lambda: pv.priors.Markov(MLP(2, 4, 2 * 2), 2),
    "Combiner": lambda: pv.guides.Combiner(BackwardGRU(5, 4), MLP(6, 4, 4), 2),
    "EachStep": lambda: pv.likelihoods.EachStep(pv.likelihoods.Bernoulli(MLP(2, 4, 5))),
}
OWNERS = {
    "Markov": lambda mask: PARTS["Markov"]()(mask),
    "Combiner": lambda mask: PARTS["Combiner"]()(X, mask),
    "EachStep": lambda mask: PARTS["EachStep"]()(torch.zeros(2, 3, 2), X, mask),
    "Autoregressive": lambda mask: pv.likelihoods.Autoregressive(
        pv.nets.CausalGRU(torch.nn.Identity(), 5, 2, 4), pv.likelihoods.Bernoulli(MLP(4, 4, 5))
    )(torch.zeros(2, 2), X, mask),
}


def called(owner, rows):
    with pyro.plate("data", 2):
        return OWNERS[owner](torch.tensor(rows, dtype=torch.bool))


@pytest.mark.parametrize("owner", OWNERS)
def test_steps_stand_before_padding(owner):
    called(owner, [[1, 1, 0], [1, 1, 1]])
    with pytest.raises(ValueError, match=rf"{owner} takes .* got the mask \[1, 0, 1\]. Move"):
        called(owner, [[1, 1, 0], [1, 0, 1]])
    with pytest.raises(ValueError, match=r"one or more steps .* got the mask \[0, 0, 0\]"):
        called(owner, [[1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("owner", OWNERS)
def test_a_mask_of_floats_is_refused(owner):
    with pyro.plate("data", 2), pytest.raises(ValueError, match=r"got \(2, 3\) of torch.float32"):
        OWNERS[owner](torch.ones(2, 3))


@pytest.mark.parametrize("shape", [(2,), (2, 4, 1), (3, 3, 1), (3, 1), (2, 3, 1, 1), ()])
@pytest.mark.parametrize("owner", ["Markov", "Combiner", "EachStep"])
def test_covariates_are_of_steps_or_of_sequences(owner, shape):
    part, mask = PARTS[owner](), torch.ones(2, 3, dtype=torch.bool)
    first = {"Markov": (), "Combiner": (X,), "EachStep": (torch.zeros(2, 3, 2), X)}[owner]
    message = rf"{owner} takes covariates .* got {re.escape(str(shape))} beside the mask \(2, 3\)"
    with pyro.plate("data", 2), pytest.raises(ValueError, match=message):
        part(*first, torch.zeros(shape), mask)


def test_the_number_of_axes_tells_what_a_covariate_is_of():
    """Also where there are as many covariates as steps."""
    mask = torch.ones(2, 3, dtype=torch.bool)
    whole, each = torch.arange(6.0).reshape(2, 3), torch.randn(2, 3, 1)
    joined = step_inputs((whole, each, mask), "Markov")[1]
    assert torch.equal(joined, torch.cat([whole.unsqueeze(1).expand(2, 3, 3), each], -1))
    assert torch.equal(step_inputs((whole, mask), "Markov")[1], whole.unsqueeze(1))
    shared = step_inputs((each[:1], mask), "Markov")[1]
    assert torch.equal(shared, each[:1])
    assert step_inputs((mask,), "Markov")[1] is None


def test_a_backward_reader_reads_the_covariates_from_its_step_on():
    torch.manual_seed(0)
    reader, mask = BackwardGRU(5 + 2, 4), torch.tensor([[True] * 3, [True, True, False]])
    c = torch.randn(2, 3, 2, requires_grad=True)
    read = reader(X, c, mask)
    for t in range(3):
        (slope,) = torch.autograd.grad(read[:, t].sum(), c, retain_graph=True)
        reached = slope.abs().sum(-1) > 0
        assert reached.tolist()[0] == [s >= t for s in range(3)]
        if t < 2:
            assert reached.tolist()[1] == [t <= s < 2 for s in range(3)]


def test_one_mask_of_all_sequences_reads_each_of_them():
    reader, x = BackwardGRU(5, 4), torch.randn(2, 3, 5)
    one = torch.tensor([[True, True, False]])
    assert torch.equal(reader(x, one), reader(x, one.expand(2, 3)))
    c = torch.randn(2, 1)
    beside = BackwardGRU(5 + 1, 4)
    assert torch.equal(beside(x[:1], c, one), beside(x[:1].expand(2, 3, 5), c, one.expand(2, 3)))


@pytest.mark.parametrize(
    ("x", "mask"),
    [((2, 3, 5), shape) for shape in [(2, 2), (2, 4), (3, 3), (1, 2)]] + [((2, 3), (2, 3))],
)
def test_a_backward_reader_refuses_the_mask_of_other_sequences(x, mask):
    message = re.escape(f"[N, T, ...] and the mask of their steps [N, T]; got {x} beside the mask")
    with pytest.raises(ValueError, match=rf"{message} {re.escape(str(mask))}. One number"):
        BackwardGRU(5, 4)(torch.zeros(x), torch.ones(mask, dtype=torch.bool))


@pytest.mark.parametrize(
    "part",
    [
        pv.priors.Markov(MLP(2, 2), 2),
        pv.guides.Combiner(BackwardGRU(5, 4), MLP(6, 2), 2),
    ],
    ids=["Markov", "Combiner"],
)
def test_a_network_that_forgot_the_scales_is_refused(part):
    given = (X,) if isinstance(part, pv.guides.Combiner) else ()
    with pyro.plate("data", 2), pytest.raises(ValueError, match="with 4 outputs.*got 2"):
        part(*given, torch.ones(2, 3, dtype=torch.bool))


def test_a_combiner_has_latents():
    with pytest.raises(ValueError, match="at least one latent dimension; got 0"):
        pv.guides.Combiner(BackwardGRU(5, 4), MLP(6, 4), 0)
