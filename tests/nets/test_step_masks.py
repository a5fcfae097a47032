"""A mask with padding before a step would leave out a latent on which others depend."""

import pyro
import pytest
import torch

import pyrovae as pv
from pyrovae.nets import MLP, BackwardGRU

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


@pytest.mark.parametrize("owner", ["Markov", "Combiner", "EachStep"])
def test_a_context_that_would_be_ignored_is_refused(owner):
    mask, label = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 1)
    part = PARTS[owner]()
    first = {"Markov": (), "Combiner": (X,), "EachStep": (torch.zeros(2, 3, 2), X)}[owner]
    with (
        pyro.plate("data", 2),
        pytest.raises(ValueError, match=f"{owner} takes the mask .* got 1"),
    ):
        part(*first, label, mask)


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
