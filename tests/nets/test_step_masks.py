"""A mask with padding before a step would leave out a latent on which others depend."""

import pyro
import pytest
import torch

import pyrovae as pv
from pyrovae.nets import MLP, BackwardGRU

X = torch.zeros(2, 3, 5)
OWNERS = {
    "Markov": lambda mask: pv.priors.Markov(MLP(2, 4, 2 * 2), 2)(mask),
    "Combiner": lambda mask: pv.guides.Combiner(BackwardGRU(5, 4), MLP(6, 4, 4), 2)(X, mask),
    "EachStep": lambda mask: pv.likelihoods.EachStep(pv.likelihoods.Bernoulli(MLP(2, 4, 5)))(
        torch.zeros(2, 3, 2), X, mask
    ),
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
