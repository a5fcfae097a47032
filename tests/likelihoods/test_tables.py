"""Tables of mixed columns: the sum of their columns, in their places, each in its own domain."""

import json

import pandas
import pyro
import pytest
import scipy.stats
import torch
from cases_counts import SEEN, TABLE, table
from pyro import poutine
from torch import nn
from worlds import random

import pyrovae as pv
from pyrovae import likelihoods, parts
from pyrovae.likelihoods import Categorical, Columns, Normal, Poisson
from pyrovae.nets import MLP, HideMissing
from pyrovae.weights.sites import sample_sites

X = TABLE.double()


def alone(likelihood, z, columns):
    return likelihood.observation(z).log_prob(X[:, columns])


@pytest.mark.parametrize("lead", [(4,), (3, 4)])
def test_the_log_probability_is_the_sum_of_the_columns(lead):
    columns, z = table().double(), random(0, *lead, 2)
    fn = columns.observation(z)
    normal, categorical, poisson = columns.likelihoods
    wanted = alone(normal, z, [3, 0]) + alone(categorical, z, [1]) + alone(poisson, z, [2])
    assert (fn.batch_shape, fn.event_shape) == (lead, (4,))
    torch.testing.assert_close(fn.log_prob(X), wanted, rtol=0, atol=1e-12)


def test_each_column_is_scipys():
    """The groups are out of order: each column must go to its own output of its own network."""
    columns, z = table().double(), random(0, 4, 2)
    normal, categorical, poisson = columns.likelihoods
    loc, scale = normal.net(z).detach(), normal.observation(z).stddev[0, 0].item()
    wanted = (
        scipy.stats.norm.logpdf(TABLE[:, 3], loc[:, 0], scale)
        + scipy.stats.norm.logpdf(TABLE[:, 0], loc[:, 1], scale)
        + scipy.stats.poisson.logpmf(TABLE[:, 2], poisson.net(z).detach().exp()[:, 0])
        + categorical.net(z).detach().log_softmax(-1)[range(4), TABLE[:, 1].long()].numpy()
    )
    found = columns.observation(z).log_prob(X)
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=1e-6)


def test_a_trunk_gives_every_group_its_features_and_takes_the_context():
    groups = [(Normal(MLP(5, 1)), [1]), (Poisson(MLP(5, 1)), [0])]
    columns = Columns(groups, trunk=MLP(2 + 1, 5))
    z, label = torch.randn(4, 2), torch.randn(4, 1)
    fn = columns.observation(z, label)
    features = columns.trunk(z, label)
    torch.testing.assert_close(fn.mean[:, 1:], groups[0][0].net(features))
    torch.testing.assert_close(fn.mean[:, :1], groups[1][0].net(features).exp())


def test_draws_and_means_stand_in_the_places_of_their_columns():
    """Means far apart, so that no column passes for another; within 4.5 standard errors."""
    levels = torch.tensor([[-100.0, -100.0], [0.0, 0.0], [4.0, 4.0]])  # class 2 of 0, 1, 2
    groups = [
        (Normal(Constant([1000.0, -1000.0]), scale=1.0), [4, 0]),
        (Categorical(Constant(levels.flatten().tolist()), classes=3), [1, 3]),
        (Poisson(Constant([3.0])), [2]),
    ]
    fn = Columns(groups).observation(torch.zeros(10_000, 2))
    p = torch.tensor([0.0, 4.0]).softmax(0)
    level, spread = 1 + p[1], (p[0] * p[1]).sqrt()
    mean = torch.tensor([-1000.0, level, torch.e**3, level, 1000.0])
    torch.testing.assert_close(fn.mean, mean.expand(10_000, 5), rtol=1e-5, atol=1e-5)
    drawn = fn.sample()
    error = torch.tensor([1.0, spread, torch.e**1.5, spread, 1.0]) / 100
    assert ((drawn.mean(0) - mean).abs() < 4.5 * error).all()
    assert drawn.dtype == torch.float32


class Constant(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.register_buffer("output", torch.tensor(output))

    def forward(self, z, *context):
        return self.output.expand(*z.shape[:-1], -1)


def test_a_vae_decodes_reconstructs_samples_and_bounds_a_table_through_one_site():
    vae = table_vae(table())
    with poutine.trace() as tape:
        vae.model(TABLE)
    assert [name for name, _ in sample_sites(tape.trace)] == ["z", "x"]
    assert vae.decode(torch.zeros(5, 2)).mean.shape == (5, 4)
    assert vae.reconstruct(TABLE).shape == (4, 4)
    pv.data.check_domain(vae.sample(50), vae.likelihood.domain, "Columns")
    terms = pv.log_weight_terms(vae, TABLE, particles=3)
    assert list(terms.likelihood) == ["x"]
    svi = pyro.infer.SVI(
        vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO()
    )
    assert svi.step(TABLE) > 0


def table_vae(likelihood, encoder=None):
    guide = pv.guides.MeanFieldNormal(encoder or MLP(4, 4))
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)


def test_a_table_is_made_again_from_its_record():
    columns = table(trunk=True)
    again = parts.build(json.loads(json.dumps(columns.config)))
    again.load_state_dict(columns.state_dict(), strict=True)
    z = torch.randn(4, 2)
    torch.testing.assert_close(
        again.observation(z).log_prob(TABLE), columns.observation(z).log_prob(TABLE)
    )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (1, 3.0, "column 1 takes values that are whole numbers from 0 to 2; got 3 at row 2"),
        (1, 0.5, "column 1 takes .* got 0.5 at row 2"),
        (2, -1.0, "column 2 takes values that are counts .* got -1 at row 2"),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_value_out_of_range_is_refused_with_its_column(column, value, message, masked):
    x = TABLE.clone()
    x[2, column] = value
    vae, context = table_vae(table()), ()
    if masked:
        vae = table_vae(likelihoods.Masked(table()), HideMissing(MLP(4, 4)))
        context = (SEEN,)
    with pytest.raises(ValueError, match=f"{type(vae.likelihood).__name__} at {message}"):
        pv.fit(vae, (x, *context), epochs=1)


@pytest.mark.parametrize("width", [3, 5])
def test_data_of_another_width_are_refused(width):
    vae = table_vae(table(), MLP(width, 4))
    x = torch.zeros(4, width)
    with pytest.raises(ValueError, match=rf"event shape \(4,\).*\(4, {width}\)"):
        pv.log_weights(vae, x, particles=2)
    with pytest.raises(ValueError, match=rf"table has 4 columns; got .*\(4, {width}\)"):
        table().observation(torch.zeros(4, 2)).log_prob(x)


NORMAL = Normal(MLP(2, 2))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([(NORMAL, [0, 2])], r"once; got \[0, 2\], where \[1\] are missing and \[\]"),
        ([(NORMAL, [0, 1]), (NORMAL, [1])], r"\[\] are missing and \[1\] are repeated"),
        ([(NORMAL, [-1, 0])], r"got \[-1, 0\]"),
        ([], r"contain each column 0, 1, ... exactly once; got \[\]"),
        ([(MLP(2, 2), [0, 1])], r"a group is a pair of a likelihood .*got MLP"),
        ([(table(), [0, 1, 2, 3])], r"a group is a pair of a likelihood .*got Columns"),
        ([(NORMAL, 0)], r"Normal takes a list of columns, such as \[0, 1\]; got 0"),
    ],
)
def test_groups_that_are_no_partition_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        Columns(groups)


def test_a_network_that_gives_another_number_of_columns_is_refused():
    columns = Columns([(NORMAL, [0, 1, 2])])
    with pytest.raises(ValueError, match=r"Normal of the columns \[0, 1, 2\].*\(2,\).*\(3,\)"):
        columns.observation(torch.zeros(4, 2))


def test_the_likelihood_of_a_table_starts_at_the_distribution_of_each_column():
    """With the heads' weights at 0, what remains are the biases."""
    size = pandas.Categorical(["S", "M", "S", "L"] * 25, categories=["S", "M", "L"], ordered=True)
    frame = pandas.DataFrame(
        {
            "height": [1.5, 1.6, 1.7, 2.0] * 25,
            "visits": [0, 3, 400, 1] * 25,
            "member": [True, False, False, False] * 25,
            "city": ["Bern", "Rome", "Oslo", "Rome"] * 25,
            "size": size,
        }
    )
    columns = Columns.of(pv.data.Table.of(frame), 2, hidden=[8, 5])
    assert columns.trunk.sizes == (2, 8, 5)
    for likelihood in columns.likelihoods:
        torch.nn.init.zeros_(likelihood.net.layers[-1].weight)
    fn = columns.observation(torch.zeros(1, 2))
    parts = dict(zip((tuple(c) for c in columns.columns), fn.parts, strict=True))
    assert parts[0,].mean.abs().item() < 1e-6
    assert abs(parts[1,].mean.item() / 101 - 1) < 0.01
    assert abs(parts[2,].mean.item() - 0.25) < 0.01
    classes = parts[3,].base_dist.logits.softmax(-1).flatten()
    torch.testing.assert_close(classes, torch.tensor([0.25, 0.25, 0.5]), rtol=0, atol=0.01)
    assert abs(parts[4,].mean.item() - 0.75) < 0.2  # a rounded logistic has a skewed mean
