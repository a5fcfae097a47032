"""A table with gaps from end to end, against worlds whose evidence and answers are known."""

import numpy as np
import pandas
import polars
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.data import Table
from pyrovae.likelihoods import Columns, Masked, Normal
from pyrovae.nets import unconstrained

ROWS = 40


class Affine(nn.Module):
    """Means W z + m of standardized columns, and the constant scales of their noise."""

    def __init__(self, weight, mean, noise):
        super().__init__()
        self.weight, self.mean, self.raw = weight, mean, unconstrained(noise)

    def forward(self, z):
        loc = z @ self.weight.T + self.mean
        return torch.cat([loc, self.raw.expand_as(loc)], -1)


class World:
    """Probabilistic PCA of a frame's values with gaps, as the table standardizes them."""

    def __init__(self):
        self.world = LinearGaussian(latents=2, width=4)
        torch.manual_seed(0)
        self.values = self.world.sample(ROWS)
        self.seen = torch.rand(ROWS, 4) < 0.7
        self.seen[:2] = torch.tensor([[True] * 4, [False, True, False, True]])
        filled = torch.where(self.seen, self.values, torch.nan).numpy()
        self.frame = polars.DataFrame(filled, schema=["a", "b", "c", "d"])
        self.table = Table.of(self.frame)
        columns = self.table.columns
        loc = torch.tensor([column.loc for column in columns], dtype=torch.float64)
        self.scale = torch.tensor([column.scale for column in columns], dtype=torch.float64)
        self.weight = self.world.weight / self.scale[:, None]
        self.mean = (self.world.mean - loc) / self.scale
        self.noise = self.world.noise / self.scale
        net = Affine(self.weight, self.mean, self.noise)
        likelihood = Masked(Columns([(Normal(net, scale="network"), [0, 1, 2, 3])]))
        self.vae = pv.VAE(lambda _: self.world.prior(), likelihood, self.guide)

    def guide(self, x, mask):
        """Sample the exact posterior given the observed entries, row by row."""
        scaled = mask.double()[:, :, None] * self.weight / self.noise[:, None]
        residual = mask * (x - self.mean) / self.noise
        precision = torch.eye(2, dtype=torch.float64) + scaled.mT @ scaled
        loc = torch.linalg.solve(precision, (scaled * residual[:, :, None]).sum(1))
        return pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))

    def marginal(self, row):
        """Return the mean and covariance of the values, observed ones first."""
        place = torch.cat([self.seen[row].nonzero()[:, 0], (~self.seen[row]).nonzero()[:, 0]])
        normal = self.world.marginal
        return place, normal.mean[place], normal.covariance_matrix[place][:, place]

    def log_evidence(self, row):
        place, mean, covariance = self.marginal(row)
        n = int(self.seen[row].sum())
        if n == 0:
            return 0.0
        normal = torch.distributions.MultivariateNormal(mean[:n], covariance[:n, :n])
        return float(normal.log_prob(self.values[row, place[:n]]))

    def conditional_mean(self, row):
        """Return the values with the mean of each missing one given the observed ones."""
        place, mean, covariance = self.marginal(row)
        n = int(self.seen[row].sum())
        residual = self.values[row, place[:n]] - mean[:n]
        found = self.values[row].clone()
        found[place[n:]] = mean[n:] + covariance[n:, :n] @ torch.linalg.solve(
            covariance[:n, :n], residual
        )
        return found


@pytest.fixture(scope="module")
def world():
    return World()


def test_the_evidence_of_a_frame_with_gaps_is_exact_in_its_own_units(world):
    x, mask = world.table.encode(world.frame, dtype=torch.float64)
    log_w = pv.log_weights(world.vae, x, mask, particles=3) - world.table.log_scales(mask)
    exact = torch.tensor([world.log_evidence(row) for row in range(ROWS)], dtype=torch.float64)
    torch.testing.assert_close(log_w, exact.expand(3, ROWS), rtol=0, atol=1e-9)


def test_missing_numbers_are_the_conditional_mean(world):
    """All weights are equal, so the error of a mean of K draws is known: z-scores of about 50."""
    x, mask = world.table.encode(world.frame, dtype=torch.float64)
    torch.manual_seed(1)
    found = pv.impute(world.vae, x, mask, particles=2000, modes=True)
    torch.testing.assert_close(found.modes, found.x)  # of a number, the mean
    exact = torch.stack([world.conditional_mean(row) for row in range(ROWS)])
    values = torch.tensor(world.table.decode(found.x).to_numpy())
    score = ((values - exact) / (found.standard_error * world.scale))[~mask]
    assert score.abs().max() < 4.5
    assert 0.6 < score.square().mean() < 1.5


def test_a_frame_is_filled_with_what_impute_finds(world):
    x, mask = world.table.encode(world.frame, dtype=torch.float64)
    torch.manual_seed(2)
    found = world.table.decode(pv.impute(world.vae, x, mask, particles=20).x)
    torch.manual_seed(2)
    filled = world.table.fill(world.frame, pv.impute(world.vae, x, mask, particles=20).x)
    assert isinstance(filled, polars.DataFrame)
    filled = torch.tensor(filled.to_numpy())
    assert torch.equal(filled[world.seen], world.values[world.seen])
    expected = torch.tensor(found.to_numpy())[~world.seen]
    torch.testing.assert_close(filled[~world.seen], expected)


def mixed(n, seed=0):
    """A city that decides all else: a height, a count, an answer; with a fifth of it missing."""
    rng = np.random.default_rng(seed)
    city = rng.integers(0, 3, n)
    whole = pandas.DataFrame(
        {
            "city": np.array(["Bern", "Oslo", "Rome"])[city],
            "height": rng.normal(np.array([130.0, 170.0, 210.0])[city], 6),
            "visits": rng.poisson(np.array([1, 8, 40])[city]),
            "member": rng.random(n) < np.array([0.02, 0.5, 0.98])[city],
            "size": pandas.Categorical.from_codes(city, ["S", "M", "L"], ordered=True),
        }
    )
    holes = rng.random(whole.shape) < 0.2
    gaps = whole.astype({"member": object})
    return whole, gaps.mask(pandas.DataFrame(holes, columns=gaps.columns)), holes


@pytest.fixture(scope="module")
def trained():
    _, gaps, _ = mixed(600)
    table = Table.of(gaps)
    with pv.seeded(0):
        vae = pv.table_vae(table, latents=2, hidden=32)
    step = pv.Step(pyro.optim.Adam({"lr": 5e-3}), compile=False)
    history = pv.fit(vae, table.encode(gaps), epochs=20, step=step, callbacks=())
    return table, vae, history


def test_a_table_with_gaps_is_learned_imputed_and_sampled(trained):
    table, vae, history = trained
    assert [column.kind for column in table.columns] == [
        "categorical", "numeric", "count", "binary", "ordinal"
    ]  # fmt: skip
    elbo = history.column("elbo")
    assert elbo[-1] > elbo[0] + 1
    whole, gaps, holes = mixed(400, seed=1)
    torch.manual_seed(3)
    filled = pv.impute_table(vae, table, gaps, particles=100)
    assert not filled.isna().any(axis=None)
    assert (filled.dtypes == gaps.dtypes).all()
    for index, (name, baseline) in enumerate({"city": 0.9, "size": 0.9}.items()):
        hole = holes[:, whole.columns.get_loc(name)]
        right = (filled[name].astype(str) == whole[name].astype(str))[hole].mean()
        assert right > baseline, (index, right)  # a third by chance
    for name, share in {"height": 0.5, "visits": 0.5}.items():
        hole = holes[:, whole.columns.get_loc(name)]
        error = (filled[name].astype(float) - whole[name].astype(float))[hole]
        assert error.std() < share * whole[name].std(), name


def test_samples_have_the_dependence_of_the_data(trained):
    table, vae, _ = trained
    torch.manual_seed(4)
    drawn = table.sample(vae, 600)
    assert len(drawn) == 600
    assert drawn.columns.tolist() == ["city", "height", "visits", "member", "size"]
    means = drawn.groupby("city").height.mean()
    assert means["Bern"] + 20 < means["Oslo"] < means["Rome"] - 20
    rates = drawn.groupby("city").visits.mean()
    assert rates["Bern"] < rates["Oslo"] < rates["Rome"]


def test_values_at_missing_entries_are_never_read(trained):
    table, vae, _ = trained
    _, gaps, _ = mixed(50, seed=2)
    x, mask = table.encode(gaps)
    other = torch.where(mask, x, table.typical(len(x)).flip(0))
    assert (other != x).any()
    scores = []
    for filled in (x, other):
        torch.manual_seed(5)
        scores.append(pv.log_weights(vae, filled, mask, particles=5))
    assert torch.equal(*scores)


def test_an_evaluation_takes_the_frame_and_its_mask(trained):
    table, vae, _ = trained
    x, mask = table.encode(mixed(50, seed=2)[1])
    report = pv.evaluate(vae, (x, mask), particles=20)
    assert (report.elbo.value - table.log_scales(mask)).isfinite().all()


def test_a_run_keeps_the_table(trained, tmp_path):
    table, vae, _ = trained
    run = pv.save(vae, tmp_path / "run", table=table.record)
    again, schema = run.load_vae(), run.table
    assert schema == table
    x, mask = table.encode(mixed(20, seed=2)[1])
    scores = []
    for each in (vae, again):
        torch.manual_seed(6)
        scores.append(pv.log_weights(each, x, mask, particles=2))
    assert torch.equal(*scores)


def test_a_changed_table_is_refused_with_its_run(trained, tmp_path):
    table, vae, _ = trained
    record = table.record
    record["columns"][1]["scale"] *= 2
    run = pv.save(vae, tmp_path / "run", table=record)
    with pytest.raises(ValueError, match="run in .* cannot decode: the record of the table was"):
        _ = run.table


def test_the_most_probable_class_is_that_of_the_weighted_probabilities():
    logits = torch.tensor([[[0.2, 0.5, 0.3]], [[0.6, 0.1, 0.3]]]).log()  # [K, N, C]
    fn = (
        pv.distributions.discretized.Levels(logits[..., None, :])
        .mask(torch.tensor(data=False))
        .to_event(1)
    )
    for weights, best in (((0.9, 0.1), 1), ((0.2, 0.8), 0), ((0.5, 0.5), 0)):
        weighted = torch.tensor(weights).reshape(1, 2, 1)
        found = pv.measure.most_probable.most_probable(fn, weighted, torch.zeros(1, 1))
        assert found.tolist() == [[best]]
