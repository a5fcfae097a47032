"""A context that all data share stays whole, also where it has as many rows as there are data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from worlds import data_plate, random

import pyrovae as pv
from pyrovae.measure.findings import NotMeasurable
from pyrovae.weights.given import Given

SCALE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
LABEL = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
X = random(0, 3, 3)


def model(x, scale, label):
    """z ~ N(label of the datum, scale of the dimension), x ~ N(z, 1)."""
    with data_plate(x):
        z = pyro.sample("z", dist.Normal(label[:, None] + 0 * scale, scale).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x, scale, label):
    precision = 1 + scale**-2
    with data_plate(x):
        loc = (x + label[:, None] / scale**2) / precision
        pyro.sample("z", dist.Normal(loc, precision**-0.5).to_event(1))


def log_evidence(x, label):
    return dist.Normal(label[:, None], (1 + SCALE**2).sqrt()).log_prob(x).sum(-1)


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("chunk", [None, 8, 4, 3])
def test_a_chunk_leaves_what_is_shared_whole(rows, chunk):
    """With as many data as dimensions, three, the scale could be taken for a row for each."""
    x, label = X[:rows], LABEL[:rows]
    log_w = pv.log_weights((model, guide), x, SCALE, label, particles=4, chunk=chunk)
    torch.testing.assert_close(log_w, log_evidence(x, label).expand(4, -1))


@pytest.mark.parametrize("classes", [(0, 1), (-1, -2), (8, 9), (0, 0)])
@pytest.mark.parametrize("chunk", [None, 10])
def test_a_table_that_the_data_index_stays_whole(classes, chunk):
    """With as many data as rows, the first two of which have the table's first or last rows."""
    table, x = random(1, 10, 2), random(2, 10, 2)
    index = torch.tensor(classes * 5)

    def model(x, table, index):
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(table[index], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, table, index):
        with data_plate(x):
            pyro.sample("z", dist.Normal((table[index] + x) / 2, 0.5**0.5).to_event(1))

    log_w = pv.log_weights((model, guide), x, table, index, particles=2, chunk=chunk)
    wanted = dist.Normal(table[index], 2**0.5).log_prob(x).sum(-1)
    torch.testing.assert_close(log_w, wanted.expand(2, -1))


@pytest.mark.parametrize("data", [1, 2])
def test_annealing_of_the_first_data_does(data):
    """By the guide, which is exact, every chain has the weight p(x)."""
    ais = pv.AIS(4, particles=3, limit=data, start="guide")
    found = ais((model, guide), X, SCALE, LABEL)
    wanted = log_evidence(X[:data], LABEL[:data])
    torch.testing.assert_close(found.log_w, wanted.expand(3, -1))


def test_imputation_does(monkeypatch):
    """Two data at a time; the observed entries are put back, and z is independent by entry."""
    monkeypatch.setattr("pyrovae.weights.given.NUMBERS_PER_PASS", 2 * 256 * 20_000)
    mask = torch.tensor([[True, True, False], [True, False, True], [False, True, True]])

    def observed(x, scale, label, mask):
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(label[:, None] + 0 * scale, scale).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).mask(mask).to_event(1), obs=x)

    def given(x, scale, label, mask):
        precision = mask + scale**-2
        with data_plate(x):
            loc = (mask * x + label[:, None] / scale**2) / precision
            pyro.sample("z", dist.Normal(loc, precision**-0.5).to_event(1))

    filled = pv.impute((observed, given), X, SCALE, LABEL, mask, particles=20_000)
    wanted = LABEL[:, None].expand(3, 3)
    error = SCALE.expand(3, 3)[~mask] / 20_000**0.5
    assert ((filled.x - wanted)[~mask].abs() < 5 * error).all()


def test_a_tensor_that_no_program_reads_is_cut_with_the_data():
    def indifferent(x, scale, label, unread):
        model(x, scale, label)

    def guided(x, scale, label, unread):
        guide(x, scale, label)

    given = Given(X, (SCALE, LABEL, LABEL), (indifferent, guided))
    parts = list(given.cut(2))
    assert [[len(value) for value in part] for part in parts] == [[2, 3, 2, 2], [1, 3, 1, 1]]
    assert [len(value) for value in given.first(1)] == [1, 3, 1, 1]


def test_looking_draws_nothing():
    torch.manual_seed(0)
    list(Given(X, (SCALE, LABEL), (model, guide)).cut(2))
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


def test_a_diagnostic_of_several_batches_does():
    """Of batches of three data, the scale of three dimensions comes once, the labels joined."""
    seen = []

    class Seen:
        name = "seen"

        def __call__(self, target, x, *context):
            seen.extend([x, *context])
            raise NotMeasurable("seen")

    x, labels = random(1, 6, 3), torch.cat([LABEL, -LABEL])
    batches = [(x[rows], SCALE, labels[rows]) for rows in (slice(3), slice(3, 6))]
    with pytest.warns(UserWarning, match="diagnostic 'seen' was not measured"):
        pv.evaluate((model, guide), batches, particles=2, diagnostics=[Seen()])
    for value, wanted in zip(seen, (x, SCALE, labels), strict=True):
        assert torch.equal(value, wanted)


class Amortized:
    """A guide of a network that ignores the context, in the form that refinement takes."""

    def __init__(self):
        self.layers = pv.nets.MLP(3, 6).double()
        self.distribution = pv.guides.MeanFieldNormal(self.layers).distribution

    def net(self, x, scale, label):
        return self.layers(x)

    def __call__(self, x, scale, label):
        with data_plate(x):
            return pyro.sample("z", self.distribution(self.net(x, scale, label)))


def test_refinement_does():
    """The posterior is in the family: the weights under q* spread by s, and its KL is s^2 / 2."""
    pair, wanted = (model, Amortized()), log_evidence(X, LABEL)
    refined = pv.refine(pair, X, SCALE, LABEL, steps=300)
    log_w = pv.log_weights((model, refined), X, SCALE, LABEL, particles=1000, chunk=1000)
    spread = log_w.std(0).max().item()
    assert spread < 0.1  # the network's own q spreads by several nats
    near = {"rtol": 0.0, "atol": spread**2 + 4 * spread / 1000**0.5}
    torch.testing.assert_close(pv.bounds.iwae(log_w), wanted, **near)
    assert torch.equal(refined.net(X[2:], SCALE, LABEL[2:]), refined.parameters[2:])
    found = pv.Gaps(steps=300, batch_size=2)(pair, X, SCALE, LABEL)
    torch.testing.assert_close(found.refined_elbo.value, wanted, **near)
