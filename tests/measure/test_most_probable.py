"""The most probable values, against probabilities that are written down."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import AffineTransform

import pyrovae as pv
from pyrovae.distributions.columns import JointColumns
from pyrovae.distributions.present import Present
from pyrovae.measure.most_probable import most_probable
from pyrovae.nets import MLP, HideMissing
from pyrovae.weights.rows import Folded

# Two particles of three data, with one column; particle 0 counts for 0.3, the other for 0.7.
WEIGHTS = torch.tensor([0.3, 0.7])[None, :, None].expand(1, 2, 3)
MEAN = torch.full((3, 1), 0.25)
CLASSES = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.4, 0.0]])  # mean: 0.42, 0.28, 0.3


def classes():
    """Return the classes of both particles, with batch shape [2, 3, 1]."""
    return dist.Categorical(CLASSES[:, None, None].expand(2, 3, 1, 3))


def rows():
    """Return the same on 2 x 3 rows."""
    return dist.Categorical(CLASSES[:, None].expand(2, 3, 3).reshape(6, 1, 3)).to_event(1)


def mixture():
    """Return (1/2, 0, 1/2) of values 0, 1, 2 for particle 0, and (0.2, 0.2, 0.6) for the other."""
    parts = torch.tensor([[[1.0, 0, 0], [0, 0, 1.0]], [[0.4, 0.4, 0.2], [0, 0, 1.0]]])
    parts = parts[:, None, None].expand(2, 3, 1, 2, 3)
    return dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2, 3, 1, 2)), dist.Categorical(parts)
    )


def inflated():
    """Return P(0) = 0.55 + 0.45 / 1024 and P(5) = 0.45 * 0.246."""
    ones = torch.ones(2, 3, 1)
    return dist.ZeroInflatedDistribution(dist.Binomial(10, 0.5 * ones), gate=0.55 * ones)


def totals():
    """Return binomials of 1, 2 and 30 trials, the modes of which are 1, 2 and 27."""
    trials = torch.tensor([1.0, 2.0, 30.0])[:, None].expand(2, 3, 1)
    return dist.Binomial(trials, torch.full((2, 3, 1), 0.9))


NONE, HALF = torch.zeros(3, dtype=torch.bool), torch.tensor([True, False, True])


@pytest.mark.parametrize(
    ("fn", "wanted"),
    [
        (classes().to_event(1), [0, 0, 0]),
        (classes().mask(HALF[:, None]).to_event(1), [0, 0, 0]),
        (Present(classes().to_event(1), NONE, torch.zeros(1)), [0, 0, 0]),
        (Folded(rows(), 2), [0, 0, 0]),
        (mixture().to_event(1), [2, 2, 2]),
        (inflated().to_event(1), [0, 0, 0]),
        (totals().to_event(1), [1, 2, 27]),
        (dist.Poisson(torch.ones(2, 3, 1)).to_event(1), [0.25] * 3),
        (dist.Normal(torch.ones(2, 3, 1), 1.0).to_event(1), [0.25] * 3),
        (
            dist.TransformedDistribution(
                dist.Bernoulli(torch.ones(2, 3, 1)), [AffineTransform(-1.0, 2.0)]
            ).to_event(1),
            [0.25] * 3,  # its values are -1 and 1, which its support does not say
        ),
    ],
)
def test_the_value_of_the_largest_probability_is_found(fn, wanted):
    found = most_probable(fn, WEIGHTS, MEAN)
    assert found.flatten().tolist() == wanted


def test_the_columns_of_a_table_are_found_on_rows_too():
    place = torch.tensor([0, 1])
    groups = [torch.tensor([0]), torch.tensor([1])]
    counts = dist.Poisson(torch.ones(6, 1)).to_event(1)
    table = Folded(JointColumns([rows(), counts], groups, place), 2)
    found = most_probable(table, WEIGHTS, MEAN.expand(3, 2))
    assert found.tolist() == [[0, 0.25]] * 3


def test_an_ordinal_column_is_imputed_by_its_most_probable_level():
    torch.manual_seed(0)
    net = MLP(1, 3 * 2)  # a logit, a location and a raw scale for each of two columns
    with torch.no_grad():
        net.layers[0].weight.zero_()
        net.layers[0].bias.copy_(torch.tensor([0.0, 0.0, 0.0, -0.4, 2.0, 2.0]))
    likelihood = pv.likelihoods.DiscretizedLogisticMixture(net, components=1, levels=5)
    vae = pv.VAE(
        pv.priors.StandardNormal(1),
        pv.likelihoods.Masked(likelihood),
        pv.guides.MeanFieldNormal(HideMissing(MLP(2, 2))),
    )
    x = torch.tensor([[1.0, math.nan]])
    found = pv.impute(vae, x, ~x.isnan(), particles=50, modes=True)
    # A wide logistic below the middle of the levels: its tails lie on the first and the last.
    assert 1.5 < found.x[0, 1] < 2
    assert found.modes[0, 1] == 0
